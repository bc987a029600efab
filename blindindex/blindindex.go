// Package blindindex makes and scans the search tags of messages: for each term
// five bytes that say nothing without the index key, and with it are found by
// one AES block a message (spec/blind-index.md).
//
// An index key belongs to a conversation and a period. Members have it, recompute
// the tags of what they receive and so check them; the server sees neither term
// nor key nor hit. What the tags say at rest is the number of distinct terms,
// rounded up to a power of two. A tag hits by chance once in 2^40, so that an
// opener re-indexes what it opens.
//
// The package is pure. It draws no key, and it doesn't know who may search.
package blindindex

import (
	"bytes"
	"crypto/aes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"chancery/codec"
)

const (
	// KeySize is the length of a Key in bytes.
	KeySize = 32
	// TagSize is the length of a Tag in bytes.
	TagSize = 5
	// MinTags is the smallest number of tags of a message.
	MinTags = 8
	// MaxTags is the largest number of tags that Parse takes. It is above what
	// the longest text makes.
	MaxTags = 1 << 20
)

// ErrTags means that bytes are not the one encoding of a message's tags.
var ErrTags = errors.New("not a message's tags")

// The fields that terms belong to. No name is the beginning of another, so that
// field ‖ term is unambiguous.
const (
	FieldText       = "text"       // a term of the text, by Tokenize
	FieldSender     = "sender"     // the sender's id
	FieldRecipient  = "recipient"  // a recipient's id
	FieldAttachment = "attachment" // an attachment's hash, in hexadecimal
)

// Term is what is searched for: one of the four fields and a value in the exact
// form in which it was indexed.
type Term struct {
	Field string `json:"field"`
	Text  string `json:"text"`
}

// Key is an index key, 32 bytes. It is a secret of the conversation's members.
type Key [KeySize]byte

// salt is that of every HKDF over an envelope's seed.
const salt = "chancery/envelope/v1"

// KeyFromSeed returns K = HKDF(seed, "tags"), the key that an index envelope's
// 32-byte seed makes (spec/blind-index.md#keys).
func KeyFromSeed(seed []byte) Key {
	prk := extract(seed)
	defer clear(prk)
	return Key(expand(prk, "tags", KeySize))
}

// Erase overwrites k.
func (k *Key) Erase() { clear(k[:]) }

// String hides the key from logs and error texts.
func (k Key) String() string { return "index key" }

// GoString hides the key from logs and error texts.
func (k Key) GoString() string { return "index key" }

// Tag stands for one term of one message, five bytes.
type Tag [TagSize]byte

// Tags returns the tags of a message's terms under its envelope's hash, sorted,
// distinct, and padded with tags from the message's 32-byte seed to the next power of
// two from MinTags up (spec/blind-index.md#tags). Equal inputs make equal tags,
// so that recipients recompute them; order and repetition of terms don't matter.
func Tags(k *Key, seed []byte, envelope codec.Hash, terms []Term) []Tag {
	seen := make(map[Tag]struct{}, max(MinTags, 2*len(terms)))
	tags := make([]Tag, 0, max(MinTags, 2*len(terms)))
	add := func(t Tag) {
		if _, ok := seen[t]; !ok {
			seen[t] = struct{}{}
			tags = append(tags, t)
		}
	}
	for _, t := range terms {
		add(NewQuery(k, t).tag(envelope))
	}
	prk := extract(seed)
	defer clear(prk)
	want := bucket(len(tags))
	for block := uint32(0); len(tags) < want; block++ {
		made := expand(prk, "pad"+string(envelope[:])+string(binary.BigEndian.AppendUint32(nil, block)), padBlock*TagSize)
		for t := range slices.Chunk(made, TagSize) {
			if len(tags) < want {
				add(Tag(t))
			}
		}
	}
	slices.SortFunc(tags, compare)
	return tags
}

// padBlock is how many padding tags one expansion makes.
const padBlock = 8

// bucket returns the smallest power of two that is at least n and MinTags.
func bucket(n int) int {
	b := MinTags
	for b < n {
		b *= 2
	}
	return b
}

