package custody

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/mlkem"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/dirlock"
	"chancery/quorum"
)

// Roles of a holder. One holder has one role for good: whoever held a share and
// a month's key would be both locks.
const (
	Keyholder Role = "keyholder"
	Guard     Role = "guard"
)

// Role says which kind of key a holder has.
type Role string

var (
	// ErrRole means that a holder was asked for what its role must not have: a
	// guard for a share, a keyholder for a month's key.
	ErrRole = errors.New("not in this holder's role")
	// ErrNotHeld means that a share or month's key is not here, or no longer.
	ErrNotHeld = errors.New("key is not held here")
	// ErrFull means that a file holds as many keys as it may.
	ErrFull = errors.New("holder holds too many keys")
)

const (
	fileName    = "holder.sealed"
	labelHolder = "holder"

	maxCeremonies = 64   // unfinished ones: officers could open any number
	maxKeys       = 4096 // shares, and months' keys
)

// File is a holder's secrets in one sealed file: the signing key, the key that
// shares are dealt to, and either the seeds of ceremonies and shares of a
// keyholder or the months' ML-KEM keys of a guard. It performs operations and
// never gives a key away; every change is on disk before the method that made
// it returns. It is safe for concurrent use until Close.
type File struct {
	path   string
	secret Secret
	role   Role
	lock   *os.File
	sign   *codec.PrivateKey
	decr   *ecdh.PrivateKey

	mu     sync.RWMutex // guards what follows; held while writing
	state  fileState
	shares map[codec.ID]*quorum.Share                // by ceremony
	months map[codec.Hash]*mlkem.DecapsulationKey768 // by hash of the public key
}

var _ codec.Signer = (*File)(nil)

type fileState struct {
	_       struct{} `cbor:",toarray"`
	Guard   bool
	Name    string
	Sign    [codec.PrivateKeySize]byte
	Encrypt [quorum.ScalarSize]byte
	Seeds   []seedState
	Shares  []shareState
	Months  []monthState
}

type seedState struct {
	_        struct{} `cbor:",toarray"`
	Ceremony codec.ID
	Seed     [quorum.SeedSize]byte
}

type shareState struct {
	_        struct{} `cbor:",toarray"`
	Ceremony codec.ID
	Index    uint8
	Scalar   [quorum.ScalarSize]byte
}

type monthState struct {
	_    struct{}   `cbor:",toarray"`
	Slot codec.Hash // what it was made for; zero where it came from another guard
	Seed [mlkem.SeedSize]byte
}

// Made reports whether a directory is a holder's, made by Create.
func Made(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, fileName))
	return err == nil
}

// Create makes a holder of a role in a directory, which it creates where
// missing, and returns what the genesis leaf says of it. It returns
// fs.ErrExist, wrapped, where the directory has a holder.
func Create(dir string, s Secret, name, jurisdiction string, role Role) (control.Holder, error) {
	if role != Keyholder && role != Guard {
		return control.Holder{}, fmt.Errorf("role %q: %w", role, ErrRole)
	}
	if name == "" || len(name) > 64 {
		return control.Holder{}, fmt.Errorf("a holder has a name of 1 to 64 bytes, not %d", len(name))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return control.Holder{}, fmt.Errorf("couldn't make the holder's directory: %w", err)
	}
	sign := codec.NewPrivateKey()
	defer sign.Erase()
	decrypt, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return control.Holder{}, fmt.Errorf("couldn't make an encryption key: %w", err)
	}
	state := fileState{
		Guard: role == Guard, Name: name,
		Sign: [codec.PrivateKeySize]byte(sign.Seed()), Encrypt: [quorum.ScalarSize]byte(decrypt.Bytes()),
	}
	defer state.erase()
	plain := codec.Encode(&state)
	defer clear(plain)
	data, err := Seal(s, labelHolder, plain)
	if err != nil {
		return control.Holder{}, fmt.Errorf("couldn't seal the holder's keys: %w", err)
	}
	if err := CreateFile(filepath.Join(dir, fileName), data, 0o600); err != nil {
		return control.Holder{}, err
	}
	return control.Holder{
		Name: name, Jurisdiction: jurisdiction, Sign: sign.PublicKey(), Encrypt: decrypt.PublicKey().Bytes(),
	}, nil
}

// OpenHolder opens the holder in a directory and takes the directory for this
// process until Close. It returns ErrSecret, ErrSealed, dirlock.ErrInUse or the
// system's error, wrapped.
func OpenHolder(dir string, s Secret) (*File, error) {
	path := filepath.Join(dir, fileName)
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("no holder in %s: %w", dir, err)
	}
	l, err := dirlock.Acquire(dir)
	if err != nil {
		return nil, err
	}
	f := &File{
		path: path, secret: s, lock: l, shares: map[codec.ID]*quorum.Share{}, months: map[codec.Hash]*mlkem.DecapsulationKey768{},
	}
	if err := f.load(); err != nil {
		l.Close()
		return nil, err
	}
	return f, nil
}

