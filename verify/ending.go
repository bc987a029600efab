package verify

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"chancery/blindindex"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/manifest"
	"chancery/pack"
	"chancery/quorum"
	"chancery/request"
)

// export makes the export's lines again from the opened records.
func (v *verifier) export() (string, error) {
	set, err := v.set(control.PhaseRecord)
	if err != nil {
		return "", err
	}
	var lines bytes.Buffer
	misses, unindexed := 0, 0
	for _, it := range set {
		if it.record == nil {
			continue
		}
		var key *blindindex.Key
		if v.request.Search {
			key = v.keyOf(it)
		}
		line, indexed := pack.LineOf(v.terms, key, it.manifest, it.Proof.Index, it.device.Member, it.Tags, it.record)
		if !indexed {
			unindexed++
		}
		if line == nil {
			if pack.Exported(it.record) {
				misses++
			}
			continue
		}
		if err := line.Encode(&lines); err != nil {
			return "", err
		}
		v.report.Exported++
	}
	if pack.ExportHash(lines.Bytes()) != v.body.Export {
		return "", errors.New("the lines of the opened records are not the export that the pack names")
	}
	detail := fmt.Sprintf("%d messages, %d bytes", v.report.Exported, lines.Len())
	if misses > 0 {
		detail += fmt.Sprintf("; %d opened records match by their tags and not by their text", misses)
	}
	if unindexed > 0 {
		detail += fmt.Sprintf("; %d have words that their tags leave out", unindexed)
	}
	return detail, nil
}

func (v *verifier) faults() (string, error) {
	for i := range v.body.Faults {
		name, err := v.fault(&v.body.Faults[i])
		if err != nil {
			return "", fmt.Errorf("fault %d: %w", i+1, err)
		}
		if !slices.Contains(v.report.Faults, name) {
			v.report.Faults = append(v.report.Faults, name)
		}
	}
	slices.Sort(v.report.Faults)
	for i := range v.body.Broken {
		if err := v.broken(&v.body.Broken[i]); err != nil {
			return "", fmt.Errorf("envelope %s: %w", v.body.Broken[i].Core.Short(), err)
		}
		v.notOpened(v.cores[v.body.Broken[i].Core], "right answers don't open it as its sender signed it")
	}
	for i := range v.body.SetAside {
		if err := v.setAside(&v.body.SetAside[i]); err != nil {
			return "", err
		}
	}
	if len(v.body.Faults) == 0 && len(v.report.NotOpened) == 0 {
		return "nobody answered wrongly", nil
	}
	return fmt.Sprintf("proven against %q; %d envelopes that their senders made so that they don't open, of which %d by a wrong tag, on every guard's word",
		v.report.Faults, len(v.report.NotOpened), len(v.report.NotOpened)-len(v.body.Broken)), nil
}

func (v *verifier) notOpened(it *item, reason string) {
	v.report.NotOpened = append(v.report.NotOpened, Unopened{
		Envelope: it.core, Device: it.manifest.Header.Device, Member: it.device.Member, Reason: reason,
	})
}

// disclosed opens a holder's answer, which must be to this opener and to exactly
// a phase's set. It returns the holder and its parts, one for each item.
func (v *verifier) disclosed(guard bool, holder uint8, phase control.Phase, answer []byte, secrets *[64]byte) (*control.Holder, *request.Parts, error) {
	holders := v.genesis.Keyholders
	if guard {
		holders = v.genesis.Guards
	}
	if holder < 1 || int(holder) > len(holders) {
		return nil, nil, fmt.Errorf("no holder %d", holder)
	}
	h := &holders[holder-1]
	a, parts, err := pack.OpenDisclosed(h.Sign, &v.opener.Opener, answer, secrets)
	if err != nil {
		return nil, nil, err
	}
	uses := v.usesOf()
	use := slices.IndexFunc(uses, func(u control.UseState) bool { return u.Hash == a.Use })
	if a.Guard != guard || a.Holder != holder || use < 0 {
		return nil, nil, errors.New("the answer is another's, or to something else")
	}
	cores := v.body.RecordSet
	if phase == control.PhaseIndex {
		cores = v.body.IndexSet
	}
	if u := &uses[use]; u.Phase != phase || u.Guard != guard || u.Holder != holder || u.Root != control.UseSet(cores) {
		return nil, nil, errors.New("the answer is to another set of envelopes")
	}
	if len(parts.Parts) != len(cores) {
		return nil, nil, errors.New("the answer has not one part for each envelope")
	}
	return h, parts, nil
}

