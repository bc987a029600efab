// Package orgtest makes whole organisations for tests: people, keyholders,
// guards, witnesses and devices with keys in memory, a control log with its
// genesis leaf, key generation, escrow month and canary, a messages log, and
// messages in it. Everything is made by the code that the product runs; nothing
// is a stand-in.
//
// It is test support: it holds every private key of the organisation, which
// nobody may in the product, and fails the test where the product returns an
// error.
package orgtest

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/mlkem"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/ledger"
	"chancery/quorum"
	"chancery/sshsig"
)

// Signer signs control statements.
type Signer interface {
	Sign(s *control.Statement) (control.Signature, error)
}

// Person is a member with an SSH key.
type Person struct {
	Member codec.ID
	Key    ssh.Signer
}

// NewPerson returns a person with a fresh Ed25519 SSH key.
func NewPerson(t testing.TB) Person {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	key, err := ssh.NewSignerFromKey(private)
	must(t, err)
	return Person{Member: codec.NewID(), Key: key}
}

// Sign implements Signer.
func (p Person) Sign(s *control.Statement) (control.Signature, error) {
	return control.SignSSH(p.Key, s)
}

// Credential returns the fingerprint of the person's key.
func (p Person) Credential() codec.Hash {
	return sshsig.Credential(p.Key.PublicKey().Marshal()).ID()
}

// Control returns the person as control leaves name it.
func (p Person) Control() control.Person {
	return control.Person{Member: p.Member, Credential: p.Key.PublicKey().Marshal()}
}

// Key signs control statements with a program's key, such as an invitation's.
type Key struct{ *codec.PrivateKey }

// Sign implements Signer.
func (k Key) Sign(s *control.Statement) (control.Signature, error) {
	return control.Sign(k.PrivateKey, s)
}

// Holder is a keyholder or guard with its secrets.
type Holder struct {
	control.Holder
	Key     *codec.PrivateKey
	Decrypt *ecdh.PrivateKey
	Share   *quorum.Share                             // of a keyholder
	MLKEM   map[codec.Hash]*mlkem.DecapsulationKey768 // of a guard, by month leaf
}

// Sign implements Signer.
func (h *Holder) Sign(s *control.Statement) (control.Signature, error) {
	return control.Sign(h.Key, s)
}

// Witness is a witness with its key.
type Witness struct {
	Name string
	Key  ed25519.PrivateKey
}

// Device is an enrolled device.
type Device struct {
	Member codec.ID
	Hash   codec.Hash // of its control leaf
	Key    *codec.PrivateKey
	chains map[codec.ID]*chain
}

// Sign implements Signer.
func (d *Device) Sign(s *control.Statement) (control.Signature, error) {
	return control.Sign(d.Key, s)
}

// Leaf is a control leaf as the organisation added it.
type Leaf struct {
	Hash       codec.Hash
	Entry      []byte
	Statement  []byte
	Opening    *control.Opening
	Signatures []control.Signature
}

// Keys are the server's three keys.
type Keys struct {
	Control, Messages, Receipt *codec.PrivateKey
}

// Options say how an organisation differs from New's.
type Options struct {
	// The server's public keys, where a real server holds the private halves; the
	// organisation then can't sign checkpoints or receipts itself.
	ControlKey, MessagesKey, ReceiptKey codec.PublicKey
	// Policy is the first policy; nil means DefaultPolicy.
	Policy *control.Policy
	// Keyholders, Threshold, Guards: 0 means 5, 3 and 2.
	Keyholders, Threshold, Guards int
	// Holders, where not empty, are keyholders followed by guards that were
	// made elsewhere, such as by a daemon: their private keys stay unknown here,
	// so that the organisation ends with the genesis leaf.
	Holders []control.Holder
	// Witnesses, where not nil, are the witnesses; else two are made.
	Witnesses []Witness
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// GenesisOnly leaves out key generation, month and canary.
	GenesisOnly bool
}

// DefaultPolicy is what organisations start with: region eu, class standard,
// three approvals, no evidence needed.
func DefaultPolicy() control.Policy {
	return control.Policy{
		Version: 1, Region: "eu", Class: "standard", RetentionDays: 3650, Approvals: 3,
		DeviceEvidenceNone: true, OpenerEvidenceNone: true,
		MaxRequestDays: 3660, MaxCount: 10_000, MaxIndexKeys: 10_000, RequestHours: 168,
	}
}

