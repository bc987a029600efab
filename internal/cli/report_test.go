package cli

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/codec"
	"chancery/envelope"
	"chancery/internal/home"
	"chancery/internal/orgtest"
	"chancery/internal/tlogtiles"
	"chancery/internal/wire"
	"chancery/report"
)

// served is an organisation's control log as its server shows it.
type served struct{ *orgtest.Org }

func (s served) Checkpoint(context.Context) ([]byte, error) { return s.Control.Checkpoint(), nil }

func (s served) Size(context.Context) (int64, error) { return s.Control.Size(), nil }

func (s served) ReadHashes(_ context.Context, indexes []int64) ([]tlog.Hash, error) {
	return s.Control.ReadHashes(indexes)
}

func (s served) Entries(_ context.Context, start, end int64) ([][]byte, error) {
	return s.Control.Entries(start, end), nil
}

// TestReportVerify judges reports of a lie, of an honest message and of nothing,
// from the control log alone.
func TestReportVerify(t *testing.T) {
	o := orgtest.New(t)
	sender := o.NewMember()
	conversation := o.Conversation(sender, o.NewMember())
	honest := o.Send(conversation, sender, "hello")
	// A day long gone is outside of every request; the server must not take it.
	header := o.Header(conversation, sender, envelope.KindRecord)
	header.Day -= 30
	lie := o.SealHeader(sender, header, (&envelope.Record{ID: "1", Conversation: conversation, Text: "sell everything"}).Encode(), nil)
	o.Accept(lie)

	mux := http.NewServeMux()
	mux.Handle(wire.PathLogs+"control/", http.StripPrefix(wire.PathLogs+"control", tlogtiles.Handler(served{o}, func(err error) { t.Error(err) })))
	mux.HandleFunc(wire.PathOpenings, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", wire.MediaType)
		w.Write(codec.Encode([]wire.Opening{}))
	})
	server := httptest.NewServer(mux)
	defer server.Close()

	dir := t.TempDir()
	if err := (&home.Home{Organisation: o.ID, Server: server.URL}).Save(dir); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		raw  []byte
		code int
		want string
	}{
		"lie":    {report.New(lie.Manifest, lie.Receipt, lie.Seed, lie.Record).Encode(), 0, "CONVICTED: device " + sender.Hash.Short()},
		"server": {report.New(lie.Manifest, lie.Receipt, lie.Seed, lie.Record).Encode(), 0, "CONVICTED: the server"},
		"honest": {report.New(honest.Manifest, honest.Receipt, honest.Seed, honest.Record).Encode(), 1, "the envelope is the one that was sent"},
		"forged": {report.New(lie.Manifest, honest.Receipt, lie.Seed, lie.Record).Encode(), 1, "report proves nothing"},
	} {
		file := filepath.Join(dir, name+".report")
		if err := os.WriteFile(file, c.raw, 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errOut strings.Builder
		code := Main([]string{"report", "verify", file, "--home", dir}, strings.NewReader(""), &out, &errOut)
		if code != c.code || !strings.Contains(out.String()+errOut.String(), c.want) {
			t.Errorf("%s: exit %d, %q, %q", name, code, out.String(), errOut.String())
		}
	}
}