// fault checks that a holder signed an answer that isn't the right one.
func (v *verifier) fault(f *pack.Fault) (string, error) {
	set, err := v.set(f.Phase)
	if err != nil {
		return "", err
	}
	if f.Position >= uint64(len(set)) {
		return "", errors.New("it names no envelope that was asked for")
	}
	it := set[f.Position]
	h, parts, err := v.disclosed(f.Guard, f.Holder, f.Phase, f.Answer, &f.Secrets)
	if err != nil {
		return "", err
	}
	if f.Guard {
		if len(f.Proof) != 0 {
			return "", errors.New("a proof about what needs none")
		}
		return h.Name, v.wrongSecret(it, parts, int(f.Position))
	}
	if it.secrets == nil {
		return "", errors.New("it names no envelope that was opened")
	}
	part := parts.Parts[f.Position]
	if len(part) != quorum.PointSize {
		if len(f.Proof) != 0 {
			return "", errors.New("a proof about what is no point")
		}
		return h.Name, nil
	}
	return h.Name, v.wrongPoint(f, it, quorum.Point(part))
}

// wrongSecret checks that a guard's part for an envelope is not the right one,
// which the opened envelope's seed gives, or the tag shows of a broken one.
func (v *verifier) wrongSecret(it *item, parts *request.Parts, position int) error {
	var right, enc []byte
	if it.secrets != nil {
		right, enc = it.secrets.SharedSecret(), it.enc
	} else if i := slices.IndexFunc(v.body.Broken, func(b pack.Broken) bool { return b.Core == it.core }); i >= 0 {
		env, err := envelope.Parse(v.body.Broken[i].Envelope)
		if err != nil {
			return err
		}
		right, enc = v.body.Broken[i].Secret, env.Enc // broken checks both
	} else {
		return errors.New("it names no envelope whose secret is shown")
	}
	part := parts.Parts[position]
	switch {
	case bytes.Equal(part, right):
		return errors.New("the guard's answer is the right one")
	case len(part) == 0 && !parts.Withholds(position, it.manifest.Hash(), enc):
		// Its opener showed it something else, or it says so: nobody can tell.
		return errors.New("the guard withheld the secret of something else")
	}
	return nil
}

// setAside checks that every guard of the genesis leaf withheld the secret of
// each of these envelopes, asked about what was archived: fewer could lie, and
// an opener could have asked them about something else.
func (v *verifier) setAside(aside *pack.SetAside) error {
	set, err := v.set(aside.Phase)
	if err != nil {
		return err
	}
	if len(aside.Answers) != len(v.genesis.Guards) {
		return fmt.Errorf("envelopes set aside on the word of %d guards, want all %d", len(aside.Answers), len(v.genesis.Guards))
	}
	var given []*request.Parts
	for i := range aside.Answers {
		a := &aside.Answers[i]
		_, parts, err := v.disclosed(true, uint8(i+1), aside.Phase, a.Answer, &a.Secrets)
		if err != nil {
			return fmt.Errorf("the word of guard %d: %w", i+1, err)
		}
		given = append(given, parts)
	}
	for i := range aside.Envelopes {
		r := &aside.Envelopes[i]
		if r.Position >= uint64(len(set)) || set[r.Position].Opened != nil {
			return fmt.Errorf("an envelope set aside at position %d was opened, or nobody asked for it", r.Position)
		}
		it := set[r.Position]
		if err := refuted(it, r, given); err != nil {
			return fmt.Errorf("envelope %s: %w", it.core.Short(), err)
		}
		v.notOpened(it, "every guard says that the sender's tag is wrong")
	}
	return nil
}

