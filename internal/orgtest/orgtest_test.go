package orgtest_test

import (
	"testing"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/orgtest"
	"chancery/internal/replica"
	"chancery/ledger"
	"chancery/manifest"
	"chancery/quorum"
	"chancery/request"
)

// The organisation that tests are made of passes the product's own checks.
func TestOrganisation(t *testing.T) {
	o := orgtest.New(t)
	alice, bob := o.NewMember(), o.NewMember()
	conversation := o.Conversation(alice, bob)
	m := o.Send(conversation, alice, "the quarterly figures")

	r := replica.New(o.ID)
	if err := r.Sync(t.Context(), orgtest.Source{Org: o}); err != nil {
		t.Fatal(err)
	}
	cosigned, err := r.Messages(o.Messages.Checkpoint())
	if err != nil {
		t.Fatal(err)
	}
	r.Read(func(s *control.State) {
		log := r.Log(cosigned.Checkpoint, s)
		roster := o.Roster(conversation).Proof(o, o.Messages.Size())
		epoch, hash, err := log.CheckRoster(&roster)
		if err != nil {
			t.Fatal(err)
		}
		item := m.Item(o, false, o.Messages.Size())
		got, err := log.CheckManifest(item.Manifest, &item.Proof, item.Encapsulation, map[codec.Hash]*request.Epoch{hash: epoch})
		if err != nil {
			t.Fatal(err)
		}
		month, _ := s.Month(got.Header.EscrowKey)
		public, err := month.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		e, _ := s.Epoch(month.Epoch)
		answers := []quorum.Answer{o.Partial(1, m), o.Partial(3, m), o.Partial(5, m)}
		seed, record, err := control.OpenWith(&e.Key, public, m.Body.Header, m.Envelope, answers, m.Secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := envelope.Check(public, got.Core, seed, record, &got.Proof, &got.Tag); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := manifest.OpenReceipt(o.Genesis.ReceiptKey, m.Receipt); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Control.Policy().Verify(o.Control.Checkpoint()); err != nil {
		t.Fatal(err)
	}
	if o.Log(ledger.MessagesLog).Size() != 3 { // commit, index, record
		t.Fatalf("%d leaves", o.Messages.Size())
	}
}
