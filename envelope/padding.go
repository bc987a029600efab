package envelope

import (
	"encoding/binary"
	"math/bits"
)

const (
	lengthSize = 4 // of the record's length, inside the padded part

	maxPaddedSize = 2<<20 + 1<<16 // what Padmé makes of lengthSize + MaxRecordSize
)

// padme rounds n > 1 up to the next length whose binary form has all but its
// first few bits zero: log log n bits of length leak and at most 12 % is added
// (Nikitin et al., Reducing Metadata Leakage from Encrypted Files, §5).
func padme(n int) int {
	e := bits.Len(uint(n)) - 1
	s := bits.Len(uint(e))
	mask := 1<<(e-s) - 1
	return (n + mask) &^ mask
}

// isPadded reports whether n is a length that padme makes of a record's.
func isPadded(n int) bool { return n >= lengthSize && n <= maxPaddedSize && padme(n) == n }

// pad returns seed ‖ length ‖ record ‖ zeros (spec/envelope.md#padding).
func pad(seed *Seed, record []byte) []byte {
	n := lengthSize + len(record)
	plain := make([]byte, SeedSize, SeedSize+padme(n)+gcmTagSize)
	copy(plain, seed[:])
	plain = binary.BigEndian.AppendUint32(plain, uint32(len(record)))
	plain = append(plain, record...)
	return plain[:SeedSize+padme(n)]
}

// unpad reads what pad writes and nothing else, so that an envelope has one
// plaintext for each record. It returns copies.
func unpad(plain []byte) (*Seed, []byte, error) {
	if len(plain) < SeedSize+lengthSize {
		return nil, nil, ErrPadding
	}
	padded := plain[SeedSize:]
	size := int64(binary.BigEndian.Uint32(padded))
	if size > MaxRecordSize || size > int64(len(padded)-lengthSize) || padme(lengthSize+int(size)) != len(padded) {
		return nil, nil, ErrPadding
	}
	record, zeros := padded[lengthSize:lengthSize+size], padded[lengthSize+size:]
	for _, z := range zeros {
		if z != 0 {
			return nil, nil, ErrPadding
		}
	}
	seed := Seed(plain[:SeedSize])
	return &seed, append([]byte{}, record...), nil
}