func refuted(it *item, r *pack.Refuted, given []*request.Parts) error {
	env, err := envelope.Parse(r.Envelope)
	if err != nil {
		return err
	}
	if env.Hash() != it.manifest.Core.Envelope || !bytes.Equal(env.E(), it.E) {
		return errors.New("it is not the archived envelope")
	}
	for i, parts := range given {
		if !parts.Withholds(int(r.Position), it.manifest.Hash(), env.Enc) {
			return fmt.Errorf("guard %d doesn't say that its tag is wrong", i+1)
		}
	}
	return nil
}

func (v *verifier) wrongPoint(f *pack.Fault, it *item, answered quorum.Point) error {
	key, _, err := v.lockOf(it.manifest.Header.EscrowKey)
	if err != nil {
		return err
	}
	var proof quorum.Fault
	if err := codec.Decode(f.Proof, &proof); err != nil {
		return err
	}
	if proof.Holder != int(f.Holder) || proof.Answered != answered {
		return errors.New("the proof is about another answer")
	}
	e, err := quorum.ScalarBaseMult(it.secrets.Scalar())
	if err != nil {
		return err
	}
	return proof.Verify(key, e, request.ProofContext(v.body.Request, it.core))
}

// broken checks that a quorum and a guard proved right answers for an envelope,
// and that they open it to nothing that its sender committed to.
func (v *verifier) broken(b *pack.Broken) error {
	it := v.cores[b.Core]
	if it == nil || it.Opened != nil || !slices.Contains(slices.Concat(v.body.IndexSet, v.body.RecordSet), b.Core) {
		return errors.New("it is not shown, or opened, or nobody asked for it")
	}
	env, err := envelope.Parse(b.Envelope)
	if err != nil {
		return err
	}
	if env.Hash() != it.manifest.Core.Envelope || !bytes.Equal(env.E(), it.E) {
		return errors.New("it is not the archived envelope")
	}
	key, public, err := v.lockOf(it.manifest.Header.EscrowKey)
	if err != nil {
		return err
	}
	if err := envelope.VerifyTag(b.Secret, b.Core, &it.manifest.Tag); err != nil {
		return fmt.Errorf("the guard's answer: %w", err)
	}
	e, err := quorum.ParsePoint(it.E)
	if err != nil {
		return err
	}
	if len(b.Answers) != key.T {
		return fmt.Errorf("%d proven answers, want %d", len(b.Answers), key.T)
	}
	var answers []quorum.Answer
	for _, p := range b.Answers {
		if err := key.VerifyAnswer(e, p.Answer, request.ProofContext(v.body.Request, b.Core), p.Proof); err != nil {
			return fmt.Errorf("keyholder %d's answer: %w", p.Answer.Holder, err)
		}
		answers = append(answers, p.Answer)
	}
	seed, record, err := control.OpenWith(key, public, it.manifest.Core.Header, env, answers, b.Secret)
	if errors.Is(err, envelope.ErrOpen) || errors.Is(err, envelope.ErrPadding) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := envelope.Check(public, it.manifest.Core, seed, record, &it.manifest.Proof, &it.manifest.Tag); err == nil {
		return errors.New("it opens as it should")
	}
	return nil
}

func (v *verifier) acknowledgements() (string, error) {
	positions := map[codec.ID]map[uint64]codec.Hash{}
	for i := range v.leaves {
		l := &v.leaves[i]
		b := &l.Opening.Body
		if positions[b.Conversation] == nil {
			positions[b.Conversation] = map[uint64]codec.Hash{}
		}
		positions[b.Conversation][b.Position] = l.Opening.Leaf(l.Object)
	}
	for i, raw := range v.body.Acks {
		ack, err := manifest.ParseAck(raw)
		if err != nil {
			return "", fmt.Errorf("acknowledgement %d: %w", i+1, err)
		}
		device, ok := v.state.Device(ack.Device)
		if !ok || ack.Organisation != v.organisation || positions[ack.Conversation] == nil {
			return "", fmt.Errorf("acknowledgement %d is of another organisation, device or conversation", i+1)
		}
		if err := manifest.VerifyAck(device.Key, raw); err != nil {
			return "", fmt.Errorf("acknowledgement %d: %w", i+1, err)
		}
		if leaf, ok := positions[ack.Conversation][ack.Position]; ok && leaf != ack.Leaf {
			return "", fmt.Errorf("acknowledgement %d: device %s saw another message at position %d", i+1, ack.Device.Short(), ack.Position)
		}
	}
	return fmt.Sprintf("%d acknowledgements", len(v.body.Acks)), nil
}

