// Package verify is the offline auditor: from an organisation's identity and an
// evidence pack it tells whether everything about one opening was as it should
// have been, and what exactly wasn't (spec/pack.md#checks).
//
// It trusts nobody: neither the server, nor keyholders or guards, nor the opener
// that wrote the pack, nor whoever hands it over. It needs no network, no clock
// and no key. What it can't tell, it says: that the organisation is the one you
// mean, that nobody opened the same envelopes in private, and that the people who
// approved were right to.
package verify

import (
	"errors"
	"fmt"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/ledger"
	"chancery/manifest"
	"chancery/pack"
	"chancery/quorum"
	"chancery/request"
)

// Check is one thing that a pack has to show.
type Check struct {
	Name   string `json:"name"`
	Plain  string `json:"plain"` // what holds, in words for people
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // numbers where it holds, the item at fault where it doesn't
}

// Report is what came of all checks.
type Report struct {
	Organisation codec.Hash `json:"organisation"`
	Request      codec.Hash `json:"request"`
	OK           bool       `json:"ok"` // all checks hold
	Checks       []Check    `json:"checks"`
	Opened       int        `json:"opened"` // envelopes, of both phases
	Exported     int        `json:"exported"`
	Faults       []string   `json:"faults"`       // holders proven to have answered otherwise
	Unsearchable int        `json:"unsearchable"` // records in scope that no index in scope finds
	NotOpened    []Unopened `json:"not_opened"`   // envelopes that were asked for, and that their senders made so
	Export       codec.Hash `json:"export"`       // H("export", lines), which the export's file must have
}

// Unopened is an envelope that was asked for and isn't opened, proven not to be
// the opener's or one holder's doing.
type Unopened struct {
	Envelope codec.Hash `json:"envelope"` // H(core)
	Device   codec.Hash `json:"device"`   // the sender's control leaf
	Member   codec.ID   `json:"member"`
	Reason   string     `json:"reason"`
}

// step is a check with the function that makes it. Where it returns an error the
// check failed; later steps that need what it found are not reached.
type step struct {
	name, plain string
	run         func(*verifier) (detail string, err error)
	// stop says that nothing after it can be judged where it fails.
	stop bool
}

// Checks returns the list of all checks, none of them made.
func Checks() []Check {
	var out []Check
	for _, s := range steps() {
		out = append(out, Check{Name: s.name, Plain: s.plain})
	}
	return out
}

func steps() []step {
	return []step{
		{"format", "The file is one whole evidence pack, in the only form that it can have.", (*verifier).format, true},
		{"organisation", "It is of the organisation whose identity you gave, whose first log entry names its officers, keyholders, guards and witnesses.", (*verifier).organisationIs, true},
		{"control-witnessed", "The organisation's control log, shown from its first entry, was signed by the log and seen by the required number of independent witnesses, before the opening ended and after.", (*verifier).controlWitnessed, true},
		{"control-replay", "Every entry of the control log was signed by those who may, in an order that the rules allow.", (*verifier).controlReplay, true},
		{"messages-witnessed", "The log of all messages was signed by the log and seen by the required number of witnesses.", (*verifier).messagesWitnessed, true},
		{"request", "The request and its matter are on the log, made by a reviewer, and its terms, purpose and legal basis are those shown.", (*verifier).requestIs, true},
		{"approvals", "Enough different approvers approved the request, none of them the requester, before any keyholder or guard answered; it had not expired or been withdrawn.", (*verifier).approvals, false},
		{"opener", "The opener's keys were put on the log for this request, signed by the opener and by the requester, before any keyholder or guard answered.", (*verifier).openerIs, true},
		{"memberships", "Who was in each conversation is shown by statements that its members signed and that the message log holds.", (*verifier).memberships, true},
		{"envelopes", "Every envelope shown is in the message log, signed by a device that was valid then, under the escrow key and policy of its day, by a sender who knew its key.", (*verifier).envelopes, true},
		{"chains", "The messages of each device in each conversation follow one another without a gap.", (*verifier).chains, false},
		{"order", "The message log never went back in the control log, and the time of receipt never went back within a conversation.", (*verifier).order, false},
		{"completeness", "For every conversation shown, nothing that was received in the days in question is missing: positions are without a gap, with a neighbour at each end or the conversation's newest message.", (*verifier).completeness, false},
		{"scope", "Every envelope that was opened, and every one that was asked for, lies within the request: conversation, day, a custodian among the members, and kind.", (*verifier).scope, false},
		{"uses", "Each of at least the required number of keyholders, and a guard, wrote on the log for which envelopes it answers, before the opener's last word, and the envelopes are those.", (*verifier).uses, false},
		{"opened", "Each opened envelope, sealed again from what was found in it, gives the archived envelope byte for byte, with the sender's proofs.", (*verifier).reseal, false},
		{"search", "The search was made again with the opened index keys: what it finds is exactly what was opened, no match was left out.", (*verifier).search, false},
		{"export", "The export holds exactly the opened messages that match, text for text.", (*verifier).export, false},
		{"faults", "Whoever is said to have answered wrongly did, and for every envelope that would not open right answers, or the word of every guard about its tag, show that its sender made it so.", (*verifier).faults, false},
		{"acknowledgements", "Every acknowledgement shown was signed by a device of the organisation, for a message that is there.", (*verifier).acknowledgements, false},
		{"statement", "The opener's last word on the log names this very pack, its counts and the holders at fault, and says that its keys were destroyed.", (*verifier).statement, false},
		{"nothing-else", "Nothing is in the pack that the request did not lead to.", (*verifier).nothingElse, false},
	}
}

