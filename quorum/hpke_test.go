package quorum

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/mlkem"
	"errors"
	"testing"
)

// envelope is a ciphertext that std sealed to a quorum's and a guard's key.
type envelope struct {
	fixture
	guard       *mlkem.DecapsulationKey768
	info, aad   []byte
	enc, ct     []byte
	plaintext   []byte
	encapsulate Point // the P-256 half of enc
}

func sealed768(t testing.TB, threshold, n int) envelope {
	t.Helper()
	v := envelope{
		fixture: split(t, "hpke", threshold, n),
		info:    []byte("info"), aad: []byte("header"), plaintext: []byte("the record"),
	}
	var err error
	if v.guard, err = mlkem.NewDecapsulationKey768(make([]byte, mlkem.SeedSize)); err != nil {
		t.Fatal(err)
	}
	p256, err := ecdh.P256().NewPublicKey(v.key.Key[:])
	if err != nil {
		t.Fatal(err)
	}
	public, err := hpke.NewHybridPublicKey(v.guard.EncapsulationKey(), p256)
	if err != nil {
		t.Fatal(err)
	}
	enc, sender, err := hpke.NewSender(public, hpke.HKDFSHA256(), hpke.AES256GCM(), v.info)
	if err != nil {
		t.Fatal(err)
	}
	if v.ct, err = sender.Seal(v.aad, v.plaintext); err != nil {
		t.Fatal(err)
	}
	v.enc = enc
	if v.encapsulate, err = ParsePoint(enc[mlkem.CiphertextSize768:]); err != nil {
		t.Fatal(err)
	}
	return v
}

// open is the opener's part: two opaque keys under crypto/hpke.
func (v *envelope) open(t testing.TB, answers []Answer, ss []byte) ([]byte, error) {
	t.Helper()
	key, err := NewKey(v.key, v.encapsulate, answers)
	if err != nil {
		return nil, err
	}
	guard, err := NewGuard(v.guard.EncapsulationKey(), v.enc[:mlkem.CiphertextSize768], ss)
	if err != nil {
		return nil, err
	}
	private, err := hpke.NewHybridPrivateKey(guard, key)
	if err != nil {
		t.Fatal(err)
	}
	if private.KEM().ID() != 0x0050 {
		t.Fatalf("KEM %#x", private.KEM().ID())
	}
	r, err := hpke.NewRecipient(v.enc, private, hpke.HKDFSHA256(), hpke.AES256GCM(), v.info)
	if err != nil {
		return nil, err
	}
	return r.Open(v.aad, v.ct)
}

func TestQuorumAndGuardUnderHPKE(t *testing.T) {
	v := sealed768(t, 3, 5)
	answers := v.answers(t, v.encapsulate)
	ss, err := v.guard.Decapsulate(v.enc[:mlkem.CiphertextSize768])
	if err != nil {
		t.Fatal(err)
	}
	for quorum := range Subsets(answers, 3) {
		got, err := v.open(t, quorum, ss)
		if err != nil || !bytes.Equal(got, v.plaintext) {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	// Two locks: neither opens without the other.
	if _, err := v.open(t, answers[:3], make([]byte, 32)); err == nil {
		t.Error("opened without the guard")
	}
	if _, err := v.open(t, answers[:2], ss); !errors.Is(err, ErrAnswers) {
		t.Errorf("two of three: got %v", err)
	}
	wrong := append([]Answer{{Holder: 5, Point: v.encapsulate}}, answers[:2]...)
	if _, err := v.open(t, wrong, ss); err == nil {
		t.Error("opened with a wrong answer")
	}
	if _, err := NewGuard(v.guard.EncapsulationKey(), nil, ss); err == nil {
		t.Error("guard without a ciphertext")
	}
	if _, err := NewGuard(v.guard.EncapsulationKey(), v.enc[:mlkem.CiphertextSize768], ss[1:]); err == nil {
		t.Error("guard with a short secret")
	}
	if _, err := NewGuard(nil, v.enc[:mlkem.CiphertextSize768], ss); err == nil {
		t.Error("guard without a key")
	}
}

// Answers for one encapsulation act for no other.
func TestKeyAndGuardAreForOneEncapsulation(t *testing.T) {
	v := sealed768(t, 2, 3)
	key, err := NewKey(v.key, v.encapsulate, v.answers(t, v.encapsulate)[:2])
	if err != nil {
		t.Fatal(err)
	}
	g := Generator()
	other, err := ecdh.P256().NewPublicKey(g[:])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.ECDH(other); !errors.Is(err, ErrOther) {
		t.Errorf("got %v, want ErrOther", err)
	}
	ct := v.enc[:mlkem.CiphertextSize768]
	guard, err := NewGuard(v.guard.EncapsulationKey(), ct, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(ct)
	bad[0] ^= 1
	for _, c := range [][]byte{bad, nil, ct[1:]} {
		if _, err := guard.Decapsulate(c); !errors.Is(err, ErrOther) {
			t.Errorf("got %v, want ErrOther", err)
		}
	}
	if !key.PublicKey().Equal(must(ecdh.P256().NewPublicKey(v.key.Key[:]))) || key.Curve() != ecdh.P256() {
		t.Error("wrong public key")
	}
	guard.Erase()
	if _, err := guard.Decapsulate(ct); !errors.Is(err, ErrErased) {
		t.Errorf("got %v, want ErrErased", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// The key agreement of std is the oracle for the whole quorum.
func TestKeyAgainstECDH(t *testing.T) {
	f := split(t, "ecdh", 3, 5)
	private := must(ecdh.P256().NewPrivateKey(scalarBytes(f.secret)))
	E := baseMult(t, number("e"))
	remote := must(ecdh.P256().NewPublicKey(E[:]))
	want := must(private.ECDH(remote))
	for quorum := range Subsets(f.answers(t, E), 3) {
		key, err := NewKey(f.key, E, quorum)
		if err != nil {
			t.Fatal(err)
		}
		if got := must(key.ECDH(remote)); !bytes.Equal(got, want) {
			t.Fatal("differs from crypto/ecdh")
		}
	}
}