func (f *File) load() error {
	plain, err := OpenFile(f.path, f.secret, labelHolder)
	if err != nil {
		return err
	}
	defer clear(plain)
	if err := codec.Decode(plain, &f.state); err != nil {
		return fmt.Errorf("%s: %w: %w", f.path, ErrSealed, err)
	}
	if f.state.Guard && len(f.state.Seeds)+len(f.state.Shares) > 0 || !f.state.Guard && len(f.state.Months) > 0 {
		return fmt.Errorf("%s holds keys of both kinds: %w", f.path, ErrRole)
	}
	f.role = Keyholder
	if f.state.Guard {
		f.role = Guard
	}
	if f.sign, err = codec.PrivateKeyFromSeed(f.state.Sign[:]); err != nil {
		return err
	}
	if f.decr, err = ecdh.P256().NewPrivateKey(f.state.Encrypt[:]); err != nil {
		return fmt.Errorf("%s: encryption key: %w", f.path, ErrSealed)
	}
	for _, s := range f.state.Shares {
		if f.shares[s.Ceremony], err = quorum.NewShare(int(s.Index), s.Scalar[:]); err != nil {
			return fmt.Errorf("%s: share: %w", f.path, err)
		}
	}
	for _, m := range f.state.Months {
		if err := f.expand(m.Seed[:]); err != nil {
			return err
		}
	}
	return nil
}

func (f *File) expand(seed []byte) error {
	key, err := mlkem.NewDecapsulationKey768(seed)
	if err != nil {
		return fmt.Errorf("%s: month's key: %w", f.path, err)
	}
	f.months[monthID(key.EncapsulationKey().Bytes())] = key
	return nil
}

func monthID(public []byte) codec.Hash { return codec.Sum("custody/month", public) }

// Close gives the directory back and erases the keys in memory. No other method
// may run then or later.
func (f *File) Close() error {
	f.sign.Erase()
	f.state.erase()
	for _, s := range f.shares {
		s.Erase()
	}
	clear(f.months)
	return f.lock.Close()
}

func (s *fileState) erase() {
	clear(s.Sign[:])
	clear(s.Encrypt[:])
	clear(s.Seeds)
	clear(s.Shares)
	clear(s.Months)
}

// Format prints no secret, whatever the verb.
func (f *File) Format(w fmt.State, _ rune) {
	fmt.Fprintf(w, "custody.File(%s %s, redacted)", f.role, f.state.Name)
}

// Name returns the name that the holder was made with.
func (f *File) Name() string { return f.state.Name }

// Guard reports whether the holder is a guard; otherwise it is a keyholder.
func (f *File) Guard() bool { return f.role == Guard }

// PublicKey returns the key that verifies what the holder signs.
func (f *File) PublicKey() codec.PublicKey { return f.sign.PublicKey() }

// Encrypt returns the P-256 point, 65 bytes, that shares are dealt to.
func (f *File) Encrypt() []byte { return f.decr.PublicKey().Bytes() }

// Sign implements codec.Signer.
func (f *File) Sign(label string, msg []byte) ([]byte, error) { return f.sign.Sign(label, msg) }

// Sign1 implements codec.Signer.
func (f *File) Sign1(label string, payload []byte) ([]byte, error) {
	return f.sign.Sign1(label, payload)
}

// Held returns how many shares and months' keys are here.
func (f *File) Held() (shares, months int) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return len(f.shares), len(f.months)
}

// change writes next durably, and only then lets it count. The caller holds mu.
func (f *File) change(next *fileState) error {
	plain := codec.Encode(next)
	defer clear(plain)
	if err := SealFile(f.path, f.secret, labelHolder, plain); err != nil {
		return fmt.Errorf("couldn't store the holder's keys: %w", err)
	}
	f.state = *next
	return nil
}

func (f *File) want(role Role) error {
	if f.role != role {
		return fmt.Errorf("%s is a %s: %w", f.state.Name, f.role, ErrRole)
	}
	return nil
}

