package client_test

import (
	"strings"
	"testing"
	"time"

	"chancery/client"
	"chancery/client/state"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/orgtest"
)

// another enrols a further device of a member, let in by one that it has.
func (x *person) another(name string) *person {
	x.p.Helper()
	other := &person{p: x.p, member: x.member, dir: x.p.TB.(interface{ TempDir() string }).TempDir(), key: state.NewKey()}
	sponsor := x.Signer().(*codec.PrivateKey)
	d, err := client.Enrol(x.p.Context(), x.p.cfg, client.Enrolment{Dir: other.dir, Key: other.key, Member: x.member, Name: name, Invitation: sponsor})
	if err != nil {
		x.p.Fatal(err)
	}
	other.Device = d
	x.p.Cleanup(func() { other.Close() })
	return other
}

func (x *person) audit() *client.Audit {
	x.p.Helper()
	a, err := x.Audit(x.p.Context())
	if err != nil {
		x.p.Fatal(err)
	}
	return a
}

// warned reports whether a sync speaks of a device.
func (x *person) warned(device codec.Hash) bool {
	x.p.Helper()
	return strings.Contains(strings.Join(x.sync().Warnings, "\n"), device.Short())
}

// TestAudit: a member sees every leaf about the own devices, and is warned of
// one that this device didn't let in until it was looked at.
func TestAudit(t *testing.T) {
	p := newParty(t)
	p.person("Bob")
	desk := p.person("Alice")
	if a := desk.audit(); len(a.Events) != 1 || a.Events[0].Kind != control.KindDevice || len(a.Events[0].Officers) != 2 || a.Events[0].New || !a.Events[0].Mine {
		t.Errorf("got %+v", a.Events)
	}
	phone := desk.another("Alice")
	p.advance(2 * time.Minute)
	if sum := desk.sync(); len(sum.Warnings) > 0 {
		t.Errorf("warned of the own phone: %q", sum.Warnings)
	}
	ghost := p.deviceOf(desk.member, "Alice") // two officers and the server
	p.advance(2 * time.Minute)
	for _, x := range []*person{desk, phone, desk, phone} {
		if !x.warned(ghost.Hash()) {
			t.Errorf("%s was not warned of the ghost", x.Hash().Short())
		}
	}
	desk.restart()
	if !desk.warned(ghost.Hash()) {
		t.Error("not warned after a restart")
	}
	ca := orgtest.NewAuthority(t, p.org.Now())
	p.authority = ca
	p.org.AddAuthority(ca, 720)
	p.advance(2 * time.Minute)
	desk.sync()
	p.org.Add(&control.Revocation{Device: ghost.Hash(), Reason: "not mine"}, p.org.Officers[0])
	a := desk.audit()
	kinds := map[control.Kind]int{}
	for _, e := range a.Events {
		kinds[e.Kind]++
		if want := e.Index >= a.Before; e.New != want {
			t.Errorf("leaf %d: new %t", e.Index, e.New)
		}
		switch {
		case e.Kind == control.KindDevice && e.Device == phone.Hash() && (e.Sibling != desk.Hash() || !e.Mine || len(e.Officers) > 0 || e.Invitation != control.Never):
			t.Errorf("the phone: %+v", e)
		case e.Kind == control.KindDevice && e.Device == ghost.Hash() && (!e.Sibling.IsZero() || e.Mine || len(e.Officers) != 2 || e.Invitation == control.Never || !e.New):
			t.Errorf("the ghost: %+v", e)
		case e.Kind == control.KindRevocation && (e.Device != ghost.Hash() || len(e.Officers) != 1 || e.Reason != "not mine" || !e.New):
			t.Errorf("the revocation: %+v", e)
		case e.Kind == control.KindCertificate && (e.NotAfter == 0 || e.Authority.IsZero()):
			t.Errorf("a certificate: %+v", e)
		}
	}
	if kinds[control.KindDevice] != 3 || kinds[control.KindRevocation] != 1 || kinds[control.KindCertificate] < 1 || len(a.Devices) != 3 {
		t.Errorf("got %v, %+v", kinds, a.Devices)
	}
	if desk.warned(ghost.Hash()) {
		t.Error("warned of what was looked at")
	}
	desk.restart()
	if again := desk.audit(); again.Before != a.Size {
		t.Errorf("the last audit read %d leaves, and %d are remembered", a.Size, again.Before)
	}
	for _, e := range desk.audit().Events {
		if e.New {
			t.Errorf("new twice: %+v", e)
		}
	}
	if !phone.warned(ghost.Hash()) {
		t.Error("the phone's member looked on the desk alone")
	}
}
