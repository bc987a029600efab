package control_test

import (
	"encoding/json"
	"errors"
	"regexp"
	"testing"
	"testing/cryptotest"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/orgtest"
	"chancery/internal/published"
)

const safetyFile = "safety-number.json"

type safetyVector struct {
	Description string        `json:"description"`
	A           codec.ID      `json:"a"`
	B           codec.ID      `json:"b"`
	Log         vectors       `json:"log"`
	Numbers     []safetyAtLog `json:"numbers"`
}

// safetyAtLog is the number after so many leaves; empty where there is none.
type safetyAtLog struct {
	Size   int    `json:"size"`
	Number string `json:"number"`
}

func makeSafety(t *testing.T) *safetyVector {
	cryptotest.SetGlobalRandom(t, 3)
	w := newWorld(t, orgtest.Options{Keyholders: 3, Threshold: 2, GenesisOnly: true})
	a := w.NewMember()
	b := w.NewMember()
	second := w.Device(b.Member)
	w.Add(&control.Revocation{Device: b.Hash, Reason: "lost"}, second)
	v := &safetyVector{Description: "Safety numbers of two members (spec/client.md#safety-numbers) as a control log grows.", A: a.Member, B: b.Member}
	v.Log.Organisation = w.ID
	v.Log.take(w)
	state := control.NewState(w.ID)
	for i, l := range w.Leaves {
		must(t, state.Apply(l.Entry, l.Opening))
		number, err := state.SafetyNumber(a.Member, b.Member)
		if err != nil && !errors.Is(err, control.ErrNoDevice) {
			t.Fatal(err)
		}
		v.Numbers = append(v.Numbers, safetyAtLog{i + 1, number})
	}
	return v
}

// TestSafetyNumber: both compute one number, and it changes with the devices of
// either and with nothing else.
func TestSafetyNumber(t *testing.T) {
	published.Update(t, safetyFile, func() []byte {
		made, err := json.MarshalIndent(makeSafety(t), "", "  ")
		must(t, err)
		return append(made, '\n')
	})
	var v safetyVector
	must(t, json.Unmarshal(published.Read(t, safetyFile), &v))
	form := regexp.MustCompile(`^[0-9]{5}( [0-9]{5}){11}$`)
	state := control.NewState(v.Log.Organisation)
	seen := map[string]bool{}
	for i, l := range v.Log.Leaves {
		must(t, state.Apply(l.Entry, nil))
		number, err := state.SafetyNumber(v.A, v.B)
		other, _ := state.SafetyNumber(v.B, v.A)
		if number != v.Numbers[i].Number || number != other || (err == nil) != form.MatchString(number) {
			t.Errorf("at %d leaves: %q and %q, %v; want %q", i+1, number, other, err, v.Numbers[i].Number)
		}
		if number != "" && (l.Kind == control.KindDevice || l.Kind == control.KindRevocation) && seen[number] {
			t.Errorf("at %d leaves: a device came or went, and the number is of before", i+1)
		}
		if number != "" && l.Kind != control.KindDevice && l.Kind != control.KindRevocation && !seen[number] {
			t.Errorf("at %d leaves: a %s changes the number", i+1, l.Kind)
		}
		seen[number] = true
	}
	if len(seen) < 4 {
		t.Errorf("only %d numbers", len(seen))
	}
	if _, err := state.SafetyNumber(v.A, v.A); err == nil {
		t.Error("a number for one")
	}
	if _, err := state.SafetyNumber(v.A, codec.ID{1}); !errors.Is(err, control.ErrNoDevice) {
		t.Errorf("a number with nobody: %v", err)
	}
}
