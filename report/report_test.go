package report_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"

	"chancery/codec"
	"chancery/envelope"
	"chancery/internal/orgtest"
	"chancery/manifest"
	"chancery/report"
)

type scene struct {
	*orgtest.Org
	conversation codec.ID
	sender       *orgtest.Device
}

func newScene(t testing.TB) *scene {
	o := orgtest.New(t)
	d := o.NewMember()
	return &scene{o, o.Conversation(d, o.NewMember()), d}
}

func (s *scene) root(size int64) (codec.Hash, bool) {
	if size < 1 || size > s.Control.Size() {
		return codec.Hash{}, false
	}
	return s.Control.Root(size), true
}

func (s *scene) verify(r *report.Report) (*report.Verdict, error) {
	return report.Verify(s.State, s.root, r.Encode())
}

// lie sends a message whose envelope holds another text, as a liar would that
// knows the envelope's ephemeral key and so passes every check of the server.
func (s *scene) lie(t testing.TB) (*orgtest.Message, []byte) {
	t.Helper()
	shown := (&envelope.Record{ID: "1", Conversation: s.conversation, Text: "sell everything"}).Encode()
	hidden := (&envelope.Record{ID: "1", Conversation: s.conversation, Text: "lunch at noon?"}).Encode()
	header := s.Header(s.conversation, s.sender, envelope.KindRecord)
	m := s.SealCore(header, hidden)
	var err error
	if header.Commitment, err = envelope.Commit(&m.Seed, shown); err != nil {
		t.Fatal(err)
	}
	e := &envelope.Core{Header: header.Encode(), Envelope: m.Envelope.Hash()}
	month, _ := s.State.Month(s.Month)
	public, err := month.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	other := *header
	if other.Commitment, err = envelope.Commit(&m.Seed, hidden); err != nil {
		t.Fatal(err)
	}
	_, secrets, err := envelope.Seal(public, other.Encode(), &m.Seed, hidden)
	if err != nil {
		t.Fatal(err)
	}
	m.Body, m.Core, m.Tag = e, e.Hash(), secrets.Tag(e.Hash())
	if m.Proof, err = secrets.Prove(m.Core); err != nil {
		t.Fatal(err)
	}
	if err := envelope.VerifyProof(m.Envelope.E(), m.Core, &m.Proof); err != nil {
		t.Fatal("the server would have noticed")
	}
	m.Sign(t, s.sender.Key, &manifest.Transport{})
	s.Accept(m)
	return m, shown
}

func TestLiarIsConvicted(t *testing.T) {
	s := newScene(t)
	m, shown := s.lie(t)
	v, err := s.verify(report.New(m.Manifest, m.Receipt, m.Seed, shown))
	if err != nil {
		t.Fatal(err)
	}
	if v.Fault != report.FaultEnvelope || v.Device != s.sender.Hash || v.Member != s.sender.Member || v.Server || v.Leaf != m.Leaf {
		t.Errorf("got %+v", v)
	}
}

// TestNobodyIsConvictedFalsely: whoever reports can't invent a mismatch.
func TestNobodyIsConvictedFalsely(t *testing.T) {
	s := newScene(t)
	honest := s.Send(s.conversation, s.sender, "hello")
	liar, shown := s.lie(t)
	r := report.New(honest.Manifest, honest.Receipt, honest.Seed, honest.Record)
	if _, err := s.verify(r); !errors.Is(err, report.ErrHonest) {
		t.Errorf("honest message: got %v", err)
	}
	seed, err := envelope.NewSeed(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := manifest.Sign(codec.NewPrivateKey(), honest.Body, honest.Proof, honest.Tag, honest.Manifest.Transport)
	if err != nil {
		t.Fatal(err)
	}
	strange, err := manifest.SignReceipt(codec.NewPrivateKey(), &manifest.Receipt{Index: honest.Leaf, Object: honest.Manifest.Hash(), Opening: honest.Opening})
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*report.Report{
		"invented seed":     report.New(honest.Manifest, honest.Receipt, seed, honest.Record),
		"invented record":   report.New(honest.Manifest, honest.Receipt, honest.Seed, shown),
		"another's receipt": report.New(honest.Manifest, liar.Receipt, honest.Seed, honest.Record),
		"unsigned manifest": report.New(forged, honest.Receipt, honest.Seed, shown),
		"unsigned receipt":  report.New(honest.Manifest, strange, honest.Seed, shown),
	} {
		if v, err := s.verify(r); !errors.Is(err, report.ErrUnproven) {
			t.Errorf("%s: got %+v, %v", name, v, err)
		}
	}
	r = report.New(liar.Manifest, liar.Receipt, liar.Seed, shown)
	r.Target = honest.Core
	if _, err := s.verify(r); !errors.Is(err, report.ErrUnproven) {
		t.Errorf("another's target: got %v", err)
	}
	none := func(int64) (codec.Hash, bool) { return codec.Hash{}, false }
	if _, err := report.Verify(s.State, none, r.Encode()); !errors.Is(err, report.ErrControl) {
		t.Errorf("short log: got %v", err)
	}
}

func TestWrongProofAndTag(t *testing.T) {
	s := newScene(t)
	for want, spoil := range map[report.Fault]func(m *orgtest.Message){
		report.FaultTag:   func(m *orgtest.Message) { m.Tag[0] ^= 1 },
		report.FaultProof: func(m *orgtest.Message) { m.Proof[40] ^= 1 },
	} {
		record := (&envelope.Record{ID: "1", Conversation: s.conversation}).Encode()
		m := s.SealCore(s.Header(s.conversation, s.sender, envelope.KindRecord), record)
		spoil(m)
		m.Sign(t, s.sender.Key, &manifest.Transport{})
		s.Accept(m)
		if v, err := s.verify(report.New(m.Manifest, m.Receipt, m.Seed, record)); err != nil || v.Fault != want {
			t.Errorf("%v: got %+v, %v", want, v, err)
		}
	}
	header := s.Header(s.conversation, s.sender, envelope.KindRecord)
	header.Day -= 30
	record := (&envelope.Record{ID: "2", Conversation: s.conversation}).Encode()
	m := s.SealHeader(s.sender, header, record, nil)
	s.Accept(m)
	if v, err := s.verify(report.New(m.Manifest, m.Receipt, envelope.Seed{}, nil)); err != nil || v.Fault != report.FaultHeader || !v.Server {
		t.Errorf("header: got %+v, %v", v, err)
	}
}

func FuzzParse(f *testing.F) {
	s := newScene(f)
	m, shown := s.lie(f)
	f.Add(report.New(m.Manifest, m.Receipt, m.Seed, shown).Encode())
	f.Add([]byte{})
	size, last := s.Control.Size(), s.Control.Root(s.Control.Size())
	root := func(n int64) (codec.Hash, bool) { return last, n == size }
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := report.Parse(data)
		if err != nil {
			return
		}
		if !bytes.Equal(r.Encode(), data) {
			t.Fatal("accepted bytes that are not canonical")
		}
		report.Verify(s.State, root, data)
	})
}
