package main

import (
	"testing"

	"chancery/internal/deptest"
)

// An auditor has to read what the auditor's program is made of, so that this
// list is short and nothing joins it unnoticed. There is no cgo in it, no opener,
// and none of the code that sends or serves.
func TestDependencies(t *testing.T) {
	modules := []string{
		"chancery",
		"filippo.io/bigmod",
		"filippo.io/nistec",
		"github.com/cloudflare/circl",
		"github.com/fxamacker/cbor/v2",
		"github.com/veraison/go-cose",
		"github.com/x448/float16",
		"golang.org/x/crypto",
		"golang.org/x/mod",
		"golang.org/x/sys",
		"golang.org/x/text",
	}
	packages := []string{
		"chancery/blindindex", "chancery/cmd/chancery-verify", "chancery/codec", "chancery/control", "chancery/envelope",
		"chancery/evidence", "chancery/ledger", "chancery/manifest", "chancery/mls/cipher", "chancery/mls/syntax", "chancery/mls/tree", "chancery/pack", "chancery/quorum", "chancery/request", "chancery/sshsig",
		"chancery/verify",
	}
	deptest.Program(t, modules, packages)
}
