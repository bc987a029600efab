package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/delivery"
	"chancery/internal/store"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/manifest"
)

func (s *server) organisation(*call) (any, error) {
	return &wire.Organisation{Genesis: s.directory.Genesis(), Keyholders: s.Keyholders, Guards: s.Guards}, nil
}

func (s *server) status(w http.ResponseWriter, _ *http.Request) {
	var st wire.Status
	s.directory.Read(func(state *control.State, _ codec.Hash) { st.Organisation = state.Organisation() })
	st.ControlSize, st.MessagesSize = s.store.Size(ledger.ControlLog), s.store.Size(ledger.MessagesLog)
	_, st.Witnessed = s.store.Checkpoint(ledger.ControlLog)
	_, st.WitnessedLog = s.store.Checkpoint(ledger.MessagesLog)
	st.Messages, st.Envelopes = s.delivery.Status()
	st.Pending = len(s.directory.Pending())
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(&st) // an error here is the client's having gone
}

func (s *server) submit(c *call) (any, error) {
	in, err := decode[wire.Submit](c)
	if err != nil {
		return nil, err
	}
	return s.directory.Submit(c.Context(), in)
}

func (s *server) pending(*call) (any, error) { return s.directory.Pending(), nil }

// openings gives holders and people with a role every opening, a device those
// of holds that name its member, and others none.
func (s *server) openings(c *call) (any, error) {
	from, err := c.number("from")
	switch {
	case err != nil:
		return nil, err
	case signatory(&c.who):
		return s.directory.Openings(int64(from), nil), nil
	case aDevice(&c.who):
		return s.directory.Openings(int64(from), &c.who.member), nil
	}
	return []wire.Opening{}, nil
}

func (s *server) members(c *call) (any, error) { return s.directory.Members(c.Context()) }

func (s *server) addMember(c *call) (any, error) {
	m, err := decode[wire.Member](c)
	if err != nil {
		return nil, err
	}
	return nil, s.directory.AddMember(c.Context(), *m)
}

func (s *server) stocked(c *call) (any, error) {
	have, err := s.directory.KeyPackages(c.Context(), c.who.device)
	if err != nil {
		return nil, err
	}
	out := &wire.Stock{Left: uint16(have.Left)}
	switch {
	case have.Used:
		out.LastResort = wire.LastResortUsed
	case have.LastResort:
		out.LastResort = wire.LastResortUnused
	}
	return out, nil
}

func (s *server) stock(c *call) (any, error) {
	in, err := decode[wire.KeyPackages](c)
	if err != nil {
		return nil, err
	}
	return nil, s.directory.StockKeyPackages(c.Context(), c.who.device, in.Packages)
}

func (s *server) claim(c *call) (any, error) {
	in, err := decode[wire.Claim](c)
	if err != nil {
		return nil, err
	}
	if len(in.Devices) == 0 || len(in.Devices) > manifest.MaxRoster {
		return nil, fmt.Errorf("KeyPackages of %d devices, want 1 to %d: %w", len(in.Devices), manifest.MaxRoster, codec.ErrSize)
	}
	packages, err := s.directory.ClaimKeyPackages(c.Context(), c.who.device, in.Devices)
	if err != nil {
		return nil, err
	}
	return s.vouch(in.Devices, packages)
}

// vouch signs for each KeyPackage that is handed out: one with another key than
// the device's then convicts the server.
func (s *server) vouch(devices []codec.Hash, packages [][]byte) ([]wire.Claimed, error) {
	word := manifest.Claim{Time: s.Now().UnixMilli()}
	s.directory.Read(func(state *control.State, root codec.Hash) { word.ControlSize, word.ControlRoot = state.Size(), root })
	out := make([]wire.Claimed, len(devices))
	for i, p := range packages {
		if len(p) == 0 {
			continue
		}
		word.Device, word.Package = devices[i], manifest.PackageHash(p)
		signed, err := manifest.SignClaim(s.receipt, &word)
		if err != nil {
			return nil, fmt.Errorf("couldn't sign for a KeyPackage: %w", err)
		}
		out[i] = wire.Claimed{Package: p, Claim: signed}
	}
	return out, nil
}

