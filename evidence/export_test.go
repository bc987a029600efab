package evidence

// Kinds lists every kind of evidence.
func Kinds() []Kind {
	return []Kind{KindFork, KindLeaves, KindOtherLog, KindOldLog, KindLeaf, KindKeyPackage}
}
