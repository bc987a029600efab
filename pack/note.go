package pack

import (
	"bytes"
	"fmt"

	"chancery/ledger"

	"golang.org/x/mod/sumdb/note"
)

// Trim verifies a signed checkpoint and returns it with the signature lines of
// the policy's log and witnesses alone, in the policy's order. Lines of unknown
// keys, which a note may carry, could otherwise be changed in a pack and nobody
// would notice. It returns the errors of ledger.Policy.Verify.
func Trim(policy *ledger.Policy, signed []byte) ([]byte, *ledger.Cosigned, error) {
	c, err := policy.Verify(signed)
	if err != nil {
		return nil, nil, err
	}
	known := []note.Verifier{policy.Log.Verifier()}
	for _, w := range policy.Witnesses {
		known = append(known, w.Verifier())
	}
	n, err := note.Open(signed, note.VerifierList(known...))
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't read the checkpoint's signatures: %w", err)
	}
	var out bytes.Buffer
	out.WriteString(n.Text)
	out.WriteByte('\n')
	for _, v := range known {
		for _, s := range n.Sigs {
			if s.Name == v.Name() && s.Hash == v.KeyHash() {
				fmt.Fprintf(&out, "— %s %s\n", s.Name, s.Base64)
			}
		}
	}
	return out.Bytes(), c, nil
}
