package demo

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// archiveTamperings are what the owner of the server's disk can do to what it
// archived: the server reads it as it finds it, and the opener judges.
func archiveTamperings() []tampering {
	const who = "the opener"
	opens := func(change func(a *attack, i, j int64) []statement) func(*attack) string {
		return func(a *attack) string {
			i, j := a.records[1], a.records[2]
			return a.tampered("leaves", fmt.Sprintf("idx IN (%d, %d)", i, j), func() string { return a.opener(nil) }, change(a, i, j)...)
		}
	}
	flip := func(column string) func(*attack) string {
		return opens(func(a *attack, i, _ int64) []statement {
			return []statement{sq(`UPDATE leaves SET `+column+` = ? WHERE idx = ?`, flipped(a.blob(`SELECT `+column+` FROM leaves WHERE idx = ?`, i)), i)}
		})
	}
	empty := func(column string) func(*attack) string {
		return opens(func(_ *attack, i, _ int64) []statement {
			return []statement{sq(`UPDATE leaves SET `+column+` = x'' WHERE idx = ?`, i)}
		})
	}
	swap := func(columns ...string) func(*attack) string {
		return opens(func(a *attack, i, j int64) (out []statement) {
			for _, c := range columns {
				x, y := a.blob(`SELECT `+c+` FROM leaves WHERE idx = ?`, i), a.blob(`SELECT `+c+` FROM leaves WHERE idx = ?`, j)
				out = append(out, sq(`UPDATE leaves SET `+c+` = ? WHERE idx = ?`, y, i), sq(`UPDATE leaves SET `+c+` = ? WHERE idx = ?`, x, j))
			}
			return out
		})
	}
	double := func(columns ...string) func(*attack) string {
		return opens(func(a *attack, i, j int64) (out []statement) {
			for _, c := range columns {
				out = append(out, sq(`UPDATE leaves SET `+c+` = ? WHERE idx = ?`, a.blob(`SELECT `+c+` FROM leaves WHERE idx = ?`, i), j))
			}
			return out
		})
	}
	return []tampering{
		{"server store: envelope", "byte flipped", who, "is not the one that its manifest names", flip("envelope")},
		{"server store: envelope", "removed", who, "is in scope and came without its bytes", empty("envelope")},
		{"server store: envelope", "swapped with another message's", who, "is not the one that its manifest names", swap("envelope")},
		{"server store: envelope", "another message's in its place too", who, "is not the one that its manifest names", double("envelope")},
		{"server store: manifest", "byte flipped", who, "is for something else", flip("object")},
		{"server store: manifest", "removed", "the server, when it reads it", "the archive is damaged", empty("object")},
		{"server store: manifest", "swapped with another message's", who, "is for something else", swap("object")},
		{"server store: manifest", "another message's in its place too", who, "is for something else", double("object")},
		{
			"server store: tags", "byte flipped", who, "its tags are not the ones that its manifest names",
			opens(func(a *attack, i, _ int64) []statement {
				tags := a.blob(`SELECT tags FROM leaves WHERE idx = ?`, i)
				tags[len(tags)-1] ^= 1 // the low byte of the greatest: they stay sorted
				return []statement{sq(`UPDATE leaves SET tags = ? WHERE idx = ?`, tags, i)}
			}),
		},
		{"server store: tags", "removed", who, "the server withheld or changed what it archived", empty("tags")},
		{"server store: tags", "swapped with another message's", who, "its tags are not the ones that its manifest names", swap("tags")},
		{"server store: receipt", "byte flipped", "the server, when it reads it", "the archive is damaged", flip("receipt")},
		{"server store: receipt", "swapped with another message's", who, "is for something else", swap("receipt")},
		{"server store: receipt", "another message's in its place too", who, "is for something else", double("receipt")},
		{
			"server store: message", "removed", who, "not shown complete",
			opens(func(_ *attack, i, _ int64) []statement { return []statement{sq(`DELETE FROM leaves WHERE idx = ?`, i)} }),
		},
		{
			"server store: message", "another whole one in its place too", who, "not shown complete",
			double("object", "receipt", "envelope", "tags"),
		},
		{
			"server store: message", "the newest of a conversation removed", who, "it is not the conversation's newest by the leaf of heads",
			func(a *attack) string {
				last := a.records[len(a.records)-1]
				where := fmt.Sprintf("idx >= %d AND conversation = (SELECT conversation FROM leaves WHERE idx = %d)", last, a.records[0])
				return a.tampered("leaves", where, func() string { return a.opener(nil) }, sq(`DELETE FROM leaves WHERE `+where))
			},
		},
		{
			"server store: commit statement", "byte flipped", "the server, when it reads it", "there is no roster of its epoch",
			func(a *attack) string {
				return a.tampered("leaves", fmt.Sprintf("idx = %d", a.commit), func() string { return a.opener(nil) },
					sq(`UPDATE leaves SET object = ? WHERE idx = ?`, flipped(a.blob(`SELECT object FROM leaves WHERE idx = ?`, a.commit)), a.commit))
			},
		},
		{
			"server store: roster", "a device removed", who, "the roster is another",
			func(a *attack) string {
				return a.tampered("epochs", fmt.Sprintf("leaf = %d", a.commit), func() string { return a.opener(nil) },
					sq(`UPDATE epochs SET roster = substr(roster, 33) WHERE leaf = ?`, a.commit))
			},
		},
		{
			"server store: ledger hash", "byte flipped", who, "couldn't prove what was downloaded",
			func(a *attack) string {
				i := tlog.StoredHashIndex(0, a.records[1])
				return a.tampered("hashes", fmt.Sprintf("log = 2 AND idx = %d", i), func() string { return a.opener(nil) },
					sq(`UPDATE hashes SET hash = ? WHERE log = 2 AND idx = ?`, flipped(a.blob(`SELECT hash FROM hashes WHERE log = 2 AND idx = ?`, i)), i))
			},
		},
	}
}
