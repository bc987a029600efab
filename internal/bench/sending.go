package bench

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"chancery/internal/demo"

	_ "modernc.org/sqlite" // the driver that the server uses
)

const (
	senders  = 32
	rowSize  = 5000 // bytes that a message of 2 KB takes at rest, about
	rowBatch = 16   // rows of a transaction of the raw limit
)

// sending measures the send path from device to receipt, over loopback with all
// checks and fsync, beside plain rows of the same size in the same database
// engine with the same durability.
func sending(ctx context.Context, r *Report, o Options) error {
	if o.Binary == "" {
		return nil
	}
	const name = "send path: messages receipted, 32 devices, loopback, server's fsync"
	o.Progress(name)
	devices, err := os.MkdirTemp(memory(), "chancery-bench-devices-")
	if err != nil {
		return fmt.Errorf("couldn't make a folder for devices: %w", err)
	}
	defer os.RemoveAll(devices)
	d := max(2*time.Second, 4*o.Budget)
	n, took, err := demo.Load(ctx, demo.Options{Dir: filepath.Join(o.Dir, "organisation"), Binary: o.Binary, Out: io.Discard}, devices, senders, textSize, d)
	if err != nil {
		return fmt.Errorf("couldn't measure the send path: %w", err)
	}
	rows, err := rawRows(ctx, filepath.Join(o.Dir, "raw.db"), d/2)
	if err != nil {
		return fmt.Errorf("couldn't measure the raw database: %w", err)
	}
	rate := float64(n) / took.Seconds()
	r.Rows = append(r.Rows, Row{
		Name: name, Unit: "/s", Value: rate,
		RawName: fmt.Sprintf("SQLite rows of %d bytes, %d a transaction, fsync", rowSize, rowBatch), Raw: rows, Ratio: rows / rate,
	})
	return nil
}

func rawRows(ctx context.Context, path string, d time.Duration) (float64, error) {
	db, err := sql.Open("sqlite", path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return 0, err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB)"); err != nil {
		return 0, err
	}
	body := make([]byte, rowSize)
	start, n := time.Now(), 0
	for time.Since(start) < d {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return 0, err
		}
		for range rowBatch {
			if _, err := tx.ExecContext(ctx, "INSERT INTO rows (body) VALUES (?)", body); err != nil {
				tx.Rollback()
				return 0, err
			}
		}
		if err := tx.Commit(); err != nil {
			return 0, err
		}
		n += rowBatch
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// memory returns a folder in memory, or the default for temporary files where
// the system has none.
func memory() string {
	const shm = "/dev/shm"
	if info, err := os.Stat(shm); err == nil && info.IsDir() {
		return shm
	}
	return ""
}
