package control

import (
	"bytes"
	"fmt"

	"chancery/codec"
	"chancery/envelope"
	"chancery/quorum"
)

type ceremonyState struct {
	ceremony quorum.Ceremony
	board    []quorum.Message
	since    int64
}

type canaryState struct {
	leaf codec.Hash
	body *Canary
	core *envelope.Core
	env  *envelope.Envelope
}

func (c *Ceremony) apply(s *State, e *entry) error {
	if err := s.officerQuorum(e); err != nil {
		return err
	}
	if _, ok := s.ceremonies[c.Ceremony.ID]; ok {
		return conflict("the ceremony is already open")
	}
	if c.Ceremony.T != int(s.genesis.Threshold) || len(c.Ceremony.Peers) != len(s.genesis.Keyholders) {
		return conflict("the ceremony is not among the keyholders and threshold of the genesis leaf")
	}
	for i, h := range s.genesis.Keyholders {
		if !bytes.Equal(c.Ceremony.Peers[i][:], h.Encrypt) {
			return conflict("peer %d is not keyholder %s", i+1, h.Name)
		}
	}
	if err := c.Ceremony.Validate(); err != nil {
		return malformed("ceremony: %v", err)
	}
	s.ceremonies[c.Ceremony.ID] = &ceremonyState{ceremony: c.Ceremony, since: e.index}
	return nil
}

func (d *DKG) apply(s *State, e *entry) error {
	c, ok := s.ceremonies[d.Message.Ceremony]
	if !ok {
		return conflict("no such ceremony")
	}
	holder, err := s.keyholder(d.Message.From)
	if err != nil {
		return err
	}
	if !e.by(holder.Sign) {
		return fmt.Errorf("%w: keyholder %s must sign its own message", ErrUnauthorised, holder.Name)
	}
	if _, err := quorum.ParseMessage(d.Message.Encode()); err != nil {
		return malformed("%v", err)
	}
	for _, m := range c.board {
		if m.From == d.Message.From && m.Round == d.Message.Round {
			return conflict("keyholder %s already spoke in round %d", holder.Name, m.Round)
		}
	}
	c.board = append(c.board, d.Message)
	return nil
}

func (s *State) keyholder(index int) (*Holder, error) {
	if index < 1 || index > len(s.genesis.Keyholders) {
		return nil, malformed("keyholder %d of %d", index, len(s.genesis.Keyholders))
	}
	return &s.genesis.Keyholders[index-1], nil
}

func (s *State) guard(index int) (*Holder, error) {
	if index < 1 || index > len(s.genesis.Guards) {
		return nil, malformed("guard %d of %d", index, len(s.genesis.Guards))
	}
	return &s.genesis.Guards[index-1], nil
}

func (p *Epoch) apply(s *State, e *entry) error {
	for _, h := range s.genesis.Keyholders {
		if !e.by(h.Sign) {
			return fmt.Errorf("%w: keyholder %s has not signed the epoch", ErrUnauthorised, h.Name)
		}
	}
	if got, want := s.signedBy(e, RoleApprover), int(s.Policy().Approvals); got < want {
		return fmt.Errorf("%w: %d of %d approvers signed the epoch", ErrUnauthorised, got, want)
	}
	c, ok := s.ceremonies[p.Ceremony]
	if !ok {
		return conflict("no such ceremony")
	}
	for i := range s.epochs {
		if s.epochs[i].Ceremony == p.Ceremony {
			return conflict("the ceremony's key is epoch %d already", s.epochs[i].Number)
		}
	}
	key, transcript, err := quorum.Verify(c.ceremony, c.board)
	if err != nil {
		return fmt.Errorf("%w: the ceremony gives no key: %w", ErrConflict, err)
	}
	if transcript != p.Transcript || !bytes.Equal(codec.Encode(key), codec.Encode(&p.Key)) {
		return conflict("the key is not the ceremony's")
	}
	if p.Number != uint64(len(s.epochs))+1 {
		return conflict("epoch %d follows %d", p.Number, len(s.epochs))
	}
	s.epochs = append(s.epochs, EpochState{Epoch: *p, Hash: e.hash, Since: e.index})
	return nil
}

func (m *Month) apply(s *State, e *entry) error {
	if err := s.officerQuorum(e); err != nil {
		return err
	}
	for _, h := range s.genesis.Guards {
		if !e.by(h.Sign) {
			return fmt.Errorf("%w: guard %s has not signed the month's key", ErrUnauthorised, h.Name)
		}
	}
	epoch, ok := s.Epoch(m.Epoch)
	if !ok {
		return conflict("no such epoch")
	}
	if m.Region == "" || m.Class == "" || len(m.Region) > 32 || len(m.Class) > 32 {
		return malformed("a month's key names a region and a class")
	}
	if _, err := envelope.NewPublicKey(epoch.Key.Key[:], m.MLKEM); err != nil {
		return malformed("ML-KEM key: %v", err)
	}
	for _, old := range s.months {
		// One key for two months could not be destroyed with either.
		if bytes.Equal(old.MLKEM, m.MLKEM) {
			return conflict("the ML-KEM key is another month's")
		}
		if old.Epoch == m.Epoch && old.Region == m.Region && old.Class == m.Class && old.Month.Month == m.Month {
			return conflict("the month has a key already")
		}
	}
	s.months[e.hash] = &MonthState{
		Month: *m, Hash: e.hash, Point: epoch.Key.Key, Since: e.index,
		Effective: Never, Destroyed: Never, secrets: map[uint8][]byte{},
	}
	return nil
}

