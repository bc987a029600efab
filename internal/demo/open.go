package demo

import (
	"bytes"
	"context"
	"crypto/hpke"
	"fmt"
	"os"

	"chancery/codec"
	"chancery/internal/home"
	"chancery/internal/httpsig"
	"chancery/internal/matters"
	"chancery/internal/opening"
)

// open starts the opener, which asks keyholders and guards, and signs for it.
func (s *stage) open(ctx context.Context) error {
	s.step("an opener starts, with a key of its own; keyholders and guards check request, approvals and every envelope, log their use, wait for the witnesses, then answer it")
	_, details, err := home.ReadRequest(s.requestFile())
	if err != nil {
		return err
	}
	result, err := opening.Run(ctx, opening.Config{
		Command: []string{s.Binary, "opener"}, Server: s.home.Server, Request: s.summary.Request, Details: details,
		Key: s.reviewer, Replica: s.replica, Progress: s.progress,
	})
	if err != nil {
		return err
	}
	s.summary.SearchHits, s.summary.Opened, s.summary.Exported = result.Hits, result.Opened, result.Exported
	s.detail("%d index keys opened, %d of %d records in scope hit, %d opened; the opener's keys are destroyed",
		result.IndexKeys, result.Hits, result.InScope, result.Opened)
	for _, name := range result.Faults {
		s.detail("WRONG ANSWER by %s, with proof in the pack", name)
	}
	return matters.Await(ctx, s.replica, s.server, result.Index)
}

// export opens the production with the recipient's key.
func (s *stage) export(ctx context.Context) error {
	s.step("the recipient opens the production, sealed to a key of theirs, and logs the export")
	secret, err := os.ReadFile(s.path("recipients", s.summary.Request.String()+".key"))
	if err != nil {
		return fmt.Errorf("couldn't read the recipient's key: %w", err)
	}
	defer clear(secret)
	key, err := hpke.MLKEM768X25519().NewPrivateKey(secret)
	if err != nil {
		return fmt.Errorf("the recipient's key: %w", err)
	}
	var lines, evidence []byte
	var production codec.Hash
	lines, evidence, production, err = opening.Unseal(ctx, s.server.As(httpsig.SSH(s.reviewer)), s.replica, s.summary.Request, key)
	if err != nil {
		return err
	}
	s.summary.ExportFile, s.summary.EvidencePack = s.path("export.jsonl"), s.path("evidence.pack")
	if err := home.WriteFile(s.summary.ExportFile, lines, 0o600); err != nil {
		return err
	}
	if err := home.WriteFile(s.summary.EvidencePack, evidence, 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	n := bytes.Count(lines, []byte("\n"))
	if _, err := s.desk(s.reviewer).Export(ctx, s.summary.Request, production, uint64(n)); err != nil {
		return err
	}
	s.detail("%d messages in %s", n, s.summary.ExportFile)
	return nil
}