func (s *server) message(c *call) (any, error) {
	in, err := decode[wire.Submission](c)
	if err != nil {
		return nil, err
	}
	return receipted(s.delivery.Message(c.Context(), c.who.device, in))
}

func (s *server) commit(c *call) (any, error) {
	in, err := wire.ParseCommit(c.body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.URL.Path, err)
	}
	return receipted(s.delivery.Commit(c.Context(), c.who.device, in))
}

func (s *server) void(c *call) (any, error) {
	return receipted(s.delivery.Void(c.Context(), c.who.device, c.body))
}

func receipted(receipts [][]byte, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return &wire.Receipted{Receipts: receipts}, nil
}

func (s *server) queue(c *call) (any, error) {
	after, err := c.number("after")
	if err != nil {
		return nil, err
	}
	seconds, err := c.number("wait")
	if err != nil {
		return nil, err
	}
	return s.delivery.Queue(c.Context(), c.who.device, after, c.wait(seconds))
}

func (s *server) acknowledge(c *call) (any, error) {
	return nil, s.delivery.Acknowledge(c.Context(), c.who.device, c.body)
}

func (s *server) conversations(c *call) (any, error) {
	return s.delivery.Conversations(c.Context(), c.who.device)
}

func (s *server) elsewhere(c *call) (any, error) { return s.delivery.Elsewhere(c.who.device), nil }

func (s *server) group(c *call) (any, error) {
	id, err := codec.ParseID(c.PathValue("conversation"))
	if err != nil {
		return nil, fmt.Errorf("conversation: %w", err)
	}
	return s.delivery.Group(c.Context(), c.who.device, id)
}

func (s *server) letters(c *call) (any, error) {
	after, err := c.number("after")
	if err != nil {
		return nil, err
	}
	return s.delivery.Letters(c.Context(), c.who.device, after)
}

func (s *server) putLetter(c *call) (any, error) {
	l, err := decode[wire.Letter](c)
	if err != nil {
		return nil, err
	}
	return nil, s.delivery.PutLetter(c.Context(), c.who.device, l)
}

func (s *server) archive(c *call) (any, error) {
	request, err := codec.ParseHash(c.URL.Query().Get("request"))
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	after, err := c.number("after")
	if err != nil {
		return nil, err
	}
	return s.delivery.Archive(c.Context(), codec.PublicKey(c.who.Key), request, after)
}

func (s *server) heads(c *call) (any, error) { return s.delivery.Heads(c.Context()) }

// putProduction keeps what an opener made, until its last word is logged: then
// the log has the production's hash.
func (s *server) putProduction(c *call) (any, error) {
	request, err := codec.ParseHash(c.PathValue("request"))
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	allowed := false
	s.directory.Read(func(state *control.State, _ codec.Hash) {
		if r, ok := state.Request(request); ok {
			for _, o := range r.Openers {
				allowed = allowed || (codec.Hash(o.Sign) == c.who.Key && !o.Done)
			}
		}
	})
	if !allowed {
		return nil, fmt.Errorf("%w: the log names another opener for this request", delivery.ErrForbidden)
	}
	if len(c.body) == 0 {
		return nil, fmt.Errorf("%w: an empty production", delivery.ErrMalformed)
	}
	return nil, s.store.Update(c.Context(), func(tx store.Tx) error { return tx.PutProduction(request, c.body) })
}

func (s *server) production(c *call) (any, error) {
	request, err := codec.ParseHash(c.PathValue("request"))
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	sealed, err := s.store.Production(c.Context(), request)
	if err != nil {
		return nil, fmt.Errorf("production of request %s: %w", request.Short(), err)
	}
	return rawBytes(sealed), nil
}

func decode[T any](c *call) (*T, error) {
	out := new(T)
	if err := codec.Decode(c.body, out); err != nil {
		return nil, fmt.Errorf("%s: %w", c.URL.Path, err)
	}
	return out, nil
}

// number reads a decimal query parameter; where it is missing it is 0.
func (c *call) number(name string) (uint64, error) {
	text := c.URL.Query().Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, &wire.Problem{Title: "malformed parameter", Status: http.StatusBadRequest, Detail: name, Hint: "want a decimal number"}
	}
	return n, nil
}
