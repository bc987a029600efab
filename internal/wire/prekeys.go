package wire

// PreKeys publishes a device's prekeys (spec/ratchet.md#prekeys). The server
// reads none of them.
type PreKeys struct {
	_ struct{} `cbor:",toarray"`
	// Number goes up with each upload of the device, from 1. What comes under a
	// number that is not above all before changes nothing: neither a repeated
	// request nor a lost answer brings back what was handed out since.
	Number   uint64
	Expires  int64    // of what is in here: milliseconds since 1970, UTC
	Identity []byte   // at most 4 KiB, as every element
	Signed   []byte   // with LastResort, or both empty: those before stay
	Last     []byte   // last-resort ML-KEM prekey
	OneTime  [][]byte // at most 100 of each, as many of one as of the other
	KEM      [][]byte // one-time ML-KEM prekeys
}

// PreKeyStock says what the server has of a device's prekeys.
type PreKeyStock struct {
	_       struct{} `cbor:",toarray"`
	Number  uint64   // of the newest upload, 0 for none
	OneTime uint16   // one-time prekeys that nobody has claimed and that live another week
	KEM     uint16
}

// Bundle is what begins a session with a device (spec/ratchet.md#bundle): one
// encoding with package ratchet's.
type Bundle struct {
	_        struct{} `cbor:",toarray"`
	Version  uint8    // 1
	Identity []byte
	Signed   []byte
	OneTime  []byte // empty where the stock is used up
	KEM      []byte // then the last-resort one
}