// verifier is one pack under check. Each step leaves what later steps need.
type verifier struct {
	organisation codec.Hash
	data         []byte
	report       *Report

	pack *pack.Pack
	body *pack.Body

	entries  [][]byte // body's and tail's
	roots    []codec.Hash
	messages *ledger.Cosigned
	state    *control.State // at the body's end, then at the tail's
	genesis  *control.Genesis
	request  *control.RequestState
	details  *request.Details
	terms    *pack.Search
	opener   *control.OpenerState

	heads  *manifest.Heads
	log    *request.Log
	epochs map[codec.Hash]*request.Epoch
	items  []*item
	voids  []*void
	cores  map[codec.Hash]*item
	leaves []pack.Leaf // of rosters, items and voids
}

type item struct {
	*pack.Item
	manifest *manifest.Manifest
	core     codec.Hash
	device   *control.DeviceState
	roster   manifest.Roster
	record   *envelope.Record
	secrets  *envelope.Secrets // of an opened envelope, once it was sealed again
	enc      []byte            // likewise
}

type void struct {
	*pack.Void
	void *manifest.Void
}

var errStop = errors.New("not reached: a check before it failed")

// Pack checks an evidence pack of the organisation of that identity. It never
// fails: what is wrong is in the report.
func Pack(organisation codec.Hash, data []byte) *Report {
	v := &verifier{organisation: organisation, data: data, report: &Report{Organisation: organisation, OK: true}}
	stopped := false
	for _, s := range steps() {
		c := Check{Name: s.name, Plain: s.plain}
		err := errStop
		if !stopped {
			c.Detail, err = s.run(v)
		}
		if c.OK = err == nil; err != nil {
			c.Detail = err.Error()
			v.report.OK = false
			stopped = stopped || s.stop
		}
		v.report.Checks = append(v.report.Checks, c)
	}
	return v.report
}

func (v *verifier) format() (string, error) {
	p, err := pack.Parse(v.data)
	if err != nil {
		return "", err
	}
	v.pack, v.body = p, p.Body
	v.report.Request, v.report.Export = p.Body.Request, p.Body.Export
	return fmt.Sprintf("%d bytes, body %s", len(v.data), p.BodyHash), nil
}

func (v *verifier) organisationIs() (string, error) {
	if v.body.Organisation != v.organisation {
		return "", fmt.Errorf("the pack is of organisation %s", v.body.Organisation)
	}
	if len(v.body.Control) == 0 {
		return "", errors.New("the pack shows nothing of the control log")
	}
	state := control.NewState(v.organisation)
	if err := state.Apply(v.body.Control[0], nil); err != nil {
		return "", fmt.Errorf("the first entry of the control log is not that organisation's: %w", err)
	}
	v.genesis = state.Genesis()
	g := v.genesis
	return fmt.Sprintf("%s: %d of %d keyholders, %d guards, %d of %d witnesses", g.Name, g.Threshold, len(g.Keyholders), len(g.Guards), g.WitnessQuorum, len(g.Witnesses)), nil
}