// PublicKey returns the key that envelopes under this month are sealed to.
func (m *MonthState) PublicKey() (*envelope.PublicKey, error) {
	return envelope.NewPublicKey(m.Point[:], m.MLKEM)
}

func (c *Canary) apply(s *State, e *entry) error {
	if err := s.needOfficers(e, 1); err != nil {
		return err
	}
	month, ok := s.months[c.Month]
	if !ok || month.Effective != Never || month.Destroyed != Never {
		return conflict("no such month, or it needs no canary")
	}
	// One officer's bad canary must not keep a key from taking effect for ever,
	// nor one officer throw away what was answered.
	if month.canary != nil {
		if err := s.officerQuorum(e); err != nil {
			return fmt.Errorf("the month has a canary, to replace it: %w", err)
		}
	}
	state, err := c.check(s.organisation)
	if err != nil {
		return err
	}
	state.leaf = e.hash
	month.canary, month.answers, month.secrets = state, nil, map[uint8][]byte{}
	s.canaries[e.hash] = c.Month
	return nil
}

// check makes sure that whoever made the canary knows its ephemeral key, so
// that answering it in public tells nobody anything new.
func (c *Canary) check(organisation codec.Hash) (*canaryState, error) {
	core, err := envelope.ParseCore(c.Core)
	if err != nil {
		return nil, malformed("canary core: %v", err)
	}
	header, err := envelope.ParseHeader(core.Header)
	if err != nil {
		return nil, malformed("canary header: %v", err)
	}
	env, err := envelope.Parse(c.Envelope)
	if err != nil {
		return nil, malformed("canary envelope: %v", err)
	}
	if header.Organisation != organisation || header.EscrowKey != c.Month || header.Kind != envelope.KindVoid || env.Hash() != core.Envelope {
		return nil, conflict("the canary is of another organisation, key or kind")
	}
	if len(c.Proof) != len(envelope.Proof{}) || len(c.Tag) != codec.HashSize {
		return nil, malformed("canary proofs")
	}
	proof := envelope.Proof(c.Proof)
	if err := envelope.VerifyProof(env.E(), core.Hash(), &proof); err != nil {
		return nil, malformed("canary proof of knowledge: %v", err)
	}
	return &canaryState{body: c, core: core, env: env}, nil
}

func (a *CanaryAnswer) apply(s *State, e *entry) error {
	monthHash, ok := s.canaries[a.Canary]
	if !ok {
		return conflict("no such canary")
	}
	month := s.months[monthHash]
	if month.canary.leaf != a.Canary {
		return conflict("the canary was replaced")
	}
	var holder *Holder
	var err error
	if a.Guard {
		holder, err = s.guard(int(a.Holder))
	} else {
		holder, err = s.keyholder(int(a.Holder))
	}
	if err != nil {
		return err
	}
	if !e.by(holder.Sign) {
		return fmt.Errorf("%w: %s must sign its own answer", ErrUnauthorised, holder.Name)
	}
	if a.Guard {
		err = month.guardAnswer(a)
	} else {
		err = month.keyholderAnswer(a)
	}
	if err != nil {
		return err
	}
	if month.Effective == Never && s.opens(month) {
		month.Effective, month.EffectiveTime = e.index, e.Time
	}
	return nil
}

func (m *MonthState) guardAnswer(a *CanaryAnswer) error {
	if _, ok := m.secrets[a.Holder]; ok || len(a.Answer) != 32 {
		return conflict("the guard has answered, or not with 32 bytes")
	}
	tag := [32]byte(m.canary.body.Tag)
	if err := envelope.VerifyTag(a.Answer, m.canary.core.Hash(), &tag); err != nil {
		return conflict("the guard's answer does not open the canary")
	}
	m.secrets[a.Holder] = bytes.Clone(a.Answer)
	return nil
}

func (m *MonthState) keyholderAnswer(a *CanaryAnswer) error {
	point, err := quorum.ParsePoint(a.Answer)
	if err != nil {
		return malformed("answer: %v", err)
	}
	for _, old := range m.answers {
		if old.Holder == int(a.Holder) {
			return conflict("the keyholder has answered")
		}
	}
	m.answers = append(m.answers, quorum.Answer{Holder: int(a.Holder), Point: point})
	return nil
}

// opens reports whether the canary opens through every guard and some quorum
// of the keyholders that have answered.
func (s *State) opens(m *MonthState) bool {
	epoch, ok := s.Epoch(m.Epoch)
	if !ok || len(m.secrets) < len(s.genesis.Guards) || len(m.answers) < epoch.Key.T {
		return false
	}
	// Every guard's secret met the canary's tag: they are one secret.
	for _, secret := range m.secrets {
		return m.opensThrough(&epoch.Key, secret)
	}
	return false
}

func (m *MonthState) opensThrough(key *quorum.PublicKey, secret []byte) bool {
	public, err := m.PublicKey()
	if err != nil {
		return false
	}
	tries := 0
	for subset := range quorum.Subsets(m.answers, key.T) {
		if tries++; tries > maxTries {
			break
		}
		if seed, record, err := OpenWith(key, public, m.canary.core.Header, m.canary.env, subset, secret); err == nil {
			clear(seed[:])
			clear(record)
			return true
		}
	}
	return false
}