// Org is an organisation. It is not safe for concurrent use.
type Org struct {
	T testing.TB

	ID      codec.Hash
	Genesis *control.Genesis
	Keys    Keys // nil where a server holds them

	Officers   []Person // 3, of whom 2 act
	Approvers  []Person // 5
	Reviewers  []Person // 2
	Keyholders []*Holder
	Guards     []*Holder
	Witnesses  []Witness

	Leaves []Leaf
	State  *control.State

	Control  *Log // nil where a server holds the keys
	Messages *Log

	Epoch codec.Hash // leaf of the escrow epoch
	Month codec.Hash // leaf of the current escrow key

	// Submit, where set, is handed each leaf that Add makes, after it was
	// applied here: to give it to a server.
	Submit func(l *Leaf) error

	now   func() time.Time
	heads map[codec.ID]*head
}

// New returns an organisation that is ready to send: 3 officers of whom 2 act,
// 5 approvers, 2 reviewers, keyholders 3 of 5, 2 guards, 2 witnesses, an epoch,
// this month's escrow key with its canary opened.
func New(t testing.TB) *Org { return NewWith(t, Options{}) }

// NewWith returns an organisation with options.
func NewWith(t testing.TB, opts Options) *Org {
	t.Helper()
	o := &Org{T: t, now: opts.Now, Witnesses: opts.Witnesses, heads: map[codec.ID]*head{}}
	if o.now == nil {
		o.now = time.Now
	}
	o.people(3, 5, 2)
	o.holders(opts)
	if o.Witnesses == nil {
		o.Witnesses = []Witness{NewWitness(t, "witness.example/one"), NewWitness(t, "witness.example/two")}
	}
	o.found(opts)
	if opts.GenesisOnly || len(opts.Holders) > 0 {
		return o
	}
	o.GenerateKey()
	o.AddMonth(control.MonthOf(envelope.DayOf(o.Now())))
	return o
}

// Now returns the organisation's time.
func (o *Org) Now() time.Time { return o.now() }

// SetClock replaces the clock. Control leaves refuse time that goes backwards.
func (o *Org) SetClock(now func() time.Time) { o.now = now }

// NewWitness returns a witness with a fresh key.
func NewWitness(t testing.TB, name string) Witness {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	return Witness{Name: name, Key: key}
}

// VerifierKey returns the witness's key as the genesis leaf has it.
func (w Witness) VerifierKey() ledger.WitnessKey {
	return ledger.WitnessKey{Name: w.Name, Key: codec.PublicKey(w.Key.Public().(ed25519.PublicKey))}
}

func (o *Org) people(officers, approvers, reviewers int) {
	o.T.Helper()
	for range officers {
		o.Officers = append(o.Officers, NewPerson(o.T))
	}
	for range approvers {
		o.Approvers = append(o.Approvers, NewPerson(o.T))
	}
	for range reviewers {
		o.Reviewers = append(o.Reviewers, NewPerson(o.T))
	}
}

func (o *Org) holders(opts Options) {
	o.T.Helper()
	keyholders, guards := orElse(opts.Keyholders, 5), orElse(opts.Guards, 2)
	if len(opts.Holders) > 0 {
		for i, h := range opts.Holders {
			holder := &Holder{Holder: h}
			if i < keyholders {
				o.Keyholders = append(o.Keyholders, holder)
			} else {
				o.Guards = append(o.Guards, holder)
			}
		}
		return
	}
	jurisdictions := []string{"CH", "DE", "NL"}
	for i := range keyholders {
		o.Keyholders = append(o.Keyholders, NewHolder(o.T, fmt.Sprintf("keyholder-%d", i+1), jurisdictions[i%3]))
	}
	for i := range guards {
		o.Guards = append(o.Guards, NewHolder(o.T, fmt.Sprintf("guard-%d", i+1), jurisdictions[i%3]))
	}
}

// NewHolder returns a keyholder or guard with fresh keys and nothing to hold.
func NewHolder(t testing.TB, name, jurisdiction string) *Holder {
	t.Helper()
	decrypt, err := ecdh.P256().GenerateKey(rand.Reader)
	must(t, err)
	key := codec.NewPrivateKey()
	return &Holder{
		Holder: control.Holder{Name: name, Jurisdiction: jurisdiction, Sign: key.PublicKey(), Encrypt: decrypt.PublicKey().Bytes()},
		Key:    key, Decrypt: decrypt, MLKEM: map[codec.Hash]*mlkem.DecapsulationKey768{},
	}
}

