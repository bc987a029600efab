package custody

import (
	"bytes"
	"crypto/mlkem"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/dirlock"
	"chancery/quorum"
)

var testKey = Key([KeySize]byte{42})

func create(t *testing.T, role Role) (string, control.Holder) {
	t.Helper()
	dir := t.TempDir()
	h, err := Create(dir, testKey, string(role), "CH", role)
	if err != nil {
		t.Fatal(err)
	}
	return dir, h
}

func open(t *testing.T, dir string) *File {
	t.Helper()
	f, err := OpenHolder(dir, testKey)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestHolder(t *testing.T) {
	dir, h := create(t, Guard)
	if _, err := Create(dir, testKey, "again", "CH", Guard); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made over another: %v", err)
	}
	f := open(t, dir)
	if f.PublicKey() != h.Sign || !bytes.Equal(f.Encrypt(), h.Encrypt) || !f.Guard() || f.Name() != "guard" {
		t.Error("opened another holder than was made")
	}
	if _, err := OpenHolder(dir, testKey); !errors.Is(err, dirlock.ErrInUse) {
		t.Errorf("two at a time: %v", err)
	}
	seed := f.sign.Seed()
	for _, verb := range []string{"%v", "%+v", "%x", "%#v"} {
		if out := fmt.Sprintf(verb, f); strings.Contains(out, fmt.Sprintf("%x", seed[:8])) || strings.Contains(out, fmt.Sprint(seed[:8])) {
			t.Errorf("%s prints the signing key", verb)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenHolder(dir, Key([KeySize]byte{1})); !errors.Is(err, ErrSecret) {
		t.Errorf("wrong secret: %v", err)
	}
	if _, err := OpenHolder(t.TempDir(), testKey); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
}

// A holder of one kind can't be made to hold the other.
func TestOneKindOfKey(t *testing.T) {
	dir, h := create(t, Guard)
	guard := open(t, dir)
	defer guard.Close()
	c := quorum.Ceremony{ID: codec.NewID(), T: 1, Peers: []quorum.PeerKey{quorum.PeerKey(h.Encrypt)}}
	if _, _, err := guard.Step(c, 1, nil); !errors.Is(err, ErrRole) {
		t.Errorf("a guard took part in a ceremony: %v", err)
	}
	if _, err := guard.Partial(c.ID, quorum.Generator()); !errors.Is(err, ErrRole) {
		t.Errorf("a guard answered as a keyholder: %v", err)
	}
	dir, _ = create(t, Keyholder)
	keyholder := open(t, dir)
	defer keyholder.Close()
	if _, err := keyholder.MakeMonth(codec.Hash{1}); !errors.Is(err, ErrRole) {
		t.Errorf("a keyholder made a month's key: %v", err)
	}
	if _, _, err := keyholder.Receive(); !errors.Is(err, ErrRole) {
		t.Errorf("a keyholder received a month's key: %v", err)
	}
	if _, err := keyholder.Decapsulate(nil, nil); !errors.Is(err, ErrRole) {
		t.Errorf("a keyholder decapsulated: %v", err)
	}
	// Nor by a file that has both.
	both := keyholder.state
	both.Months = []monthState{{}}
	if err := keyholder.change(&both); err != nil {
		t.Fatal(err)
	}
	keyholder.lock.Close()
	if _, err := OpenHolder(dir, testKey); !errors.Is(err, ErrRole) {
		t.Errorf("a file of both kinds opened: %v", err)
	}
}

func TestMonths(t *testing.T) {
	dir1, _ := create(t, Guard)
	dir2, _ := create(t, Guard)
	one, two := open(t, dir1), open(t, dir2)
	slot := codec.Sum("slot")
	ek, err := one.MakeMonth(slot)
	if err != nil {
		t.Fatal(err)
	}
	one.Close()
	one = open(t, dir1)
	again, err := one.MakeMonth(slot)
	if err != nil || !bytes.Equal(ek, again) {
		t.Fatalf("after a restart the slot has another key, %v", err)
	}
	if other, err := one.MakeMonth(codec.Sum("other")); err != nil || bytes.Equal(ek, other) {
		t.Fatalf("two slots, one key; %v", err)
	}
	transfer(t, one, two, ek)
	two.Close()
	two = open(t, dir2)
	public, err := mlkem.NewEncapsulationKey768(ek)
	if err != nil {
		t.Fatal(err)
	}
	want, ct := public.Encapsulate()
	for i, g := range []*File{one, two} {
		if got, err := g.Decapsulate(ek, ct); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("guard %d: %v", i+1, err)
		}
		if err := g.Destroy(ek); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Decapsulate(ek, ct); !errors.Is(err, ErrNotHeld) || g.HasMonth(ek) {
			t.Fatalf("guard %d uses a destroyed key: %v", i+1, err)
		}
		if err := g.Destroy(ek); err != nil {
			t.Fatalf("destroyed twice: %v", err)
		}
		g.Close()
	}
	one = open(t, dir1)
	defer one.Close()
	if _, months := one.Held(); months != 1 || one.HasMonth(ek) {
		t.Fatal("a destroyed key is back after a restart, or the other one gone")
	}
}

func transfer(t *testing.T, from, to *File, ek []byte) {
	t.Helper()
	recipient, take, err := to.Receive()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := from.Hand(ek, recipient, []byte("info"))
	if err != nil {
		t.Fatal(err)
	}
	if err := take(ek, []byte("other info"), sealed); err == nil {
		t.Error("took a seed under other information")
	}
	other, err := from.MakeMonth(codec.Sum("other"))
	if err != nil {
		t.Fatal(err)
	}
	if err := take(other, []byte("info"), sealed); err == nil {
		t.Error("took a seed of another key")
	}
	if err := take(ek, []byte("info"), sealed); err != nil {
		t.Fatal(err)
	}
}

// Five keyholders, each closed and opened again at random, agree on one key
// and hold its shares.
func TestCeremonyWithRestarts(t *testing.T) {
	const n = 5
	dirs := make([]string, n)
	files := make([]*File, n)
	c := quorum.Ceremony{ID: codec.NewID(), T: 3}
	for i := range n {
		var h control.Holder
		dirs[i], h = create(t, Keyholder)
		files[i] = open(t, dirs[i])
		c.Peers = append(c.Peers, quorum.PeerKey(h.Encrypt))
	}
	random := rand.New(rand.NewPCG(1, 2))
	var board []quorum.Message
	keys := map[codec.Hash]int{}
	finished := make([]bool, n)
	for done := 0; done < n; {
		i := random.IntN(n)
		next, result, err := files[i].Step(c, i+1, board)
		if err != nil {
			t.Fatal(err)
		}
		// A crash here loses the message, or only the word that it was posted.
		if random.IntN(3) == 0 {
			files[i].Close()
			files[i] = open(t, dirs[i])
			if random.IntN(2) == 0 {
				continue
			}
		}
		if next != nil {
			board = append(board, *next)
		}
		if result != nil && !finished[i] {
			finished[i] = true
			done++
			keys[codec.Sum("key", codec.Encode(result.Key))]++
			if result.Share != nil {
				t.Fatal("custody gave a share away")
			}
		}
	}
	if len(keys) != 1 {
		t.Fatalf("%d different keys", len(keys))
	}
	key, _, err := quorum.Verify(c, board)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		if len(f.state.Seeds) != 0 || len(f.state.Shares) != 1 {
			t.Errorf("keyholder %d holds %d seeds and %d shares", i+1, len(f.state.Seeds), len(f.state.Shares))
		}
		got, err := f.Partial(c.ID, quorum.Generator())
		if err != nil || got != key.Shares[i] {
			t.Errorf("keyholder %d holds another share, %v", i+1, err)
		}
		proof, err := f.Prove(c.ID, quorum.Generator(), got, []byte("context"))
		if err != nil {
			t.Error(err)
		}
		if err := key.VerifyAnswer(quorum.Generator(), quorum.Answer{Holder: i + 1, Point: got}, []byte("context"), proof); err != nil {
			t.Error(err)
		}
		f.Close()
	}
}

// Whoever can write no more doesn't say what it couldn't store.
func TestNothingIsSaidThatIsNotStored(t *testing.T) {
	dir, _ := create(t, Guard)
	f := open(t, dir)
	defer f.Close()
	f.path = filepath.Join(dir, "gone", fileName) // a directory that isn't there
	if _, err := f.MakeMonth(codec.Sum("slot")); err == nil {
		t.Fatal("a key was given out that is not stored")
	}
	if _, months := f.Held(); months != 0 {
		t.Fatal("a key counts that is not stored")
	}
}
