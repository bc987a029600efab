package opener

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"

	"chancery/blindindex"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/replica"
	"chancery/pack"
	"chancery/request"
)

// finish writes the export and the pack's body, seals both to the recipient,
// and signs the last word on the log.
func (s *session) finish(ctx context.Context) error {
	// The pack shows the log up to every use that it rests on.
	if err := s.replica.Sync(ctx, source{s}); err != nil {
		return err
	}
	s.Progress("writing the pack", 0, 3)
	export, err := s.export()
	if err != nil {
		return err
	}
	defer clear(export)
	body, err := s.body(export)
	if err != nil {
		return err
	}
	encoded := body.Encode()
	defer clear(encoded)
	if _, err := pack.ParseBody(encoded); err != nil {
		return fmt.Errorf("couldn't read back the pack: %w", err)
	}
	sealed, err := pack.SealProduction(s.request.Recipient, export, encoded)
	if err != nil {
		return err
	}
	s.Progress("writing the pack", 1, 3)
	s.result.Pack, s.result.Production = pack.BodyHash(encoded), pack.ProductionHash(sealed)
	if s.Keep != nil {
		if err := s.Keep(sealed); err != nil {
			return err
		}
	}
	if _, err := retry(ctx, func() (struct{}, error) {
		return struct{}{}, s.Server.PutProduction(ctx, s.Config.Request, sealed)
	}); err != nil {
		return fmt.Errorf("couldn't store the production: %w", err)
	}
	s.Progress("writing the pack", 2, 3)
	return s.lastWord(ctx)
}

// lastWord signs what was made, and that the keys are gone. The decryption keys
// go before it is said; the signing key, which says it, when it has.
func (s *session) lastWord(ctx context.Context) error {
	opened := s.result.IndexKeys + s.result.Opened
	for _, it := range s.archive.items {
		it.erase()
	}
	s.keys.pq, s.keys.t, s.keys.hpke = nil, nil, nil
	statement, _, err := control.NewStatement(rand.Reader, s.Organisation, &control.OpeningStatement{
		Request: s.Config.Request, Opener: s.leaf, Opened: uint64(opened), Exported: uint64(s.result.Exported),
		Pack: s.result.Pack, Production: s.result.Production, Faults: s.result.Faults, Destroyed: true,
	})
	if err != nil {
		return err
	}
	signature, err := control.Sign(s.keys.sign, statement)
	if err != nil {
		return err
	}
	s.keys.sign.Erase()
	s.result.Statement = statement.Hash()
	s.result.Index, err = s.submit(ctx, statement, signature)
	if err == nil {
		s.Progress("writing the pack", 3, 3)
	}
	return err
}

func (it *item) erase() {
	if o := it.opened; o != nil {
		o.seed.Erase()
		clear(o.record)
		clear(o.scalar)
		clear(o.secret)
		it.opened = nil
	}
}

// export makes the lines of the records that were asked for, and counts.
func (s *session) export() ([]byte, error) {
	var out bytes.Buffer
	for _, it := range s.archive.hits {
		o := it.opened
		if o == nil {
			continue
		}
		s.result.Opened++
		if o.parsed == nil {
			continue
		}
		line, indexed := s.archive.line(it)
		if !indexed {
			s.result.Unverified = append(s.result.Unverified, it.core)
		}
		if line == nil {
			if pack.Exported(o.parsed) {
				s.result.FalseHits = append(s.result.FalseHits, it.core)
			}
			continue
		}
		if err := line.Encode(&out); err != nil {
			return nil, fmt.Errorf("couldn't write the export: %w", err)
		}
		s.result.Exported++
	}
	return out.Bytes(), nil
}

// line returns an opened record's line, nil where it's no message or its text
// doesn't match, and whether its tags say of every word that it is there.
func (a *archive) line(it *item) (line *pack.Line, indexed bool) {
	var key *blindindex.Key
	if a.search != nil {
		key = a.keyOf(it)
	}
	return pack.LineOf(a.search, key, it.manifest, it.Index, it.member, it.tags, it.opened.parsed)
}

// body gathers the pack's body.
func (s *session) body(export []byte) (*pack.Body, error) {
	a := s.archive
	entries, openings := s.replica.Entries()
	controlLog, messagesLog, err := replica.Policies(s.Organisation, entries[0])
	if err != nil {
		return nil, err
	}
	b := &pack.Body{
		Organisation: s.Organisation, Request: s.Config.Request, Opener: s.leaf, Details: s.Details.Encode(),
		Control: entries, Heads: pack.Heads{Heads: codec.Encode(a.heads), Proof: a.headsLeaf.proof},
		Acks: a.acks, IndexSet: cores(a.index), RecordSet: cores(a.hits),
		Broken: s.broken, SetAside: s.aside, Export: pack.ExportHash(export),
	}
	if b.ControlCheckpoint, _, err = pack.Trim(controlLog, s.replica.Checkpoint().Note); err != nil {
		return nil, err
	}
	if b.MessagesCheckpoint, _, err = pack.Trim(messagesLog, a.checkpoint); err != nil {
		return nil, err
	}
	if b.Openings, err = s.openings(entries, openings); err != nil {
		return nil, err
	}
	for _, r := range a.rosters {
		b.Rosters = append(b.Rosters, request.Roster{Commit: r.commit, Proof: r.proof, Devices: r.devices})
	}
	for _, it := range a.items {
		out := pack.Item{Manifest: it.manifest.Bytes(), Proof: it.proof, Tags: it.tags}
		if it.opened != nil {
			out.Opened = &pack.Opened{Seed: it.opened.seed, Record: it.opened.record}
		} else if it.envelope != nil {
			out.E = it.envelope.E()
		}
		b.Items = append(b.Items, out)
	}
	for _, v := range a.voids {
		b.Voids = append(b.Voids, pack.Void{Void: v.raw, Proof: v.proof})
	}
	for _, f := range s.faults {
		b.Faults = append(b.Faults, f)
	}
	slices.SortFunc(b.Faults, func(x, y pack.Fault) int {
		return cmp.Or(cmp.Compare(x.Phase, y.Phase), cmp.Compare(truth(x.Guard), truth(y.Guard)), cmp.Compare(x.Holder, y.Holder))
	})
	return b, nil
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

// openings picks the openings of the matter's and the request's leaves: no other
// sealed leaf is the recipient's business.
func (s *session) openings(entries [][]byte, all map[int64]*control.Opening) ([]pack.Opening, error) {
	var out []pack.Opening
	for i, o := range all {
		if i < 0 || i >= int64(len(entries)) {
			continue
		}
		_, statement, err := control.Parse(entries[i])
		if err != nil {
			return nil, err
		}
		var matter control.Matter
		if statement.Hash() == s.Config.Request ||
			statement.Kind == control.KindMatter && codec.Decode(o.Body, &matter) == nil && matter.ID == s.request.Matter {
			out = append(out, pack.Opening{Index: i, Opening: *o})
		}
	}
	slices.SortFunc(out, func(x, y pack.Opening) int { return cmp.Compare(x.Index, y.Index) })
	return out, nil
}