func (o *Org) found(opts Options) {
	o.T.Helper()
	g := &control.Genesis{
		Name: "Example plc", OfficerQuorum: 2, Threshold: uint8(orElse(opts.Threshold, 3)), WitnessQuorum: 2,
		ControlKey: opts.ControlKey, MessagesKey: opts.MessagesKey, ReceiptKey: opts.ReceiptKey,
		Policy: DefaultPolicy(),
	}
	if opts.Policy != nil {
		g.Policy = *opts.Policy
	}
	held := opts.ControlKey.IsZero()
	if held {
		o.Keys = Keys{codec.NewPrivateKey(), codec.NewPrivateKey(), codec.NewPrivateKey()}
		g.ControlKey, g.MessagesKey, g.ReceiptKey = o.Keys.Control.PublicKey(), o.Keys.Messages.PublicKey(), o.Keys.Receipt.PublicKey()
	}
	_, err := rand.Read(g.Nonce[:])
	must(o.T, err)
	g.Officers, g.Approvers, g.Reviewers = persons(o.Officers), persons(o.Approvers), persons(o.Reviewers)
	for _, h := range o.Keyholders {
		g.Keyholders = append(g.Keyholders, h.Holder)
	}
	for _, h := range o.Guards {
		g.Guards = append(g.Guards, h.Holder)
	}
	for _, w := range o.Witnesses {
		g.Witnesses = append(g.Witnesses, control.Witness{Name: w.Name, Key: w.VerifierKey().String()})
	}
	s, _, err := control.NewStatement(rand.Reader, codec.Hash{}, g)
	must(o.T, err)
	o.Genesis, o.ID = g, s.Hash()
	o.State = control.NewState(o.ID)
	if held {
		o.Control = newLog(o, ledger.ControlLog, o.Keys.Control)
		o.Messages = newLog(o, ledger.MessagesLog, o.Keys.Messages)
	}
	must(o.T, o.add(s, nil, signers(o.Officers)))
}

// NewCeremony returns the parameters of a key generation among the keyholders.
func (o *Org) NewCeremony() quorum.Ceremony {
	c := quorum.Ceremony{ID: codec.NewID(), T: int(o.Genesis.Threshold)}
	for _, h := range o.Keyholders {
		c.Peers = append(c.Peers, quorum.Point(h.Encrypt))
	}
	return c
}

// Participants returns the keyholders' parts in a key generation.
func (o *Org) Participants(c quorum.Ceremony) []*quorum.Participant {
	o.T.Helper()
	participants := make([]*quorum.Participant, len(o.Keyholders))
	for i, h := range o.Keyholders {
		var seed [quorum.SeedSize]byte
		_, err := rand.Read(seed[:])
		must(o.T, err)
		participants[i], err = quorum.NewParticipant(c, i+1, seed, h.Decrypt)
		must(o.T, err)
	}
	return participants
}

// GenerateKey runs a key generation among the keyholders and logs its epoch.
func (o *Org) GenerateKey() {
	o.T.Helper()
	c := o.NewCeremony()
	o.Add(&control.Ceremony{Ceremony: c}, o.Two()...)
	participants := o.Participants(c)
	var result *quorum.Result
	for done := 0; done < len(participants); {
		done = 0
		for i, p := range participants {
			_, board, _ := o.State.Ceremony(c.ID)
			next, end, err := p.Step(board)
			must(o.T, err)
			switch {
			case end != nil:
				o.Keyholders[i].Share, result = end.Share, end
				done++
			case next != nil:
				o.Add(&control.DKG{Message: *next}, o.Keyholders[i])
			}
		}
	}
	all := signers(o.Approvers)
	for _, h := range o.Keyholders {
		all = append(all, h)
	}
	o.Epoch = o.Add(&control.Epoch{
		Number: uint64(len(o.State.Epochs())) + 1, Ceremony: c.ID, Key: *result.Key, Transcript: result.Transcript,
	}, all...)
}

// AddMonth logs an escrow key for a month (control.MonthOf) under the policy's
// region and class, with its canary opened by all, and makes it the current.
func (o *Org) AddMonth(month uint32) codec.Hash {
	o.T.Helper()
	h := o.AddMonthUnopened(month)
	o.OpenCanary(h)
	return h
}

// AddMonthUnopened logs a month's escrow key without a canary: nobody may rely
// on it yet.
func (o *Org) AddMonthUnopened(month uint32) codec.Hash {
	o.T.Helper()
	key, err := mlkem.GenerateKey768()
	must(o.T, err)
	all := o.Two()
	for _, g := range o.Guards {
		all = append(all, g)
	}
	p := o.State.Policy()
	h := o.Add(&control.Month{
		Epoch: o.Epoch, Region: p.Region, Class: p.Class, Month: month, MLKEM: key.EncapsulationKey().Bytes(),
	}, all...)
	for _, g := range o.Guards {
		g.MLKEM[h] = key
	}
	return h
}

// OpenCanary logs a canary for a month's key and the answers of all holders.
func (o *Org) OpenCanary(month codec.Hash) {
	o.T.Helper()
	canary, env := o.Canary(month)
	leaf := o.Add(canary, o.Officers[0])
	e, err := quorum.ParsePoint(env.E())
	must(o.T, err)
	for i, h := range o.Keyholders {
		p, err := h.Share.Partial(e)
		must(o.T, err)
		o.Add(&control.CanaryAnswer{Canary: leaf, Holder: uint8(i + 1), Answer: p[:]}, h)
	}
	for i, g := range o.Guards {
		secret, err := g.MLKEM[month].Decapsulate(env.MLKEMCiphertext())
		must(o.T, err)
		o.Add(&control.CanaryAnswer{Canary: leaf, Guard: true, Holder: uint8(i + 1), Answer: secret}, g)
	}
	o.Month = month
}

