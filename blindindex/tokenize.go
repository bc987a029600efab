package blindindex

import (
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// TokenizerVersion names the rules of Tokenize and the Unicode version of their
// tables, 15.0.0. A manifest carries it, so that tags made by other rules are
// unverified and never called wrong.
const TokenizerVersion = 1

// Tokenize returns the distinct terms of a text in order of first appearance:
// the maximal runs of letters, decimal digits and marks in its normal form,
// which is NFKC, case-folded in full, NFKC again (spec/blind-index.md#terms).
// Scripts that put no spaces between words make one term of each run. Bytes that
// are not UTF-8 separate terms.
func Tokenize(text string) []string {
	text = normalise(text)
	var terms []string
	seen := make(map[string]struct{})
	start := -1
	end := func(i int) {
		if start < 0 {
			return
		}
		term := text[start:i]
		start = -1
		if _, ok := seen[term]; !ok {
			seen[term] = struct{}{}
			terms = append(terms, term)
		}
	}
	for i, r := range text {
		if unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r) {
			if start < 0 {
				start = i
			}
			continue
		}
		end(i)
	}
	end(len(text))
	return terms
}

// normalise returns the one form of texts that differ in compatibility forms and
// case alone. Folding can undo NFKC, hence the second.
func normalise(text string) string {
	return norm.NFKC.String(fold(norm.NFKC.String(text)))
}

// fold is Unicode's full case folding. That of x/text swaps the cases of Cherokee
// instead of joining them, in which CaseFolding.txt prefers capitals.
func fold(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 0xab70 <= r && r <= 0xabbf:
			return r - 0xab70 + 0x13a0
		case 0x13f8 <= r && r <= 0x13fd:
			return r - 8
		}
		return r
	}, cases.Fold().String(text))
}
