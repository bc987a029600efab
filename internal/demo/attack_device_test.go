package demo

import (
	"crypto/elliptic"
	"crypto/hpke"
	"crypto/rand"
	"errors"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/nistec"
	"golang.org/x/mod/sumdb/tlog"

	"chancery/client/group"
	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/ceremony"
	"chancery/internal/handshake"
	"chancery/internal/httpsig"
	"chancery/internal/matters"
	"chancery/internal/opener"
	"chancery/internal/opening"
	"chancery/internal/orgtest"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/manifest"
	"chancery/request"
	"chancery/verify"
)

// renegade is an enrolled device that keeps to no rule: the test makes what it
// sends by hand. It talks to itself in a conversation of its own.
type renegade struct {
	s            *stage
	t            *testing.T
	member       codec.ID
	key          *codec.PrivateKey
	hash         codec.Hash // of its control leaf
	server       *remote.Client
	conversation codec.ID
	statement    codec.Hash
	seq          uint64
	prev         codec.Hash
	index        *orgtest.Message
}

func (s *stage) renegade(t *testing.T) *renegade {
	t.Helper()
	ctx := attackContext(t)
	invites, err := ceremony.InviteMembers(ctx, s.server, s.server, rand.Reader, s.home.Organisation, s.home.Server,
		[]string{"Renegade"}, time.Now().Add(time.Hour), s.officer, nil)
	if err != nil {
		t.Fatal(err)
	}
	invitation, err := invites[0].Key()
	if err != nil {
		t.Fatal(err)
	}
	r := &renegade{s: s, t: t, member: invites[0].Member, key: codec.NewPrivateKey(), conversation: codec.NewID()}
	r.hash = s.logged(t, &control.Device{Member: r.member, Key: r.key.PublicKey(), Evidence: control.EvidenceNone, Nonce: codec.NewID()}, byKey(r.key), byKey(invitation))
	r.server = s.server.As(httpsig.Ed25519(r.key))
	groups, err := group.New(time.Now)(r.hash, r.key.Seed(), unwritten{})
	if err != nil {
		t.Fatal(err)
	}
	step, err := groups.Create(r.conversation, handshake.Log{Read: s.replica.Read})
	if err != nil {
		t.Fatal(err)
	}
	commit, err := manifest.SignCommit(r.key, &manifest.Commit{
		Organisation: s.home.Organisation, Conversation: r.conversation, Device: r.hash, Roster: step.Roster.Root(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.server.Commit(ctx, &wire.CommitSubmission{Statement: commit, Roster: step.Roster, GroupInfo: step.GroupInfo}); err != nil {
		t.Fatal(err)
	}
	r.statement = manifest.CommitHash(commit)
	return r
}

// unwritten is a device's file that nothing was written to.
type unwritten struct{}

func (unwritten) Value(string) ([]byte, error)              { return nil, nil }
func (unwritten) Group(codec.ID) (map[string][]byte, error) { return nil, nil }

// draft is a message that the device may change before it signs.
type draft struct {
	*orgtest.Message
	transport *manifest.Transport
	month     *envelope.PublicKey
}

// seal makes an honest message at the end of the device's chain, and moves
// nothing on.
func (r *renegade) seal(kind envelope.Kind, text string) *draft {
	r.t.Helper()
	header := &envelope.Header{
		Version: envelope.Version, Suite: envelope.Suite, Organisation: r.s.home.Organisation, Device: r.hash,
		Conversation: r.conversation, Seq: r.seq, Prev: r.prev, Kind: kind, Day: envelope.DayOf(time.Now()),
	}
	d := &draft{transport: &manifest.Transport{Roster: r.statement}}
	var err error
	r.s.replica.Read(func(st *control.State) {
		policy := st.Policy()
		var month *control.MonthState
		if month, err = st.Escrow(policy.Policy.Region, policy.Policy.Class, header.Day); err != nil {
			return
		}
		header.PolicyLeaf, header.EscrowKey = policy.Hash, month.Hash
		d.month, err = month.PublicKey()
	})
	if err != nil {
		r.t.Fatal(err)
	}
	var record []byte
	if kind == envelope.KindRecord {
		record = (&envelope.Record{
			ID: codec.NewID().String(), Time: time.Now().UnixMilli(), Sender: "Renegade", Conversation: r.conversation, Text: text,
		}).Encode()
	}
	d.Message = orgtest.SealCore(r.t, d.month, header, record)
	return d
}

// swap puts another encapsulation into the envelope and makes its core anew,
// with the proof and tag that the device can make for it.
func (d *draft) swap(t *testing.T, enc []byte) {
	t.Helper()
	d.Envelope = &envelope.Envelope{Enc: enc, Ciphertext: d.Envelope.Ciphertext}
	d.Body.Envelope = d.Envelope.Hash()
	d.Reprove(t)
}

// submission signs a message, and frames for it an MLS ciphertext that nobody
// reads.
func (r *renegade) submission(d *draft) *wire.Submission {
	r.t.Helper()
	d.Index(r.t, r.index, d.transport)
	b := []byte{0, 1, 0, 2}
	b = append(append(b, byte(len(r.conversation))), r.conversation[:]...)
	b = append(append(b, make([]byte, 8)...), 1) // epoch 0, application data
	ad := manifest.AuthenticatedData(d.Core)
	b = append(append(b, byte(len(ad))), ad...)
	b = append(b, 3, 1, 2, 3) // sender data
	b = append(append(b, codec.HashSize), d.Core[:]...)
	d.transport.Ciphertexts = []codec.Hash{manifest.CiphertextHash(b)}
	d.Sign(r.t, r.key, d.transport)
	return &wire.Submission{Message: item(d.Message), Ciphertext: b}
}

func item(m *orgtest.Message) wire.Item {
	return wire.Item{Manifest: m.Manifest.Bytes(), Envelope: m.Envelope.Encode(), Tags: m.Tags}
}

// begin sends the device's first message, with the index envelope before it, which
// change may spoil.
func (r *renegade) begin(change func(index *draft)) {
	r.t.Helper()
	index := r.seal(envelope.KindIndex, "")
	if change != nil {
		change(index)
	}
	index.Sign(r.t, r.key, index.transport)
	r.index = index.Message
	r.seq, r.prev = r.seq+1, index.Core
	d := r.seal(envelope.KindRecord, "hello")
	in := r.submission(d)
	first := item(index.Message)
	in.Index = &first
	r.sent(d, in)
}

// send sends what the server must take.
func (r *renegade) send(d *draft) { r.t.Helper(); r.sent(d, r.submission(d)) }

func (r *renegade) sent(d *draft, in *wire.Submission) {
	r.t.Helper()
	if _, err := r.server.Send(attackContext(r.t), in); err != nil {
		r.t.Fatal(err)
	}
	r.seq, r.prev = r.seq+1, d.Core
}

// refused sends what the server must refuse for its proof, in a signed refusal
// that names the core.
func (r *renegade) refused(d *draft) {
	r.t.Helper()
	_, err := r.server.Send(attackContext(r.t), r.submission(d))
	var refused *remote.Refused
	if !errors.As(err, &refused) {
		r.t.Errorf("got %v, want a refusal", err)
		return
	}
	signed, err := manifest.OpenRefusal(r.s.genesis().ReceiptKey, refused.Refusal)
	if err != nil {
		r.t.Errorf("the refusal: %v", err)
		return
	}
	if !strings.HasPrefix(signed.Reason, "proof: ") || signed.Core != d.Core {
		r.t.Errorf("refused with %q of %s, want the proof of %s", signed.Reason, signed.Core.Short(), d.Core.Short())
	}
}

// own keeps the pieces of the device's conversation, but for its first message.
func (r *renegade) own(from *haul, cores ...codec.Hash) []piece {
	r.t.Helper()
	var out []piece
	for _, p := range from.records {
		if slices.Contains(cores, p.CoreHash()) {
			out = append(out, p)
		}
	}
	if len(out) != len(cores) {
		r.t.Fatalf("%d of %d messages are in the archive", len(out), len(cores))
	}
	return out
}

// shift returns E + kG for k = 7, and k.
func shift(t *testing.T, e []byte) (shifted, k []byte) {
	t.Helper()
	k = big.NewInt(7).FillBytes(make([]byte, 32))
	kG, err := nistec.NewP256Point().ScalarBaseMult(k)
	if err != nil {
		t.Fatal(err)
	}
	E, err := nistec.NewP256Point().SetBytes(e)
	if err != nil {
		t.Fatal(err)
	}
	return E.Add(E, kG).Bytes(), k
}

// moved adds k times the victim's challenge to the victim's response: what would
// prove E + kG if the challenge covered neither E nor the core.
func moved(t *testing.T, victim *piece, k []byte) envelope.Proof {
	t.Helper()
	proof := victim.Proof
	R, err := nistec.NewP256Point().SetBytes(append([]byte{2}, proof[:32]...))
	if err != nil {
		t.Fatal(err)
	}
	core := victim.CoreHash()
	challenge := codec.Sum("pok", victim.E(), R.Bytes(), core[:])
	z := new(big.Int).Mul(new(big.Int).SetBytes(challenge[:]), new(big.Int).SetBytes(k))
	z.Add(z, new(big.Int).SetBytes(proof[32:])).Mod(z, elliptic.P256().Params().N).FillBytes(proof[32:])
	return proof
}

// TestMaliciousDevice plays an enrolled device that wants a victim's envelope
// opened under a request of its own: it puts the victim's encapsulation, or one
// shifted by what it knows, into envelopes of its own.
func TestMaliciousDevice(t *testing.T) {
	s := scene(t, "approve")
	everything := s.insider(t, s.summary.Request).download()
	victim := everything.records[0]
	r := s.renegade(t)
	r.begin(nil)
	shifted, k := shift(t, victim.E())

	// What the device can show for an encapsulation that isn't its own: its own
	// proof, the victim's, and the victim's moved.
	proofs := func(d *draft) map[string]envelope.Proof {
		return map[string]envelope.Proof{"own": d.Proof, "victim's": victim.Proof, "moved": moved(t, &victim, k)}
	}
	for name, enc := range map[string][]byte{
		"copied encapsulation":            victim.Enc,
		"copied E, own ML-KEM ciphertext": nil,
		"shifted encapsulation":           append(slices.Clone(victim.MLKEMCiphertext()), shifted...),
	} {
		t.Run(name+", at the server", func(t *testing.T) {
			r.t = t
			for proof := range proofs(r.seal(envelope.KindRecord, "")) {
				d := r.seal(envelope.KindRecord, "nothing to see here")
				if enc == nil {
					d.swap(t, append(slices.Clone(d.Envelope.MLKEMCiphertext()), victim.E()...))
				} else {
					d.swap(t, enc)
				}
				d.Proof = proofs(d)[proof]
				if proof != "own" {
					d.Tag = victim.Tag
				}
				r.refused(d)
			}
		})
	}
	// Nothing of a refused message stays: the next one takes its place.
	r.t = t
	good := r.seal(envelope.KindRecord, "an honest invoice")
	r.send(good)
	// What the server can't see, it takes: the tag is for guards and recipients.
	copied := r.seal(envelope.KindRecord, "an invoice under the victim's ML-KEM ciphertext")
	copied.swap(t, append(slices.Clone(victim.MLKEMCiphertext()), copied.Envelope.E()...))
	r.send(copied)
	wrong := r.seal(envelope.KindRecord, "an invoice under a wrong tag")
	wrong.Tag[0] ^= 1
	r.send(wrong)

	h := s.ask(t, approvals, func(d *matters.Draft) { d.Custodians = []codec.ID{r.member} })
	i := s.insider(t, h)
	from := i.downloadSome(4)
	own := r.own(from, good.Core, copied.Core, wrong.Core)
	asked := s.holders()
	guards := asked[len(keyholders):]
	t.Run("forged items, at the holders", func(t *testing.T) {
		i.t = t
		for name, forge := range map[string]func(guard bool, item *request.Item){
			"copied E": func(guard bool, x *request.Item) { x.Encapsulation = encapsulation(guard, victim.Enc) },
			"shifted E": func(guard bool, x *request.Item) {
				x.Encapsulation = encapsulation(guard, append(slices.Clone(victim.MLKEMCiphertext()), shifted...))
			},
			"shifted own E": func(guard bool, x *request.Item) {
				e, _ := shift(t, own[0].E())
				x.Encapsulation = encapsulation(guard, append(slices.Clone(own[0].MLKEMCiphertext()), e...))
			},
		} {
			t.Run(name, func(t *testing.T) {
				i.t = t
				for _, x := range asked {
					raw := i.query(x.guard, x.index, own[:1], from, func(q *request.Query) { forge(x.guard, &q.Items[0]) })
					i.refused(x, raw, want{code: request.CodeEnvelope, reason: envelope.ErrProof.Error(), core: good.Core})
				}
				s.untouched(t, h)
			})
		}
		t.Run("manifest that was never receipted", func(t *testing.T) {
			i.t = t
			d := r.seal(envelope.KindRecord, "")
			d.swap(t, victim.Enc)
			d.Index(t, r.index, d.transport)
			d.Sign(t, r.key, d.transport)
			for _, x := range asked {
				raw := i.query(x.guard, x.index, own[:1], from, func(q *request.Query) {
					q.Items[0].Manifest, q.Items[0].Encapsulation = d.Manifest.Bytes(), encapsulation(x.guard, victim.Enc)
				})
				i.refused(x, raw, want{code: request.CodeEnvelope, reason: "proof does not verify", core: d.Core})
			}
			s.untouched(t, h)
		})
	})
	t.Run("copied ML-KEM ciphertext and wrong pq tag, at the guards", func(t *testing.T) {
		i.t = t
		for _, x := range guards {
			i.withheld(x, own, from, copied.Core, wrong.Core)
		}
		if n := s.uses(t, h); n != len(guards) {
			t.Errorf("%d uses are on the log", n)
		}
	})
	t.Run("and the honest one is answered", func(t *testing.T) {
		h := s.ask(t, approvals, func(d *matters.Draft) { d.Custodians = []codec.ID{r.member} })
		i := s.insider(t, h)
		for _, x := range []holder{asked[0], guards[0]} {
			i.answered(x, i.query(x.guard, x.index, own[:1], from, nil))
		}
	})
	t.Run("everything else is opened", func(t *testing.T) { s.setAside(t, r, good, copied, wrong) })
}

// withheld asks a guard about pieces and demands that it withholds the secrets of
// these cores, saying of what, and gives the others.
func (i *insider) withheld(h holder, pieces []piece, from *haul, cores ...codec.Hash) {
	i.t.Helper()
	answer := i.answered(h, i.query(true, h.index, pieces, from, nil))
	_, parts, err := request.OpenAnswer(h.Sign, i.decrypt, i.request, answer)
	if err != nil || len(parts.Parts) != len(pieces) {
		i.t.Fatalf("%s: %d parts, %v", h.Name, len(parts.Parts), err)
	}
	for n, p := range pieces {
		withheld := parts.Withholds(n, p.Manifest.Hash(), p.Enc)
		given := envelope.VerifyTag(parts.Parts[n], p.CoreHash(), &p.Tag) == nil
		if bad := slices.Contains(cores, p.CoreHash()); withheld != bad || given == bad {
			i.t.Errorf("%s answers %d bytes for envelope %s", h.Name, len(parts.Parts[n]), p.CoreHash().Short())
		}
	}
}

// production is what somebody gets who opens a request as the reviewer does.
type production struct {
	result *opener.Result
	export []byte
	report *verify.Report
}

// produce opens a search of some members' messages, and has the auditor judge
// the pack.
func (s *stage) produce(t *testing.T, custodians ...codec.ID) *production {
	t.Helper()
	key, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	h := s.ask(t, approvals, func(d *matters.Draft) { d.Custodians, d.Recipient = custodians, key.PublicKey().Bytes() })
	ctx := attackContext(t)
	p := &production{}
	if p.result, err = s.tryOpen(ctx, func(c *opening.Config) { c.Request = h }); err != nil {
		t.Fatal(err)
	}
	if err := matters.Await(ctx, s.replica, s.server, p.result.Index); err != nil {
		t.Fatal(err)
	}
	var evidence []byte
	if p.export, evidence, _, err = opening.Unseal(ctx, s.server.As(httpsig.SSH(s.reviewer)), s.replica, h, key); err != nil {
		t.Fatal(err)
	}
	p.report = verify.Pack(s.home.Organisation, evidence)
	if !p.report.OK {
		var b strings.Builder
		p.report.Write(&b)
		t.Error(b.String())
	}
	return p
}

// notOpened demands that exactly these envelopes aren't opened, for their tags,
// and that opener and auditor name the device and its member.
func (p *production) notOpened(t *testing.T, by map[codec.Hash]*renegade) {
	t.Helper()
	const reason = "every guard says that the sender's tag is wrong"
	if len(p.result.Broken) != len(by) || len(p.report.NotOpened) != len(by) {
		t.Errorf("%d envelopes not opened, the auditor says %d, want %d", len(p.result.Broken), len(p.report.NotOpened), len(by))
	}
	for _, b := range p.result.Broken {
		if r := by[b.Core]; r == nil || b.Device != r.hash || b.Member != r.member || b.Reason != reason {
			t.Errorf("the opener says %+v", b)
		}
	}
	for _, u := range p.report.NotOpened {
		if r := by[u.Envelope]; r == nil || u.Device != r.hash || u.Member != r.member || u.Reason != reason {
			t.Errorf("the auditor says %+v", u)
		}
	}
}

// setAside: what a device made so that no guard may answer for it keeps nobody
// from the rest, and is its own shame. One guard can't do that to a good one.
func (s *stage) setAside(t *testing.T, r *renegade, good, copied, wrong *draft) {
	hider := s.renegade(t)
	hider.begin(func(index *draft) { index.Tag[0] ^= 1 })
	by := map[codec.Hash]*renegade{copied.Core: r, wrong.Core: r}

	t.Run("without a guard", func(t *testing.T) {
		h := s.ask(t, approvals, func(d *matters.Draft) { d.Custodians = []codec.ID{r.member} })
		gone := slices.Clone(s.home.Guards)
		gone[1].URL = "http://127.0.0.1:1"
		_, err := s.tryOpen(attackContext(t), func(c *opening.Config) { c.Request, c.Endpoints.Guards = h, gone })
		for _, w := range []string{"no guard answered for envelope", "of device " + r.hash.Short(), "each of the organisation's guards has to say", "guard-2: "} {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("the opener says %v, want %q", err, w)
			}
		}
		s.uses(t, h) // no last word is on the log
	})
	t.Run("with both", func(t *testing.T) {
		p := s.produce(t, r.member, hider.member)
		if n := p.result; n.Exported != 1 || n.Opened != 1 || n.Unsearchable != 1 || len(n.Faults) != 0 || p.report.Unsearchable != 1 {
			t.Errorf("result: %+v", n)
		}
		if !strings.Contains(string(p.export), good.Core.String()) {
			t.Errorf("the honest message is not in the export: %s", p.export)
		}
		all := maps.Clone(by)
		all[hider.index.Core] = hider
		p.notOpened(t, all)
	})
	t.Run("with one that lies about the good ones", func(t *testing.T) {
		liar := s.turn(t, "guard-1")
		liar.lies.Store(true)
		defer liar.lies.Store(false)
		p := s.produce(t, r.member)
		if want := []string{"guard-1"}; !slices.Equal(p.result.Faults, want) || !slices.Equal(p.report.Faults, want) {
			t.Errorf("the opener names %q, the auditor %q", p.result.Faults, p.report.Faults)
		}
		if p.result.Exported != 1 {
			t.Errorf("%d exported", p.result.Exported)
		}
		p.notOpened(t, by)
	})
}

// encapsulation returns what a keyholder or a guard is given of enc.
func encapsulation(guard bool, enc []byte) []byte {
	if guard {
		return enc
	}
	return enc[len(enc)-65:]
}

// hiddenRevocation: the log lacks a revocation that the holders were handed, so
// that the server goes on taking what the device sends. None of it opens.
func (s *stage) hiddenRevocation(t *testing.T, desk *matters.Desk) {
	r := s.renegade(t)
	r.begin(nil)
	before := r.seal(envelope.KindRecord, "while it was the member's")
	r.send(before)
	_, err := desk.Revoke(attackContext(t), r.hash, "stolen")
	hidden(t, err)
	after := r.seal(envelope.KindRecord, "from the thief")
	r.send(after)
	h := s.ask(t, approvals, func(d *matters.Draft) { d.Custodians = []codec.ID{r.member} })
	i := s.insider(t, h)
	from := i.downloadSome(3)
	late := r.own(from, after.Core)
	i.refusedByAll(want{code: request.CodeEnvelope, reason: "its device had been revoked, as was handed over", core: after.Core}, late, from, nil)
	// What it sent before is not the thief's.
	k := s.holders()[0]
	i.answered(k, i.query(false, k.index, r.own(from, before.Core), from, nil))
}

// falseLog is the messages log as a server continues it that has all witnesses
// on its side.
type falseLog struct {
	size       int64
	edge       ledger.Edge
	hashes     []tlog.Hash
	checkpoint []byte
}

// ReadHashes implements tlog.HashReader.
func (l *falseLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for n, x := range indexes {
		out[n] = l.hashes[x]
	}
	return out, nil
}

func (l *falseLog) add(t *testing.T, entry []byte) int64 {
	t.Helper()
	var err error
	if l.hashes, err = l.edge.Append(l.hashes, entry); err != nil {
		t.Fatal(err)
	}
	l.size++
	return l.size - 1
}

// falseLog returns the real log up to now, to be continued.
func (s *stage) falseLog(t *testing.T) *falseLog {
	t.Helper()
	c := s.messages(t, 0)
	entries, err := s.server.Entries(attackContext(t), ledger.MessagesLog, 0, c.Size)
	if err != nil {
		t.Fatal(err)
	}
	l := &falseLog{}
	for _, e := range entries {
		l.add(t, e)
	}
	return l
}

// receive logs a message that the server would have to refuse.
func (l *falseLog) receive(r *renegade, d *draft) piece {
	r.t.Helper()
	d.Index(r.t, r.index, d.transport)
	d.Sign(r.t, r.key, d.transport)
	size := r.s.replica.Size()
	root, _ := r.s.replica.Root(size)
	opening, err := manifest.NewOpening(rand.Reader, manifest.ReceiptBody{
		Kind: manifest.LeafMessage, Conversation: r.conversation, ControlSize: size, ControlRoot: root,
		Time: time.Now().UnixMilli(), Position: 9, Previous: codec.Sum("a leaf"),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	leaf := opening.Leaf(d.Manifest.Hash())
	return piece{Manifest: d.Manifest, Envelope: d.Envelope, index: l.add(r.t, leaf[:]), opening: *opening}
}

// TestServerAndDeviceTogether: the server logs what the device made around a
// victim's encapsulation, and every witness signs the log that has it. Only the
// proofs and tags are left, and each holder checks those.
func TestServerAndDeviceTogether(t *testing.T) {
	s := scene(t, "approve")
	victim := s.insider(t, s.summary.Request).download().records[0]
	r := s.renegade(t)
	r.begin(nil)
	h := s.ask(t, approvals, func(d *matters.Draft) { d.Custodians = []codec.ID{r.member} })
	i := s.insider(t, h)
	from := i.downloadSome(1)
	shifted, k := shift(t, victim.E())
	l := s.falseLog(t)

	type forgery struct {
		name string
		piece
	}
	var forged []forgery
	for name, enc := range map[string][]byte{
		"copied encapsulation":  victim.Enc,
		"shifted encapsulation": append(slices.Clone(victim.MLKEMCiphertext()), shifted...),
	} {
		for n, proof := range []envelope.Proof{{}, victim.Proof, moved(t, &victim, k)} {
			d := r.seal(envelope.KindRecord, "nothing to see here")
			d.swap(t, enc)
			if n > 0 {
				d.Proof, d.Tag = proof, victim.Tag
			}
			forged = append(forged, forgery{name + ", " + []string{"own", "victim's", "moved"}[n] + " proof", l.receive(r, d)})
		}
	}
	d := r.seal(envelope.KindRecord, "under the victim's ML-KEM ciphertext")
	d.swap(t, append(slices.Clone(victim.MLKEMCiphertext()), d.Envelope.E()...))
	copied := l.receive(r, d) // only guards can tell
	honest := l.receive(r, r.seal(envelope.KindRecord, "an honest one"))
	i.log = l
	l.checkpoint = s.conspire(t, ledger.Checkpoint{
		Origin: ledger.Origin(s.home.Organisation, ledger.MessagesLog), Size: l.size, Root: tlog.Hash(l.edge.Root()),
	}, s.serverKeys(t).Messages)

	for _, f := range forged {
		t.Run(f.name, func(t *testing.T) {
			i.t = t
			for _, x := range s.holders() {
				w := want{code: request.CodeEnvelope, reason: envelope.ErrProof.Error(), core: f.CoreHash()}
				i.refused(x, i.query(x.guard, x.index, []piece{f.piece}, from, nil), w)
				i.refused(x, i.query(x.guard, x.index, []piece{honest, f.piece}, from, nil), w)
			}
			s.untouched(t, h)
		})
	}
	// The log itself they believe: that is what all witnesses are for.
	i.t = t
	for _, x := range s.holders() {
		if x.guard {
			i.withheld(x, []piece{honest, copied}, from, copied.CoreHash())
			continue
		}
		i.answered(x, i.query(x.guard, x.index, []piece{honest}, from, nil))
	}
	// And so they notice that the server's own is another.
	i.log = nil
	for _, x := range s.holders() {
		i.refused(x, i.query(x.guard, x.index, from.records[:1], from, nil), want{code: request.CodeStale, reason: "messages log: "})
	}
}