// statement looks for the opener's last word in the tail: the replay has made
// sure that the opener signed it, once.
func (v *verifier) statement() (string, error) {
	for i, e := range v.pack.Tail.Control {
		_, s, err := control.Parse(e)
		if err != nil {
			return "", err
		}
		var o control.OpeningStatement
		if s.Kind != control.KindOpening || codec.Decode(s.Body, &o) != nil || o.Opener != v.body.Opener {
			continue
		}
		switch {
		case o.Request != v.body.Request:
			return "", errors.New("it is about another request")
		case o.Pack != v.pack.BodyHash:
			return "", fmt.Errorf("it names another pack, %s: this one was changed, or is not the opener's", o.Pack)
		case o.Opened != uint64(v.report.Opened) || o.Exported != uint64(v.report.Exported):
			return "", fmt.Errorf("it counts %d opened and %d exported, the pack %d and %d", o.Opened, o.Exported, v.report.Opened, v.report.Exported)
		case !slices.Equal(o.Faults, v.report.Faults):
			return "", fmt.Errorf("it names %q as having answered wrongly, the pack %q", o.Faults, v.report.Faults)
		case !o.Destroyed:
			return "", errors.New("it does not say that the keys are gone")
		}
		return fmt.Sprintf("entry %d; production %s", len(v.body.Control)+i, o.Production), nil
	}
	return "", errors.New("the opener's last word is not on the log that is shown")
}

// nothingElse holds the pack to what the request leads to: its two openings, the
// conversations with a custodian in them, the days with one neighbour at each
// end, and the epochs that these need.
func (v *verifier) nothingElse() (string, error) {
	if len(v.body.Openings) != 2 {
		return "", fmt.Errorf("%d sealed entries are opened, not the matter's and the request's alone", len(v.body.Openings))
	}
	for i := range v.body.Openings {
		o := &v.body.Openings[i]
		if o.Index >= int64(len(v.body.Control)) {
			return "", fmt.Errorf("entry %d is opened and not shown", o.Index)
		}
		_, s, err := control.Parse(v.entries[o.Index])
		if err != nil {
			return "", err
		}
		var m control.Matter
		matter := s.Kind == control.KindMatter && codec.Decode(o.Opening.Body, &m) == nil && m.ID == v.request.Matter
		if !matter && s.Hash() != v.body.Request {
			return "", fmt.Errorf("entry %d is opened, and is neither the request nor its matter", o.Index)
		}
	}
	lo, hi := request.Window(&v.request.Request)
	needed := map[codec.Hash]bool{}
	custodian := map[codec.ID]bool{}
	for _, it := range v.items {
		needed[it.manifest.Transport.Roster] = true
	}
	for _, e := range v.epochs {
		if v.hasCustodian(e.Devices) {
			custodian[e.Conversation] = true
		}
	}
	for _, conversation := range pack.Order(v.leaves) {
		c := conversation[0].Opening.Body.Conversation
		if named := v.request.Conversations; !slices.Contains(named, c) && (len(named) > 0 || !custodian[c]) {
			return "", fmt.Errorf("conversation %s is shown, and is not one that the request is about", c)
		}
		_, beside := pack.Run(conversation, lo, hi)
		for _, l := range beside {
			if l.Opening.Body.Kind != manifest.LeafCommit || !needed[l.Object] {
				return "", fmt.Errorf("leaf %d of conversation %s lies outside the days requested", l.Index, c)
			}
		}
	}
	return fmt.Sprintf("%d items, %d epochs", len(v.items), len(v.epochs)), nil
}

func (v *verifier) hasCustodian(roster manifest.Roster) bool {
	return slices.ContainsFunc(roster, func(h codec.Hash) bool {
		d, ok := v.state.Device(h)
		return ok && slices.Contains(v.request.Custodians, d.Member)
	})
}
