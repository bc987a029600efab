// Package dirlock keeps a directory to one process. Two daemons over one
// directory would each overwrite what the other has stored: a witness would
// cosign a second history, a server give one index of a log to two leaves.
package dirlock

import "errors"

// ErrInUse means that another process has the directory.
var ErrInUse = errors.New("directory is in use by another process")
