package pack

import (
	"fmt"
	"slices"

	"chancery/blindindex"
	"chancery/codec"
	"chancery/envelope"
	"chancery/manifest"
)

// Search is what a request looks for: a record matches if its text has any of
// the terms, and a term of several words is had where all of its words are, in
// any order. It is safe for concurrent use.
type Search struct {
	terms [][]string // each a list of words, none empty
}

// NewSearch reads terms as people write them. It returns ErrMalformed, wrapped,
// where there is none, or one that has no word in it: it could never be found.
func NewSearch(terms []string) (*Search, error) {
	if len(terms) == 0 {
		return nil, fmt.Errorf("%w: a search without terms", ErrMalformed)
	}
	s := &Search{}
	for _, t := range terms {
		words := blindindex.Tokenize(t)
		if len(words) == 0 {
			return nil, fmt.Errorf("%w: the term %q has no letters or digits to search for", ErrMalformed, t)
		}
		s.terms = append(s.terms, words)
	}
	return s, nil
}

// Contains reports whether a text matches, by what it says and not by its tags.
func (s *Search) Contains(text string) bool {
	words := blindindex.Tokenize(text)
	return slices.ContainsFunc(s.terms, func(term []string) bool {
		return !slices.ContainsFunc(term, func(w string) bool { return !slices.Contains(words, w) })
	})
}

// Scan is a search under one index key. It is not safe for concurrent use.
type Scan struct {
	terms [][]*blindindex.Query
}

// Scan returns the search under an index key.
func (s *Search) Scan(key *blindindex.Key) *Scan {
	out := &Scan{}
	for _, term := range s.terms {
		var queries []*blindindex.Query
		for _, w := range term {
			queries = append(queries, blindindex.NewQuery(key, blindindex.Term{Field: blindindex.FieldText, Text: w}))
		}
		out.terms = append(out.terms, queries)
	}
	return out
}

// Match reports whether the tags of an envelope say that its text matches, or
// seem to by chance.
func (s *Scan) Match(envelope codec.Hash, tags []byte) bool {
	return slices.ContainsFunc(s.terms, func(term []*blindindex.Query) bool {
		return !slices.ContainsFunc(term, func(q *blindindex.Query) bool { return !q.MatchEncoded(envelope, tags) })
	})
}

// Indexed reports whether tags say of every word of a text that it is there.
// Where not, the sender kept it from being found, or uses another tokenizer.
func Indexed(key *blindindex.Key, envelope codec.Hash, tags []byte, text string) bool {
	return !slices.ContainsFunc(blindindex.Tokenize(text), func(w string) bool {
		return !blindindex.NewQuery(key, blindindex.Term{Field: blindindex.FieldText, Text: w}).MatchEncoded(envelope, tags)
	})
}

// Searchable reports whether a message's tags can be scanned with the key of an
// index envelope: it names that envelope, of its own conversation, and its tags
// were made by the rules of this package's tokenizer.
func Searchable(m, index *manifest.Manifest) bool {
	return m.Transport.Index == index.CoreHash() && index.Header.Kind == envelope.KindIndex &&
		m.Header.Conversation == index.Header.Conversation && m.Transport.Tokenizer == blindindex.TokenizerVersion
}
