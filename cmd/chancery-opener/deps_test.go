package main

import (
	"testing"

	"chancery/internal/deptest"
)

// Whoever vouches for the measured program has to read what it is made of, so
// that this list is short and nothing joins it unnoticed. There is no cgo in it,
// no SDK, server or keyholder, and no auditor: nobody audits their own work.
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
		"golang.org/x/sync",
		"golang.org/x/sys",
		"golang.org/x/text",
	}
	packages := []string{
		"chancery/blindindex", "chancery/client/remote", "chancery/cmd/chancery-opener", "chancery/codec", "chancery/control",
		"chancery/envelope", "chancery/evidence", "chancery/internal/httpsig", "chancery/internal/opener", "chancery/internal/replica",
		"chancery/internal/wire", "chancery/ledger", "chancery/manifest", "chancery/pack", "chancery/quorum",
		"chancery/request", "chancery/sshsig",
	}
	deptest.Program(t, modules, packages)
}
