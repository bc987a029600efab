package cipher

// TestOnlyLowOrder lets the tests hold the list against crypto/ecdh.
var TestOnlyLowOrder = lowOrder

// TestOnlyVerify is VerifyWithLabel of a message without a label.
func (s *Suite) TestOnlyVerify(public, message, signature []byte) error {
	return s.verify(public, message, signature)
}

// TestOnlyExpand is ExpandWithLabel without a label.
func (s *Suite) TestOnlyExpand(prk, info []byte, length int) []byte {
	return s.expand(prk, info, length)
}
