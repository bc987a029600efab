package client_test

import (
	"context"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/ledger"
)

// hidingServer shows a messages log that ends before its last leaves.
type hidingServer struct {
	*fakeServer
	size int64
	t    testing.TB
}

type hidingConn struct {
	conn
	h *hidingServer
}

func (c hidingConn) Checkpoint(ctx context.Context, log ledger.Log) ([]byte, error) {
	if log != ledger.MessagesLog {
		return c.conn.Checkpoint(ctx, log)
	}
	l := c.org.Messages
	at := l.State()
	at.Size, at.Root = c.h.size, tlog.Hash(l.Root(c.h.size))
	return l.Witnessed(at, c.org.Witnesses), nil
}
