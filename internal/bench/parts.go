package bench

import (
	"crypto/aes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/mlkem"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"time"

	"filippo.io/nistec"
	"golang.org/x/mod/sumdb/tlog"

	"chancery/blindindex"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/ledger"
	"chancery/manifest"
	"chancery/quorum"
)

const textSize = 2048 // bytes of text in the record measured

// kit is an escrow key with all its shares in one process, which is for
// measuring alone, and a record sealed under it.
type kit struct {
	key     *quorum.PublicKey
	shares  []*quorum.Share
	guard   *mlkem.DecapsulationKey768
	public  *envelope.PublicKey
	device  *codec.PrivateKey
	seed    envelope.Seed
	record  []byte
	header  []byte
	env     *envelope.Envelope
	core    *envelope.Core
	proof   envelope.Proof
	tag     [32]byte
	point   quorum.Point
	signed  *manifest.Manifest
	answers []quorum.Answer
	secret  []byte
}

func newKit() (*kit, error) {
	k := &kit{device: codec.NewPrivateKey()}
	if err := k.generate(3, 5); err != nil {
		return nil, err
	}
	var err error
	if k.guard, err = mlkem.GenerateKey768(); err != nil {
		return nil, err
	}
	if k.public, err = envelope.NewPublicKey(k.key.Key[:], k.guard.EncapsulationKey().Bytes()); err != nil {
		return nil, err
	}
	if k.seed, err = envelope.NewSeed(rand.Reader); err != nil {
		return nil, err
	}
	text := make([]byte, textSize)
	for i := range text {
		text[i] = "a quick brown fox, and so on. "[i%30]
	}
	k.record = (&envelope.Record{ID: "bench", Sender: "somebody", Text: string(text)}).Encode()
	commitment, err := envelope.Commit(&k.seed, k.record)
	if err != nil {
		return nil, err
	}
	h := &envelope.Header{Version: envelope.Version, Suite: envelope.Suite, Kind: envelope.KindRecord, Day: envelope.DayOf(time.Now()), Commitment: commitment}
	k.header = h.Encode()
	return k, k.seal()
}

func (k *kit) seal() error {
	env, secrets, err := envelope.Seal(k.public, k.header, &k.seed, k.record)
	if err != nil {
		return err
	}
	k.env, k.core = env, &envelope.Core{Header: k.header, Envelope: env.Hash()}
	core := k.core.Hash()
	if k.proof, err = secrets.Prove(core); err != nil {
		return err
	}
	k.tag = secrets.Tag(core)
	if k.signed, err = manifest.Sign(k.device, k.core, k.proof, k.tag, &manifest.Transport{}); err != nil {
		return err
	}
	if k.point, err = quorum.ParsePoint(env.E()); err != nil {
		return err
	}
	for _, s := range k.shares[:3] {
		p, err := s.Partial(k.point)
		if err != nil {
			return err
		}
		k.answers = append(k.answers, quorum.Answer{Holder: s.Index(), Point: p})
	}
	k.secret, err = k.guard.Decapsulate(env.MLKEMCiphertext())
	return err
}

// generate runs a whole key generation in memory.
func (k *kit) generate(t, n int) error {
	c := quorum.Ceremony{ID: codec.NewID(), T: t}
	var keys []*ecdh.PrivateKey
	for range n {
		key, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		keys = append(keys, key)
		c.Peers = append(c.Peers, quorum.PeerKey(key.PublicKey().Bytes()))
	}
	var participants []*quorum.Participant
	for i, key := range keys {
		var seed [32]byte
		rand.Read(seed[:]) // never fails
		p, err := quorum.NewParticipant(c, i+1, seed, key)
		if err != nil {
			return err
		}
		participants = append(participants, p)
	}
	var board []quorum.Message
	for range 16 {
		for i, p := range participants {
			next, result, err := p.Step(board)
			if err != nil {
				return err
			}
			if next != nil {
				board = append(board, *next)
			}
			if result != nil && len(k.shares) == i {
				k.key, k.shares = result.Key, append(k.shares, result.Share)
			}
		}
		if len(k.shares) == n {
			return nil
		}
	}
	return fmt.Errorf("the key generation did not end")
}

// check panics: what is measured was seen to work before it is measured.
func check(err error) {
	if err != nil {
		panic(err)
	}
}

func scalarMult() func() {
	p := nistec.NewP256Point().SetGenerator()
	k := make([]byte, 32)
	rand.Read(k) // never fails
	q := nistec.NewP256Point()
	return func() {
		_, err := q.ScalarMult(p, k)
		check(err)
	}
}

func times(n int, f func()) func() {
	return func() {
		for range n {
			f()
		}
	}
}