// Step is quorum.Participant.Step for keyholder index of a ceremony: it returns
// the message to post next, or nothing while it waits, or the result without
// the share once all have confirmed, the share being stored by then. The seed
// that everything follows from is stored before the first message is returned
// and erased with the result. It returns ErrRole, ErrFull, and Step's errors.
func (f *File) Step(c quorum.Ceremony, index int, board []quorum.Message) (*quorum.Message, *quorum.Result, error) {
	if err := f.want(Keyholder); err != nil {
		return nil, nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.shares[c.ID]; ok {
		key, transcript, err := quorum.Verify(c, board)
		if err != nil {
			return nil, nil, err
		}
		return nil, &quorum.Result{Key: key, Transcript: transcript}, nil
	}
	seed, err := f.seed(c.ID)
	if err != nil {
		return nil, nil, err
	}
	defer clear(seed[:])
	p, err := quorum.NewParticipant(c, index, seed, f.decr)
	if err != nil {
		return nil, nil, err
	}
	defer p.Erase()
	next, result, err := p.Step(board)
	if err != nil || result == nil {
		return next, nil, err
	}
	if err := f.keep(c.ID, result.Share); err != nil {
		result.Share.Erase()
		return nil, nil, err
	}
	return nil, &quorum.Result{Key: result.Key, Transcript: result.Transcript, Excluded: result.Excluded}, nil
}

// seed returns a ceremony's seed, new and stored where there is none.
func (f *File) seed(ceremony codec.ID) ([quorum.SeedSize]byte, error) {
	for _, s := range f.state.Seeds {
		if s.Ceremony == ceremony {
			return s.Seed, nil
		}
	}
	if len(f.state.Seeds) >= maxCeremonies {
		return [quorum.SeedSize]byte{}, fmt.Errorf("%d unfinished ceremonies: %w", len(f.state.Seeds), ErrFull)
	}
	s := seedState{Ceremony: ceremony}
	rand.Read(s.Seed[:]) // never fails
	next := f.state
	next.Seeds = append(slices.Clone(f.state.Seeds), s)
	return s.Seed, f.change(&next)
}

// keep stores a share and forgets the seed that it came from.
func (f *File) keep(ceremony codec.ID, share *quorum.Share) error {
	if len(f.state.Shares) >= maxKeys {
		return fmt.Errorf("%d shares: %w", len(f.state.Shares), ErrFull)
	}
	scalar := share.Bytes()
	defer clear(scalar)
	old := f.state.Seeds
	next := f.state
	next.Seeds = slices.DeleteFunc(slices.Clone(old), func(s seedState) bool { return s.Ceremony == ceremony })
	next.Shares = append(slices.Clone(f.state.Shares), shareState{
		Ceremony: ceremony, Index: uint8(share.Index()), Scalar: [quorum.ScalarSize]byte(scalar),
	})
	if err := f.change(&next); err != nil {
		return err
	}
	clear(old)
	f.shares[ceremony] = share
	return nil
}

func (f *File) share(ceremony codec.ID) (*quorum.Share, error) {
	if err := f.want(Keyholder); err != nil {
		return nil, err
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	s, ok := f.shares[ceremony]
	if !ok {
		return nil, fmt.Errorf("share of ceremony %s: %w", ceremony, ErrNotHeld)
	}
	return s, nil
}

// HasShare reports whether the share of a ceremony is here.
func (f *File) HasShare(ceremony codec.ID) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	_, ok := f.shares[ceremony]
	return ok
}

// Partial returns the share of a ceremony times E, 65 bytes. Unguarded this is
// a Diffie-Hellman oracle: whoever calls it has checked that the sender of E
// knows its logarithm and that the answer was approved. It returns ErrRole,
// ErrNotHeld and Share.Partial's errors.
func (f *File) Partial(ceremony codec.ID, E quorum.Point) (quorum.Point, error) {
	s, err := f.share(ceremony)
	if err != nil {
		return quorum.Point{}, err
	}
	return s.Partial(E)
}

// Prove is quorum.Share.Prove for the share of a ceremony. It returns ErrRole,
// ErrNotHeld and Share.Prove's errors.
func (f *File) Prove(ceremony codec.ID, E, partial quorum.Point, context []byte) (quorum.DLEQ, error) {
	s, err := f.share(ceremony)
	if err != nil {
		return quorum.DLEQ{}, err
	}
	return s.Prove(E, partial, context)
}

// MakeMonth returns the ML-KEM-768 public key, 1,184 bytes, of a fresh key
// pair for a slot; asked again, the same. It returns ErrRole or ErrFull.
func (f *File) MakeMonth(slot codec.Hash) ([]byte, error) {
	if err := f.want(Guard); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.state.Months {
		if m.Slot == slot {
			return public(m.Seed[:])
		}
	}
	key, err := mlkem.GenerateKey768()
	if err != nil {
		return nil, fmt.Errorf("couldn't make a month's key: %w", err)
	}
	seed := key.Bytes()
	defer clear(seed)
	if err := f.add(slot, seed); err != nil {
		return nil, err
	}
	return key.EncapsulationKey().Bytes(), nil
}

func public(seed []byte) ([]byte, error) {
	key, err := mlkem.NewDecapsulationKey768(seed)
	if err != nil {
		return nil, fmt.Errorf("month's key: %w", err)
	}
	return key.EncapsulationKey().Bytes(), nil
}

func (f *File) add(slot codec.Hash, seed []byte) error {
	if len(f.state.Months) >= maxKeys {
		return fmt.Errorf("%d months' keys: %w", len(f.state.Months), ErrFull)
	}
	next := f.state
	next.Months = append(slices.Clone(f.state.Months), monthState{Slot: slot, Seed: [mlkem.SeedSize]byte(seed)})
	if err := f.change(&next); err != nil {
		return err
	}
	return f.expand(seed)
}

// HasMonth reports whether the private half of an ML-KEM public key is here.
func (f *File) HasMonth(public []byte) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	_, ok := f.months[monthID(public)]
	return ok
}

