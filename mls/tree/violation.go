package tree

import "fmt"

// Violation says which rule a message or tree breaks. Whoever sent it is at
// fault, or somebody on the way.
type Violation struct {
	Section string // of RFC 9420
	Reason  string
	Err     error // what lies below it, or nil
}

// Error says what is wrong and where RFC 9420 has the rule.
func (v *Violation) Error() string {
	if v.Err != nil {
		return fmt.Sprintf("%s (RFC 9420 §%s): %v", v.Reason, v.Section, v.Err)
	}
	return fmt.Sprintf("%s (RFC 9420 §%s)", v.Reason, v.Section)
}

// Unwrap returns Err.
func (v *Violation) Unwrap() error { return v.Err }

// broken returns a Violation.
func broken(section, format string, args ...any) error {
	return &Violation{Section: section, Reason: fmt.Sprintf(format, args...)}
}
