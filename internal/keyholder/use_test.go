package keyholder

import (
	"testing"

	"chancery/codec"
	"chancery/control"
	"chancery/request"
)

// The sizes that spec/opening.md#example states.
func TestSpecExamples(t *testing.T) {
	parts := codec.Encode(&request.Parts{Parts: [][]byte{make([]byte, pointSize), make([]byte, pointSize)}})
	use := codec.Encode(&control.Use{Phase: control.PhaseRecord, Holder: 1, Count: 2})
	if len(parts) != 137 || len(use) != 107 {
		t.Errorf("an answer of two parts has %d bytes, a use %d", len(parts), len(use))
	}
}
