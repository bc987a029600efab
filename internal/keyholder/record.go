package keyholder

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"chancery/codec"
	"chancery/internal/custody"
)

const (
	recordFile  = "record.log"
	headFile    = "record.head"
	maxEntry    = 1024 // bytes of an encoded entry
	maxHead     = 512
	labelHead   = "record-head"
	labelRecord = "record"
)

// What an entry is about.
const (
	didAnswer  = "answer"
	didRefuse  = "refusal"
	didNotice  = "notice"
	didHand    = "transfer"
	didDestroy = "destruction"
)

// entry is one line of the holder's record (spec/opening.md#record).
type entry struct {
	_        struct{}   `cbor:",toarray"`
	Previous codec.Hash // hash of the entry before; zero for the first
	Time     int64      // milliseconds since 1970, UTC
	What     string
	Request  codec.Hash // or the statement that it is about
	Use      codec.Hash // use leaf; zero where there is none
	Root     codec.Hash // of the use's set
	Count    uint64
	Outcome  string // "answered", or the code of a refusal
}

func (e *entry) hash() codec.Hash { return codec.Sum(labelRecord, codec.Encode(e)) }

func parseEntry(data []byte) (*entry, error) {
	var e entry
	if err := codec.Decode(data, &e); err != nil {
		return nil, fmt.Errorf("entry: %w", err)
	}
	return &e, nil
}

// head is where the record stands, signed by the holder: without it a record
// that lost its last entries would look whole.
type head struct {
	_     struct{} `cbor:",toarray"`
	Count uint64
	Hash  codec.Hash
}

// record is the holder's own account of what it did: entries chained by their
// hashes, each on disk before what it tells of leaves the machine. It is safe
// for concurrent use.
type record struct {
	dir    string
	signer codec.Signer

	mu     sync.Mutex // guards what follows
	file   *os.File
	head   head
	broken error // once an append has failed nothing more may be appended
}

// openRecord opens the record in a directory and checks all of it. Of an entry
// that was being written when the process ended, what there is is cut off; all
// else that is missing or changed is ErrRecord.
func openRecord(dir string, signer codec.Signer) (*record, error) {
	signed, err := readHead(dir, signer)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, recordFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("couldn't open the record: %w", err)
	}
	r := &record{dir: dir, signer: signer, file: f}
	if err := r.check(signed); err != nil {
		f.Close()
		return nil, err
	}
	return r, nil
}

func readHead(dir string, signer codec.Signer) (head, error) {
	raw, err := readOptional(filepath.Join(dir, headFile))
	if err != nil || raw == nil {
		return head{}, err
	}
	if len(raw) > maxHead {
		return head{}, fmt.Errorf("%w: its head is too long", ErrRecord)
	}
	payload, err := codec.Open1(signer.PublicKey(), labelHead, raw)
	if err != nil {
		return head{}, fmt.Errorf("%w: its head: %w", ErrRecord, err)
	}
	var h head
	if err := codec.Decode(payload, &h); err != nil {
		return head{}, fmt.Errorf("%w: its head: %w", ErrRecord, err)
	}
	return h, nil
}

// check reads the record from its start and compares it with its head.
func (r *record) check(signed head) error {
	end, torn, err := scan(r.file, func(e *entry) error {
		if e.Previous != r.head.Hash {
			return fmt.Errorf("%w: entry %d doesn't follow the one before", ErrRecord, r.head.Count+1)
		}
		r.head = head{Count: r.head.Count + 1, Hash: e.hash()}
		if r.head.Count == signed.Count && r.head.Hash != signed.Hash {
			return fmt.Errorf("%w: entry %d is another", ErrRecord, r.head.Count)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// An entry is on disk before the head that counts it: a crash between the
	// two leaves one more entry than the head says, never one less.
	if r.head.Count < signed.Count || r.head.Count > signed.Count+1 {
		return fmt.Errorf("%w: %d entries, %d were written", ErrRecord, r.head.Count, signed.Count)
	}
	if torn {
		if err := r.file.Truncate(end); err != nil {
			return fmt.Errorf("couldn't cut an incomplete entry off the record: %w", err)
		}
	}
	if _, err := r.file.Seek(end, io.SeekStart); err != nil {
		return fmt.Errorf("couldn't read the record: %w", err)
	}
	if r.head.Count != signed.Count {
		return r.sign()
	}
	return nil
}

// scan calls f with each entry, and returns where the last whole one ends and
// whether a part of another follows.
func scan(src io.Reader, f func(*entry) error) (end int64, torn bool, err error) {
	in := bufio.NewReader(src)
	for {
		var size [4]byte
		switch _, err := io.ReadFull(in, size[:]); {
		case errors.Is(err, io.EOF):
			return end, false, nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return end, true, nil
		case err != nil:
			return 0, false, fmt.Errorf("couldn't read the record: %w", err)
		}
		n := binary.BigEndian.Uint32(size[:])
		if n == 0 || n > maxEntry {
			return 0, false, fmt.Errorf("%w: an entry of %d bytes", ErrRecord, n)
		}
		data := make([]byte, n)
		switch _, err := io.ReadFull(in, data); {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return end, true, nil
		case err != nil:
			return 0, false, fmt.Errorf("couldn't read the record: %w", err)
		}
		e, err := parseEntry(data)
		if err != nil {
			return 0, false, fmt.Errorf("%w: %w", ErrRecord, err)
		}
		if err := f(e); err != nil {
			return 0, false, err
		}
		end += 4 + int64(n)
	}
}

// append adds an entry, whose Previous it sets, and returns when it is on disk.
func (r *record) append(e *entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil {
		return r.broken
	}
	e.Previous = r.head.Hash
	data := codec.Encode(e)
	if len(data) > maxEntry {
		return fmt.Errorf("entry of %d bytes: %w", len(data), codec.ErrSize)
	}
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...)
	if _, err := r.file.Write(frame); err != nil {
		return r.fail(err)
	}
	if err := r.file.Sync(); err != nil {
		return r.fail(err)
	}
	r.head = head{Count: r.head.Count + 1, Hash: e.hash()}
	if err := r.sign(); err != nil {
		return r.fail(err)
	}
	return nil
}

// fail closes the record for good: what is on disk after a failed write is
// unknown until it is read again.
func (r *record) fail(err error) error {
	r.broken = fmt.Errorf("couldn't write the record: %w", err)
	return r.broken
}

func (r *record) sign() error {
	signed, err := r.signer.Sign1(labelHead, codec.Encode(&r.head))
	if err != nil {
		return err
	}
	return custody.WriteFile(filepath.Join(r.dir, headFile), signed, 0o600)
}

// Close closes the file.
func (r *record) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = os.ErrClosed
	return r.file.Close()
}
