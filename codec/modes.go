package codec

import (
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// Both modes are immutable once built and safe for concurrent use.

var encMode = sync.OnceValue(func() cbor.EncMode {
	opts := cbor.CoreDetEncOptions()
	opts.NilContainers = cbor.NilContainerAsEmpty // nil and empty are one value, so one encoding
	mode, err := opts.EncMode()
	if err != nil {
		panic(err) // constant options
	}
	return mode
})

var decMode = sync.OnceValue(func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		UTF8:              cbor.UTF8RejectInvalid,
		MaxNestedLevels:   16,
		MaxArrayElements:  1 << 20,
		MaxMapPairs:       1 << 16,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	}.DecMode()
	if err != nil {
		panic(err) // constant options
	}
	return mode
})