// Decapsulate returns the 32-byte shared secret of an ML-KEM-768 ciphertext,
// 1,088 bytes, under a public key held. A ciphertext that is not of this key
// gives a secret nobody knows (FIPS 203 §6.3): the caller checks the tag before
// it tells anybody. It returns ErrRole, ErrNotHeld, or an error for another
// length.
func (f *File) Decapsulate(public, ciphertext []byte) ([]byte, error) {
	if err := f.want(Guard); err != nil {
		return nil, err
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	key, ok := f.months[monthID(public)]
	if !ok {
		return nil, fmt.Errorf("month's key: %w", ErrNotHeld)
	}
	return key.Decapsulate(ciphertext)
}

func transferSuite() (hpke.KEM, hpke.KDF, hpke.AEAD) {
	return hpke.MLKEM768X25519(), hpke.HKDFSHA256(), hpke.AES256GCM()
}

// Hand seals the seed of a month's key to another guard's public key
// (MLKEM768-X25519, 1,216 bytes), bound to info. The caller has checked whose
// key that is. It returns ErrRole, ErrNotHeld, or an error for a bad key.
func (f *File) Hand(public, recipient, info []byte) ([]byte, error) {
	if err := f.want(Guard); err != nil {
		return nil, err
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	key, ok := f.months[monthID(public)]
	if !ok {
		return nil, fmt.Errorf("month's key: %w", ErrNotHeld)
	}
	kem, kdf, aead := transferSuite()
	to, err := kem.NewPublicKey(recipient)
	if err != nil {
		return nil, fmt.Errorf("recipient's key: %w", err)
	}
	seed := key.Bytes()
	defer clear(seed)
	return hpke.Seal(to, kdf, aead, info, seed)
}

// Receive returns a fresh public key (MLKEM768-X25519, 1,216 bytes) and the
// function that takes what Hand sealed to it: it checks that the seed gives the
// month's public key and stores it before it returns. It returns ErrRole.
func (f *File) Receive() (recipient []byte, take func(public, info, sealed []byte) error, err error) {
	if err := f.want(Guard); err != nil {
		return nil, nil, err
	}
	kem, kdf, aead := transferSuite()
	key, err := kem.GenerateKey()
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't make a key to receive with: %w", err)
	}
	return key.PublicKey().Bytes(), func(want, info, sealed []byte) error {
		seed, err := hpke.Open(key, kdf, aead, info, sealed)
		if err != nil {
			return fmt.Errorf("couldn't open the seed handed over: %w", err)
		}
		defer clear(seed)
		got, err := public(seed)
		if err != nil {
			return err
		}
		if !slices.Equal(got, want) {
			return errors.New("the seed handed over is of another key")
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if _, ok := f.months[monthID(want)]; ok {
			return nil
		}
		return f.add(codec.Hash{}, seed)
	}, nil
}

// Destroy erases a month's key from the file and from memory; one that is not
// here is destroyed already. What a disk or a backup has kept is out of its
// reach. It returns ErrRole.
func (f *File) Destroy(key []byte) error {
	if err := f.want(Guard); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	id := monthID(key)
	if _, ok := f.months[id]; !ok {
		return nil
	}
	old := f.state.Months
	next := f.state
	next.Months = nil
	for _, m := range old {
		p, err := public(m.Seed[:])
		if err != nil {
			return err
		}
		if !slices.Equal(p, key) {
			next.Months = append(next.Months, m)
		}
	}
	if err := f.change(&next); err != nil {
		return err
	}
	clear(old)
	delete(f.months, id)
	return nil
}
