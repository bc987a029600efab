// Package api is the organisation's server over HTTP (spec/delivery.md#http):
// who may ask for what, the bodies' bounds, and errors that say what was wrong
// and what to do. What is asked for is done by packages delivery and directory.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/delivery"
	"chancery/internal/directory"
	"chancery/internal/replica"
	"chancery/internal/store"
	"chancery/internal/store/sqlite"
	"chancery/internal/tlogtiles"
	"chancery/internal/wire"
	"chancery/ledger"
)

const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = time.Minute
	writeTimeout      = 2 * time.Minute
	idleTimeout       = 2 * time.Minute
	shutdownTimeout   = 5 * time.Second
	maxHeader         = 32 << 10
)

// Config says what a server is.
type Config struct {
	// Dir has the database and the keys, see Init and Found.
	Dir string
	// Listener takes the requests. Run closes it.
	Listener net.Listener
	// Witnesses are the witnesses' submission prefixes.
	Witnesses []string
	// Keyholders and Guards are where openers find them.
	Keyholders, Guards []wire.Endpoint
	// AuthorityKeyFile opens the organisation's own certificate authority, if Dir
	// has one (package issuer).
	AuthorityKeyFile string
	Now              func() time.Time
	Log              *slog.Logger
	// TestOnlyStore breaks the store on purpose.
	TestOnlyStore sqlite.Options
}

type server struct {
	Config
	store     *sqlite.Store
	directory *directory.Directory
	delivery  *delivery.Server
	authority authority
	receipt   *codec.PrivateKey
	logs      map[ledger.Log]*delivery.Publisher
}

// Run serves until ctx ends, then finishes what has begun. It starts where
// witnesses are out of reach, and asks them again until they answer: until then
// it serves the checkpoints that it has.
func Run(ctx context.Context, cfg Config) error {
	defer cfg.Listener.Close()
	s := &server{Config: cfg}
	if err := s.open(ctx); err != nil {
		return err
	}
	defer s.authority.close()
	defer func() {
		if err := s.store.Close(); err != nil {
			s.Log.Error("couldn't close the store", "error", err)
		}
	}()
	return s.run(ctx)
}

func (s *server) open(ctx context.Context) error {
	keys, err := loadSecrets(s.Dir)
	if err != nil {
		return fmt.Errorf("couldn't read the server's keys: %w", err)
	}
	if s.store, err = sqlite.Open(s.Dir, s.TestOnlyStore); err != nil {
		return err
	}
	if err := s.start(ctx, keys); err != nil {
		return errors.Join(err, s.store.Close())
	}
	return nil
}

func (s *server) start(ctx context.Context, keys *secrets) error {
	var err error
	s.directory, err = directory.Open(ctx, directory.Config{Store: s.store, Now: s.Now, Log: s.Log, Logged: s.logged})
	if err != nil {
		return err
	}
	var organisation codec.Hash
	s.directory.Read(func(state *control.State, _ codec.Hash) {
		organisation = state.Organisation()
		err = keys.belong(state.Genesis())
	})
	if err != nil {
		return err
	}
	controlPolicy, messagesPolicy, err := replica.Policies(organisation, s.directory.Genesis())
	if err != nil {
		return err
	}
	s.receipt = keys.receipt
	s.logs = map[ledger.Log]*delivery.Publisher{}
	for log, policy := range map[ledger.Log]*ledger.Policy{ledger.ControlLog: controlPolicy, ledger.MessagesLog: messagesPolicy} {
		key := keys.control
		if log == ledger.MessagesLog {
			key = keys.messages
		}
		signer, err := ledger.NewLogSigner(policy.Log.Origin, standard(key))
		if err != nil {
			return err
		}
		s.logs[log] = &delivery.Publisher{
			Store: s.store, Log: log, Signer: signer, Policy: policy, Witnesses: s.Witnesses,
			HTTP: &http.Client{Timeout: time.Minute}, Logger: s.Log,
		}
	}
	s.delivery, err = delivery.New(ctx, delivery.Config{
		Store: s.store, Directory: s.directory, Receipt: keys.receipt, Now: s.Now, Log: s.Log,
		Logged: func() { s.logs[ledger.MessagesLog].Notify() },
	})
	return err
}

// logged is told of each new control leaf.
func (s *server) logged(_ control.Kind, notified []codec.Hash) {
	s.logs[ledger.ControlLog].Notify()
	if len(notified) > 0 {
		s.delivery.Wake(notified)
	}
}

func (s *server) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, p := range s.logs {
		wg.Go(func() { p.Run(ctx) })
	}
	wg.Go(func() { s.daily(ctx) })
	writing := make(chan struct{})
	wg.Go(func() {
		defer close(writing)
		s.delivery.Run(ctx)
	})
	srv := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(s.Listener) }()
	select {
	case err := <-served:
		cancel()
		return fmt.Errorf("couldn't serve: %w", err)
	case <-ctx.Done():
	}
	// The writer first: who waits in a queue is let go.
	<-writing
	stop, done := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer done()
	if err := srv.Shutdown(stop); err != nil {
		srv.Close()
	}
	<-served
	return nil
}

// daily logs the heads of all conversations once a day, and forgets letters that
// are too old.
func (s *server) daily(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		if err := s.delivery.DailyHeads(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, delivery.ErrStopped) {
			s.Log.Error("couldn't log the heads of the conversations", "error", err)
		}
		if err := s.delivery.DropOldLetters(ctx); err != nil && ctx.Err() == nil {
			s.Log.Error("couldn't forget old letters", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// logSource serves one log's witnessed part.
type logSource struct {
	store store.Logs
	log   ledger.Log
}

var _ tlogtiles.Source = logSource{}

func (l logSource) Checkpoint(context.Context) ([]byte, error) {
	signed, _ := l.store.Checkpoint(l.log)
	if signed == nil {
		return nil, tlogtiles.ErrNoCheckpoint
	}
	return signed, nil
}

func (l logSource) Size(context.Context) (int64, error) {
	_, size := l.store.Checkpoint(l.log)
	return size, nil
}

func (l logSource) ReadHashes(ctx context.Context, indexes []int64) ([]tlog.Hash, error) {
	return l.store.ReadHashes(ctx, l.log, indexes)
}

func (l logSource) Entries(ctx context.Context, start, end int64) ([][]byte, error) {
	return l.store.Entries(ctx, l.log, start, end)
}