// envelopes measures a sender's, a recipient's and anybody's work.
func envelopes(r *Report, o Options) error {
	k, err := newKit()
	if err != nil {
		return fmt.Errorf("couldn't prepare: %w", err)
	}
	std := func() {
		_, s, err := hpke.NewSender(k.public.HPKE(), hpke.HKDFSHA256(), hpke.AES256GCM(), []byte("bench"))
		check(err)
		_, err = s.Seal(k.header, k.record)
		check(err)
	}
	core := k.core.Hash()
	r.cost(o, "send 2 KB: commit, seal, prove, tag, sign", func() {
		c, err := envelope.Commit(&k.seed, k.record)
		check(err)
		_ = c
		_, s, err := envelope.Seal(k.public, k.header, &k.seed, k.record)
		check(err)
		p, err := s.Prove(core)
		check(err)
		_, err = manifest.Sign(k.device, k.core, p, s.Tag(core), k.signed.Transport)
		check(err)
	}, "std HPKE seal of 2 KB, same suite", std)
	device := k.device.PublicKey()
	r.cost(o, "recipient's check: parse, signature, C, re-seal, proof, tag", func() {
		m, err := manifest.Parse(k.signed.Bytes())
		check(err)
		check(m.Verify(device))
		check(envelope.Check(k.public, m.Core, &k.seed, k.record, &m.Proof, &m.Tag))
	}, "std HPKE seal of 2 KB, same suite", std)
	message, signature := make([]byte, 600), []byte(nil)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	signature = ed25519.Sign(private, message)
	mult := scalarMult()
	r.cost(o, "anybody's check: parse, signature, proof of knowledge", func() {
		m, err := manifest.Parse(k.signed.Bytes())
		check(err)
		check(m.Verify(device))
		check(envelope.VerifyProof(k.env.E(), core, &m.Proof))
	}, "Ed25519 verify and one P-256 multiplication", func() {
		if !ed25519.Verify(public, message, signature) {
			panic("bench: signature")
		}
		mult()
	})
	return nil
}

// holders measures what an opening costs those who take part.
func holders(r *Report, o Options) error {
	k, err := newKit()
	if err != nil {
		return fmt.Errorf("couldn't prepare: %w", err)
	}
	core := k.core.Hash()
	mult := scalarMult()
	r.cost(o, "keyholder's answer: proof of knowledge, partial", func() {
		check(envelope.VerifyProof(k.env.E(), core, &k.proof))
		_, err := k.shares[0].Partial(k.point)
		check(err)
	}, "two P-256 multiplications", times(2, mult))
	decapsulate := func() {
		_, err := k.guard.Decapsulate(k.env.MLKEMCiphertext())
		check(err)
	}
	r.cost(o, "guard's answer: proof of knowledge, decapsulate, tag", func() {
		check(envelope.VerifyProof(k.env.E(), core, &k.proof))
		ss, err := k.guard.Decapsulate(k.env.MLKEMCiphertext())
		check(err)
		check(envelope.VerifyTag(ss, core, &k.tag))
	}, "ML-KEM-768 decapsulation and a P-256 multiplication", func() { decapsulate(); mult() })
	r.cost(o, "open an envelope: five partials, 3 of 5, guard, re-seal", func() {
		var answers []quorum.Answer
		for _, s := range k.shares {
			p, err := s.Partial(k.point)
			check(err)
			answers = append(answers, quorum.Answer{Holder: s.Index(), Point: p})
		}
		ss, err := k.guard.Decapsulate(k.env.MLKEMCiphertext())
		check(err)
		seed, record, err := control.OpenWith(k.key, k.public, k.header, k.env, answers[:3], ss)
		check(err)
		check(envelope.Check(k.public, k.core, seed, record, &k.proof, &k.tag))
	}, "five P-256 multiplications and a decapsulation", func() { times(5, mult)(); decapsulate() })
	return nil
}

// logs measures appending to a log.
func logs(r *Report, o Options) error {
	const batch = 256
	entries := make([][]byte, batch)
	for i := range entries {
		h := sha256.Sum256([]byte{byte(i)})
		entries[i] = h[:]
	}
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = stored[x]
		}
		return out, nil
	})
	size := int64(0)
	r.rate(o, "ledger: leaves appended, in memory", "/s", batch, func() {
		if size > 1<<20 {
			stored, size = stored[:0], 0
		}
		hashes, err := ledger.Append(reader, size, entries)
		check(err)
		stored, size = append(stored, hashes...), size+batch
	}, "SHA-256 of a leaf and of a node each", batch, func() {
		var node [65]byte
		for i := range entries {
			sha256.Sum256(entries[i])
			sha256.Sum256(node[:])
		}
	})
	return nil
}

// scans measures a search's scan.
func scans(r *Report, o Options) error {
	const messages = 1000
	key := blindindex.KeyFromSeed(make([]byte, 32))
	seed := make([]byte, 32)
	hashes, tags := make([]codec.Hash, messages), make([][]byte, messages)
	for i := range messages {
		hashes[i] = codec.Sum("bench", []byte{byte(i), byte(i >> 8)})
		var terms []blindindex.Term
		for j := range 16 {
			terms = append(terms, blindindex.Term{Field: "text", Text: fmt.Sprint(i, j)})
		}
		tags[i] = blindindex.Encode(blindindex.Tags(&key, seed, hashes[i], terms))
	}
	query := blindindex.NewQuery(&key, blindindex.Term{Field: "text", Text: "absent"})
	block, err := aes.NewCipher(make([]byte, 16))
	if err != nil {
		return err
	}
	var buf [16]byte
	r.rate(o, "search: messages scanned for a term, 16 tags each", "/s", messages, func() {
		for i := range hashes {
			if query.MatchEncoded(hashes[i], tags[i]) {
				panic("bench: a term that is nowhere was found")
			}
		}
	}, "AES-128 blocks", messages, func() {
		for range messages {
			block.Encrypt(buf[:], buf[:])
		}
	})
	return nil
}