func (v *verifier) policy(log ledger.Log) (*ledger.Policy, error) {
	controlLog, messagesLog, err := v.genesis.Logs(v.organisation)
	if log == ledger.MessagesLog {
		return messagesLog, err
	}
	return controlLog, err
}

// trimmed verifies a checkpoint that has the signature lines of known keys alone.
func trimmed(policy *ledger.Policy, signed []byte) (*ledger.Cosigned, error) {
	again, c, err := pack.Trim(policy, signed)
	if err != nil {
		return nil, err
	}
	if string(again) != string(signed) {
		return nil, errors.New("the checkpoint carries signatures of nobody known, or in another order")
	}
	return c, nil
}

func (v *verifier) controlWitnessed() (string, error) {
	policy, err := v.policy(ledger.ControlLog)
	if err != nil {
		return "", err
	}
	follower, err := ledger.NewFollower(policy)
	if err != nil {
		return "", err
	}
	if _, err := trimmed(policy, v.body.ControlCheckpoint); err != nil {
		return "", fmt.Errorf("checkpoint before the opening's end: %w", err)
	}
	first, err := follower.Advance(v.body.ControlCheckpoint, v.body.Control)
	if err != nil {
		return "", fmt.Errorf("checkpoint before the opening's end: %w", err)
	}
	if _, err := trimmed(policy, v.pack.Tail.Checkpoint); err != nil {
		return "", fmt.Errorf("checkpoint after it: %w", err)
	}
	last, err := follower.Advance(v.pack.Tail.Checkpoint, v.pack.Tail.Control)
	if err != nil {
		return "", fmt.Errorf("checkpoint after it: %w", err)
	}
	v.entries = append(v.body.Control[:len(v.body.Control):len(v.body.Control)], v.pack.Tail.Control...)
	edge := &ledger.Edge{}
	for _, e := range v.entries {
		if _, err := edge.Append(nil, e); err != nil {
			return "", err
		}
		v.roots = append(v.roots, codec.Hash(edge.Root()))
	}
	return fmt.Sprintf("%d entries, witnessed at %d and at %d; the last cosignatures are of %s", len(v.entries), first.Size, last.Size, last.Newest().Format("2006-01-02 15:04:05 UTC")), nil
}

