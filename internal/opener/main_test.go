package opener_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"chancery/internal/opener"
	"chancery/request"
)

// Whatever the opener is told, it answers in one line and ends.
func TestMainRefuses(t *testing.T) {
	details := &request.Details{Terms: []string{"budget"}}
	start, err := json.Marshal(&opener.Start{Type: opener.LineStart, Server: "http://127.0.0.1:1", Details: details.Encode()})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ in, want string }{
		"nothing":      {"", "standard input has ended"},
		"no JSON":      {"open it\n", `type \"start\"`},
		"another line": {`{"type":"signature"}` + "\n", `type \"start\"`},
		"bad hash":     {`{"type":"start","organisation":"x"}` + "\n", "couldn't read the line"},
		"no details":   {`{"type":"start"}` + "\n", "request details"},
		"no server":    {string(start) + "\n", "where the holders are"},
	} {
		var out, stderr bytes.Buffer
		if code := opener.Main(t.Context(), nil, strings.NewReader(c.in), &out, &stderr); code != 1 {
			t.Errorf("%s: code %d", name, code)
		}
		var f opener.Failure
		if err := json.Unmarshal(out.Bytes(), &f); err != nil || f.Type != opener.LineError || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: said %q, want %q (%v)", name, out.String(), c.want, err)
		}
	}
	var out, stderr bytes.Buffer
	if code := opener.Main(t.Context(), []string{"--help"}, strings.NewReader(""), &out, &stderr); code != 2 || !strings.Contains(stderr.String(), "hint") {
		t.Errorf("arguments: code %d, %q", code, stderr.String())
	}
}
