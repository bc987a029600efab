package bench

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// The steps in the life of a group, in the order in which they are measured. Two
// parties do them: the group's creator, and one other member.
const (
	stepCreate  = "create"  // make a group, add all others in one commit without a path, and enter its epoch
	stepJoin    = "join"    // read the Welcome, tree included, and verify all of it
	stepCommit  = "commit"  // renew one's own keys, and enter the epoch
	stepProcess = "process" // read that commit
	stepEncrypt = "encrypt" // a message of 1,000 bytes
	stepDecrypt = "decrypt"
)

var sessionSteps = []string{stepCreate, stepJoin, stepCommit, stepProcess, stepEncrypt, stepDecrypt}

// A run has several commits, and several rounds of messages, which are so short a
// work that a round is over before others get the processor.
const (
	commitRounds     = 3
	messageRounds    = 10
	messagesPerRound = 20
)

// SessionOptions say what to measure.
type SessionOptions struct {
	Members  []int // sizes of groups, each at least 2
	Runs     int   // of which the fastest counts
	Peers    []*Peer
	Beside   string // what else the machine does, for the report
	Progress func(what string)
}

// Sessions is a run of measurements of MLS, cipher suite 1.
type Sessions struct {
	Time   time.Time     `json:"time"`
	Go     string        `json:"go"`
	CPU    string        `json:"cpu"`
	CPUs   int           `json:"cpus"`
	Load   string        `json:"load,omitempty"` // the system's load averages before the run
	Beside string        `json:"beside,omitempty"`
	Runs   int           `json:"runs"`
	Peers  []string      `json:"peers,omitempty"`
	Rows   []SessionStep `json:"rows"`
	Held   []Held        `json:"held"`
}

// SessionStep is what a step costs in a group of that size.
type SessionStep struct {
	Step      string  `json:"step"`
	Members   int     `json:"members"`
	Seconds   float64 `json:"seconds"`
	Allocated uint64  `json:"allocated"`       // bytes
	Written   int     `json:"written"`         // bytes of records that the step changed
	Peers     []Cost  `json:"peers,omitempty"` // in the order of Sessions.Peers
	Ratio     float64 `json:"ratio,omitempty"` // Seconds over those of the fastest peer
}

// Cost is what a step costs a peer.
type Cost struct {
	Seconds   float64 `json:"seconds"`
	Allocated uint64  `json:"allocated,omitempty"` // bytes; 0 where it can't be told
}

// Held is the memory that a member's group holds once it has joined, in bytes.
type Held struct {
	Members int      `json:"members"`
	Bytes   uint64   `json:"bytes"`
	Peers   []uint64 `json:"peers,omitempty"`
}

// sample is what one step took: once for each message, for encrypt and decrypt.
type sample struct {
	Seconds   float64 `json:"seconds"`
	Allocated uint64  `json:"allocated"`
	Resident  uint64  `json:"resident"`
	written   int
}

// party does the steps: setup, those of sessionSteps, and resident. n is the
// number of members for setup, and of messages for encrypt.
type party interface {
	do(op string, n int) (sample, error)
}

var (
	_ party = (*session)(nil)
	_ party = (*Peer)(nil)
)

// RunSessions measures package mls, and the peers beside it: in each run all take
// turns, so that whatever else the machine does disturbs them alike.
func RunSessions(ctx context.Context, o SessionOptions) (*Sessions, error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	r := &Sessions{
		Time: time.Now().UTC(), Go: runtime.Version(), CPU: cpu(), CPUs: runtime.NumCPU(),
		Load: load(), Beside: o.Beside, Runs: o.Runs,
	}
	parties := []party{new(session)}
	for _, p := range o.Peers {
		r.Peers, parties = append(r.Peers, p.name), append(parties, p)
	}
	for _, n := range o.Members {
		if err := r.measure(ctx, n, parties, o.Progress); err != nil {
			return nil, fmt.Errorf("couldn't measure a group of %d: %w", n, err)
		}
	}
	return r, nil
}

// measure adds the rows of one size.
func (r *Sessions) measure(ctx context.Context, n int, parties []party, progress func(string)) error {
	progress(fmt.Sprintf("%d members: key packages", n))
	for _, p := range parties {
		if _, err := p.do("setup", n); err != nil {
			return err
		}
	}
	fastest := map[string][]sample{}
	for run := range r.Runs {
		progress(fmt.Sprintf("%d members: run %d of %d", n, run+1, r.Runs))
		for i, p := range parties {
			for _, step := range runSteps() {
				if err := ctx.Err(); err != nil {
					return err
				}
				s, err := p.do(step, messagesPerRound)
				if err != nil {
					return fmt.Errorf("%s: %w", step, err)
				}
				if len(fastest[step]) == i {
					fastest[step] = append(fastest[step], s)
				}
				fastest[step][i] = best(fastest[step][i], s)
			}
		}
	}
	for _, step := range sessionSteps {
		r.Rows = append(r.Rows, sessionStep(step, n, fastest[step]))
	}
	return r.hold(n, parties)
}

// runSteps returns the steps of a run, in order.
func runSteps() []string {
	return slices.Concat(
		[]string{stepCreate, stepJoin},
		slices.Repeat([]string{stepCommit, stepProcess}, commitRounds),
		slices.Repeat([]string{stepEncrypt, stepDecrypt}, messageRounds),
	)
}

func best(a, b sample) sample {
	return sample{
		Seconds:   min(a.Seconds, b.Seconds),
		Allocated: min(a.Allocated, b.Allocated),
		written:   max(a.written, b.written),
	}
}

// sessionStep returns the row of what all parties took, ours first.
func sessionStep(step string, n int, all []sample) SessionStep {
	row := SessionStep{Step: step, Members: n, Seconds: all[0].Seconds, Allocated: all[0].Allocated, Written: all[0].written}
	for _, s := range all[1:] {
		row.Peers = append(row.Peers, Cost{Seconds: s.Seconds, Allocated: s.Allocated})
	}
	if len(row.Peers) > 0 {
		row.Ratio = row.Seconds / slices.MinFunc(row.Peers, func(a, b Cost) int { return cmp.Compare(a.Seconds, b.Seconds) }).Seconds
	}
	return row
}

func (r *Sessions) hold(n int, parties []party) error {
	h := Held{Members: n}
	for i, p := range parties {
		s, err := p.do("resident", 0)
		if err != nil {
			return err
		}
		if i == 0 {
			h.Bytes = s.Resident
		} else {
			h.Peers = append(h.Peers, s.Resident)
		}
	}
	r.Held = append(r.Held, h)
	return nil
}

// load returns the system's load averages over one, five and fifteen minutes;
// nothing where it doesn't tell.
func load() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	return strings.Join(strings.Fields(string(data))[:3], ", ")
}