func compare(a, b Tag) int { return bytes.Compare(a[:], b[:]) }

// Encode returns the tags one after another, TagSize bytes each, as the index
// stores them.
func Encode(tags []Tag) []byte {
	out := make([]byte, 0, len(tags)*TagSize)
	for _, t := range tags {
		out = append(out, t[:]...)
	}
	return out
}

// Parse reads what Encode writes of the tags that Tags makes. It returns ErrTags
// unless they are strictly ascending and a power of two in number, from MinTags
// to MaxTags.
func Parse(b []byte) ([]Tag, error) {
	n := len(b) / TagSize
	if len(b)%TagSize != 0 || n > MaxTags || n == 0 || bucket(n) != n {
		return nil, fmt.Errorf("tags of %d bytes: %w", len(b), ErrTags)
	}
	tags := make([]Tag, n)
	for i := range tags {
		tags[i] = Tag(b[i*TagSize:])
		if i > 0 && compare(tags[i-1], tags[i]) >= 0 {
			return nil, fmt.Errorf("tags out of order at %d: %w", i, ErrTags)
		}
	}
	return tags, nil
}

// Hash returns H("tags" ‖ encoding), by which a manifest names a message's tags.
func Hash(tags []Tag) codec.Hash { return codec.Sum("tags", Encode(tags)) }

// Query is one term under one index key, ready to scan with. A Query holds
// scratch memory, so that Match allocates nothing: it is not safe for concurrent
// use.
type Query struct {
	block interface{ Encrypt(dst, src []byte) }
	in    [aes.BlockSize]byte
	out   [aes.BlockSize]byte
}

// NewQuery returns the query for a term, whose text is one that Tokenize
// returned where its field is the text.
func NewQuery(k *Key, term Term) *Query {
	mac := hmac.New(sha256.New, k[:])
	mac.Write([]byte(term.Field))
	mac.Write([]byte(term.Text))
	key := mac.Sum(nil)
	defer clear(key)
	block, err := aes.NewCipher(key[:16])
	if err != nil {
		panic(err) // 16 bytes are an AES-128 key
	}
	return &Query{block: block}
}

func (q *Query) tag(envelope codec.Hash) Tag {
	copy(q.in[:], envelope[:])
	q.block.Encrypt(q.out[:], q.in[:])
	return Tag(q.out[:])
}

// Match reports whether the message of an envelope has the term, or a tag that
// equals its by chance: once in 2^40 for each tag. The tags are sorted, as Tags
// and Parse return them.
func (q *Query) Match(envelope codec.Hash, tags []Tag) bool {
	tag := q.tag(envelope)
	want := number(tag[:])
	lo, hi := 0, len(tags)
	for lo < hi {
		if mid := int(uint(lo+hi) / 2); number(tags[mid][:]) < want {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo < len(tags) && tags[lo] == tag
}

// MatchEncoded is Match over tags as Encode writes and Parse takes them, for
// scanning without a copy.
func (q *Query) MatchEncoded(envelope codec.Hash, tags []byte) bool {
	tag := q.tag(envelope)
	want := number(tag[:])
	n := len(tags) / TagSize
	lo, hi := 0, n
	for lo < hi {
		if mid := int(uint(lo+hi) / 2); number(tags[mid*TagSize:]) < want {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo < n && number(tags[lo*TagSize:]) == want
}

// number returns a tag as a big-endian number, which has the order of its bytes.
func number(tag []byte) uint64 {
	_ = tag[TagSize-1]
	return uint64(binary.BigEndian.Uint32(tag))<<8 | uint64(tag[4])
}

func extract(secret []byte) []byte {
	prk, err := hkdf.Extract(sha256.New, secret, []byte(salt))
	if err != nil {
		panic(err) // SHA-256 and 32 bytes of key are approved, so no mode refuses them
	}
	return prk
}

func expand(prk []byte, info string, size int) []byte {
	out, err := hkdf.Expand(sha256.New, prk, info, size)
	if err != nil {
		panic(err) // sizes are constants far below HKDF's bound
	}
	return out
}
