package delivery

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"chancery/internal/testenv"
)

// application returns the working group's application messages, with their
// group and epoch.
func application(t testing.TB) []struct {
	Group   string `json:"group_id"`
	Epoch   uint64 `json:"epoch"`
	Message string `json:"application_priv"`
} {
	t.Helper()
	data, err := os.ReadFile(testenv.Data(t, "vectors", "mls", "message-protection.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Group   string `json:"group_id"`
		Epoch   uint64 `json:"epoch"`
		Message string `json:"application_priv"`
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) == 0 {
		t.Fatal("no vectors")
	}
	return vectors
}

func TestFramingVectors(t *testing.T) {
	for i, v := range application(t) {
		message, err := hex.DecodeString(v.Message)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parseFraming(message)
		if err != nil || hex.EncodeToString(f.Group) != v.Group || f.Epoch != v.Epoch {
			t.Errorf("vector %d: got %+v, %v, want group %s at epoch %d", i, f, err, v.Group, v.Epoch)
		}
		for n := range message {
			if _, err := parseFraming(message[:n]); err == nil {
				t.Errorf("vector %d: accepted its first %d bytes", i, n)
			}
		}
		if _, err := parseFraming(append(message, 0)); err == nil {
			t.Errorf("vector %d: accepted a byte behind it", i)
		}
	}
}

func TestFramingRefuses(t *testing.T) {
	good := "00010002" + "021122" + "0000000000000003" + "01" + "0133" + "0144" + "0155"
	for name, text := range map[string]string{
		"empty":              "",
		"version":            "0002" + good[4:],
		"a public message":   "00010001" + good[8:],
		"a handshake":        "00010002" + "021122" + "0000000000000003" + "03" + "0133" + "0144" + "0155",
		"longer length form": "00010002" + "40021122" + "0000000000000003" + "01" + "0133" + "0144" + "0155",
		"reserved length":    "00010002" + "c21122" + "0000000000000003" + "01" + "0133" + "0144" + "0155",
		"length lies":        "00010002" + "021122" + "0000000000000003" + "01" + "0133" + "0144" + "bfffffff55",
	} {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if f, err := parseFraming(b); err == nil {
			t.Errorf("%s: accepted as %+v", name, f)
		}
	}
	b, _ := hex.DecodeString(good)
	if f, err := parseFraming(b); err != nil || f.Epoch != 3 || string(f.AD) != "\x33" {
		t.Fatalf("got %+v, %v", f, err)
	}
}

func FuzzFraming(f *testing.F) {
	if data, err := os.ReadFile("../../../shared/data/vectors/mls/message-protection.json"); err == nil {
		var vectors []struct {
			Message string `json:"application_priv"`
		}
		if err := json.Unmarshal(data, &vectors); err != nil {
			f.Fatal(err)
		}
		for _, v := range vectors {
			b, err := hex.DecodeString(v.Message)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	b, err := hex.DecodeString("00010002" + "021122" + "0000000000000003" + "01" + "0133" + "0144" + "0155")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := parseFraming(b)
		if err == nil && len(fr.Group)+len(fr.AD) > len(b) {
			t.Fatal("more than there is")
		}
	})
}