// Canary returns an unlogged canary for a month's key, and its envelope.
func (o *Org) Canary(month codec.Hash) (*control.Canary, *envelope.Envelope) {
	o.T.Helper()
	m, ok := o.State.Month(month)
	if !ok {
		o.T.Fatalf("no month %s", month.Short())
	}
	public, err := m.PublicKey()
	must(o.T, err)
	seed, err := envelope.NewSeed(rand.Reader)
	must(o.T, err)
	c, err := envelope.Commit(&seed, nil)
	must(o.T, err)
	header := envelope.Header{
		Version: envelope.Version, Suite: envelope.Suite, Organisation: o.ID, EscrowKey: month,
		PolicyLeaf: o.State.Policy().Hash, Kind: envelope.KindVoid, Day: envelope.DayOf(o.Now()), Commitment: c,
	}
	env, secrets, err := envelope.Seal(public, header.Encode(), &seed, nil)
	must(o.T, err)
	core := envelope.Core{Header: header.Encode(), Envelope: env.Hash()}
	proof, err := secrets.Prove(core.Hash())
	must(o.T, err)
	tag := secrets.Tag(core.Hash())
	return &control.Canary{
		Month: month, Core: core.Encode(), Envelope: env.Encode(), Proof: proof[:], Tag: tag[:],
	}, env
}

// Two returns two officers, enough to act.
func (o *Org) Two() []Signer { return signers(o.Officers[:2]) }

// Add logs a statement with signatures and returns its hash.
func (o *Org) Add(body control.Body, by ...Signer) codec.Hash {
	o.T.Helper()
	h, err := o.Try(body, by...)
	must(o.T, err)
	return h
}

// Try is Add for statements that may be refused.
func (o *Org) Try(body control.Body, by ...Signer) (codec.Hash, error) {
	o.T.Helper()
	s, opening, err := control.NewStatement(rand.Reader, o.ID, body)
	must(o.T, err)
	return s.Hash(), o.add(s, opening, by)
}

func (o *Org) add(s *control.Statement, opening *control.Opening, by []Signer) error {
	l := Leaf{Hash: s.Hash(), Statement: codec.Encode(s), Opening: opening}
	for _, signer := range by {
		sig, err := signer.Sign(s)
		must(o.T, err)
		l.Signatures = append(l.Signatures, sig)
	}
	l.Entry = control.NewLeaf(s, o.Now().UnixMilli(), l.Signatures).Encode()
	if err := o.State.Apply(l.Entry, opening); err != nil {
		return err
	}
	o.Leaves = append(o.Leaves, l)
	if o.Control != nil {
		o.Control.Append(l.Entry)
	}
	if o.Submit != nil {
		return o.Submit(&l)
	}
	return nil
}

// NewMember enrols the first device of a fresh member.
func (o *Org) NewMember() *Device { o.T.Helper(); return o.Device(codec.NewID()) }

// Device enrols a device of a member by an invitation.
func (o *Org) Device(member codec.ID) *Device {
	o.T.Helper()
	return o.Enrol(member, o.Invite(member))
}

// Invite logs an invitation for a member and returns its secret key.
func (o *Org) Invite(member codec.ID) *codec.PrivateKey {
	o.T.Helper()
	key := codec.NewPrivateKey()
	o.Add(&control.Invitations{Invitations: []control.Invitation{
		{Member: member, Key: key.PublicKey(), Expiry: o.Now().Add(24 * time.Hour).UnixMilli()},
	}}, o.Two()...)
	return key
}

// Enrol logs a device's leaf under an invitation.
func (o *Org) Enrol(member codec.ID, invitation *codec.PrivateKey) *Device {
	o.T.Helper()
	d := &Device{Member: member, Key: codec.NewPrivateKey(), chains: map[codec.ID]*chain{}}
	d.Hash = o.Add(&control.Device{
		Member: member, Key: d.Key.PublicKey(), Evidence: control.EvidenceNone, Nonce: codec.NewID(),
	}, d, Key{invitation})
	return d
}

// Entries returns the entries of the control log.
func (o *Org) Entries() [][]byte {
	var out [][]byte
	for _, l := range o.Leaves {
		out = append(out, bytes.Clone(l.Entry))
	}
	return out
}

func persons(people []Person) []control.Person {
	var out []control.Person
	for _, p := range people {
		out = append(out, p.Control())
	}
	return out
}

func signers(people []Person) []Signer {
	var out []Signer
	for _, p := range people {
		out = append(out, p)
	}
	return out
}

func orElse(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
