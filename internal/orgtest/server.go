package orgtest

import (
	"context"
	"fmt"
	"time"

	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/wire"
)

// Upload submits every leaf that the organisation has so far to a server, and
// each further one as it is made.
func (o *Org) Upload(server *remote.Client) {
	o.T.Helper()
	o.Submit = func(l *Leaf) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		done, err := server.Submit(ctx, &wire.Submit{Statement: l.Statement, Opening: l.Opening, Signatures: l.Signatures})
		if err != nil {
			return err
		}
		if done.Index < 0 {
			return fmt.Errorf("%w: %s", control.ErrUnauthorised, done.Missing)
		}
		return nil
	}
	for i := range o.Leaves[1:] { // the genesis leaf founded the server
		must(o.T, o.Submit(&o.Leaves[i+1]))
	}
}

// WaitWitnessed waits until a server's newest witnessed checkpoint of control
// covers a leaf.
func (o *Org) WaitWitnessed(server *remote.Client, leaf codec.Hash) {
	o.T.Helper()
	index, ok := o.State.Index(leaf)
	if !ok {
		o.T.Fatalf("no leaf %s", leaf.Short())
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		s, err := server.Status(o.T.Context())
		must(o.T, err)
		if s.Witnessed > index {
			return
		}
	}
	o.T.Fatalf("leaf %d was not witnessed in time", index)
}
