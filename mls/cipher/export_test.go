package cipher

// TestOnlyLowOrder lets the tests hold the list against crypto/ecdh.
var TestOnlyLowOrder = lowOrder