// controlReplay replays the body's entries; the tail's are replayed by statement,
// since everything before it is judged by what the log said then.
func (v *verifier) controlReplay() (string, error) {
	openings := map[int64]*control.Opening{}
	for i := range v.body.Openings {
		openings[v.body.Openings[i].Index] = &v.body.Openings[i].Opening
	}
	whole := control.NewState(v.organisation)
	for i, e := range v.entries {
		if err := whole.Apply(e, openings[int64(i)]); err != nil {
			return "", err
		}
	}
	v.state = control.NewState(v.organisation)
	for i, e := range v.body.Control {
		if err := v.state.Apply(e, openings[int64(i)]); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d entries replayed", len(v.entries)), nil
}

func (v *verifier) messagesWitnessed() (string, error) {
	policy, err := v.policy(ledger.MessagesLog)
	if err != nil {
		return "", err
	}
	if v.messages, err = trimmed(policy, v.body.MessagesCheckpoint); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d leaves", v.messages.Size), nil
}

func (v *verifier) requestIs() (string, error) {
	r, ok := v.state.Request(v.body.Request)
	if !ok {
		return "", fmt.Errorf("request %s is not on the log, or its opening is not shown", v.body.Request.Short())
	}
	v.request = r
	if _, ok := v.state.Matter(r.Matter); !ok {
		return "", errors.New("its matter is not on the log, or its opening is not shown")
	}
	var err error
	if v.details, err = request.ParseDetails(v.body.Details); err != nil {
		return "", err
	}
	if v.details.Hash() != r.Details {
		return "", errors.New("the terms, purpose and legal basis shown are not those that the request names")
	}
	if r.Search {
		if v.terms, err = pack.NewSearch(v.details.Terms); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("entry %d: %q, %d custodians, days %s to %s, terms %q, at most %d records", r.Since, v.details.Title, len(r.Custodians), day(r.FromDay), day(r.ToDay), v.details.Terms, r.MaxCount), nil
}

// approvals judges the request as each holder that answered had to, at the time
// of its use; and as the opener had to, where it had nothing to ask for.
func (v *verifier) approvals() (string, error) {
	uses := v.usesOf()
	var entries []int64
	for _, u := range uses {
		entries = append(entries, u.Since)
	}
	if len(uses) == 0 {
		o, ok := v.request.Openers[v.body.Opener]
		if !ok || len(v.body.IndexSet)+len(v.body.RecordSet) > 0 {
			return "", errors.New("no keyholder or guard wrote that it answers this opener")
		}
		entries = append(entries, o.Since)
	}
	least := 0
	for i, entry := range entries {
		n, err := v.approvedAt(entry)
		if err != nil {
			return "", fmt.Errorf("at entry %d: %w", entry, err)
		}
		if i == 0 || n < least {
			least = n
		}
	}
	if len(uses) == 0 {
		return fmt.Sprintf("%d approvals; nobody was asked for anything", least), nil
	}
	return fmt.Sprintf("%d approvals before the first answer", least), nil
}

// approvedAt returns how many members had approved the request by an entry of
// the log, and an error where it could not be answered then.
func (v *verifier) approvedAt(entry int64) (int, error) {
	leaf, _, err := control.Parse(v.entries[entry])
	if err != nil {
		return 0, err
	}
	then := *v.request
	then.Approvals = nil
	members := map[codec.ID]bool{}
	for _, a := range v.request.Approvals {
		if a.Since < entry {
			then.Approvals = append(then.Approvals, a)
			members[a.Member] = true
		}
	}
	if then.Withdrawn > entry {
		then.Withdrawn = control.Never
	}
	policy, err := v.state.PolicyFor(&then, leaf.Time)
	if err != nil {
		return 0, err
	}
	return len(members), request.Ready(&then, &policy, leaf.Time)
}

// usesOf returns the uses of this opener, in the order of the log.
func (v *verifier) usesOf() []control.UseState {
	var out []control.UseState
	for _, u := range v.request.Uses {
		if u.Opener == v.body.Opener {
			out = append(out, u)
		}
	}
	return out
}

func (v *verifier) openerIs() (string, error) {
	o, ok := v.request.Openers[v.body.Opener]
	if !ok {
		return "", fmt.Errorf("opener %s is not on the log for this request", v.body.Opener.Short())
	}
	v.opener = o
	for _, u := range v.usesOf() {
		if u.Since < o.Since {
			return "", fmt.Errorf("the use of entry %d is older than the opener", u.Since)
		}
	}
	others := len(v.request.Openers) - 1
	detail := fmt.Sprintf("entry %d, evidence %q", o.Since, o.Evidence)
	if others > 0 {
		detail += fmt.Sprintf("; %d other openers were logged for this request", others)
	}
	return detail, nil
}

// root is the control log's root at a size, which receipts name.
func (v *verifier) root(size int64) (codec.Hash, bool) {
	if size < 1 || size > int64(len(v.body.Control)) {
		return codec.Hash{}, false
	}
	return v.roots[size-1], true
}

func (v *verifier) memberships() (string, error) {
	v.log = &request.Log{State: v.state, Root: v.root, Messages: v.messages.Checkpoint}
	v.epochs = map[codec.Hash]*request.Epoch{}
	for i := range v.body.Rosters {
		r := &v.body.Rosters[i]
		epoch, hash, err := v.log.CheckRoster(r)
		if err != nil {
			return "", err
		}
		v.epochs[hash] = epoch
		v.leaves = append(v.leaves, pack.Leaf{Index: r.Proof.Index, Opening: &r.Proof.Opening, Object: hash})
	}
	return fmt.Sprintf("%d statements", len(v.body.Rosters)), nil
}

func day(d uint32) string { return dayOf(d).Format("2006-01-02") }

// lockOf returns an escrow key: the quorum's half and the whole.
func (v *verifier) lockOf(month codec.Hash) (*quorum.PublicKey, *envelope.PublicKey, error) {
	m, ok := v.state.Month(month)
	if !ok {
		return nil, nil, fmt.Errorf("no escrow key %s", month.Short())
	}
	e, ok := v.state.Epoch(m.Epoch)
	if !ok {
		return nil, nil, fmt.Errorf("no escrow epoch %s", m.Epoch.Short())
	}
	public, err := m.PublicKey()
	if err != nil {
		return nil, nil, err
	}
	return &e.Key, public, nil
}
