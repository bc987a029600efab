package mls

var treeVectors []officialVector
