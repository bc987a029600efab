package verify

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"chancery/blindindex"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/manifest"
	"chancery/pack"
	"chancery/request"
)

func dayOf(d uint32) time.Time { return time.Unix(int64(d)*86400, 0).UTC() }

// envelopes checks every item by itself. An opened one is sealed again first,
// which gives the ephemeral point that its proof of knowledge is checked with.
func (v *verifier) envelopes() (string, error) {
	v.items = make([]*item, len(v.body.Items))
	publics := map[codec.Hash]*envelope.PublicKey{}
	for i := range v.body.Items {
		it := &item{Item: &v.body.Items[i]}
		m, err := manifest.Parse(it.Manifest)
		if err != nil {
			return "", fmt.Errorf("item %d: %w", i, err)
		}
		it.manifest, it.core = m, m.CoreHash()
		if publics[m.Header.EscrowKey] == nil {
			if _, publics[m.Header.EscrowKey], err = v.lockOf(m.Header.EscrowKey); err != nil {
				return "", fmt.Errorf("envelope %s: %w", it.core.Short(), err)
			}
		}
		v.items[i] = it
	}
	err := parallel(len(v.items), func(i int) error { return v.envelope(v.items[i], publics) })
	if err != nil {
		return "", err
	}
	v.cores = make(map[codec.Hash]*item, len(v.items))
	for _, it := range v.items {
		if v.cores[it.core] != nil {
			return "", fmt.Errorf("envelope %s is in the log twice", it.core.Short())
		}
		v.cores[it.core] = it
		v.leaves = append(v.leaves, pack.Leaf{Index: it.Proof.Index, Opening: &it.Proof.Opening, Object: it.manifest.Hash()})
	}
	for i := range v.body.Voids {
		x := &v.body.Voids[i]
		void, err := v.void(x)
		if err != nil {
			return "", fmt.Errorf("void at leaf %d: %w", x.Proof.Index, err)
		}
		v.voids = append(v.voids, void)
		v.leaves = append(v.leaves, pack.Leaf{Index: x.Proof.Index, Opening: &x.Proof.Opening, Object: manifest.VoidHash(x.Void)})
	}
	return fmt.Sprintf("%d envelopes and %d refused places", len(v.items), len(v.voids)), nil
}

func (v *verifier) envelope(it *item, publics map[codec.Hash]*envelope.PublicKey) error {
	e := it.E
	if o := it.Opened; o != nil {
		env, secrets, err := envelope.Reseal(publics[it.manifest.Header.EscrowKey], it.manifest.Core.Header, &o.Seed, o.Record)
		if err != nil {
			return fmt.Errorf("envelope %s, sealed again: %w", it.core.Short(), err)
		}
		// That the result is the archived envelope is reseal's to say; without it
		// the point would be another and the proof fail here.
		it.secrets, it.enc, e = secrets, env.Enc, env.E()
		if env.Hash() != it.manifest.Core.Envelope {
			return fmt.Errorf("envelope %s, sealed again: %w", it.core.Short(), envelope.ErrMismatch)
		}
	}
	m, err := v.log.CheckNeighbour(it.Manifest, &it.Proof, v.epochs)
	if err != nil {
		return err
	}
	it.device, _ = v.state.Device(m.Header.Device)
	it.roster = v.epochs[m.Transport.Roster].Devices
	if it.Neighbour() {
		if v.within(control.PhaseRecord, it) == nil || v.within(control.PhaseIndex, it) == nil {
			return fmt.Errorf("envelope %s is in scope, and only its place is shown", it.core.Short())
		}
		return nil
	}
	if err := envelope.VerifyProof(e, it.core, &m.Proof); err != nil {
		return fmt.Errorf("envelope %s: %w", it.core.Short(), err)
	}
	if m.Transport.Tags.IsZero() && len(it.Tags) == 0 {
		return nil
	}
	tags, err := blindindex.Parse(it.Tags)
	if err != nil {
		return fmt.Errorf("envelope %s: %w", it.core.Short(), err)
	}
	if blindindex.Hash(tags) != m.Transport.Tags {
		return fmt.Errorf("envelope %s: its tags are not the ones that its manifest names", it.core.Short())
	}
	return nil
}

func (v *verifier) void(x *pack.Void) (*void, error) {
	parsed, err := manifest.ParseVoid(x.Void)
	if err != nil {
		return nil, err
	}
	body := &x.Proof.Opening.Body
	device, ok := v.state.Device(parsed.Device)
	if !ok || !device.ValidAt(body.ControlSize) {
		return nil, errors.New("its device was not valid")
	}
	if _, err := manifest.OpenVoid(device.Key, x.Void); err != nil {
		return nil, err
	}
	if parsed.Organisation != v.organisation || parsed.Conversation != body.Conversation {
		return nil, errors.New("it is of another organisation or conversation")
	}
	refusal, err := manifest.OpenRefusal(v.genesis.ReceiptKey, parsed.Refusal)
	if err != nil {
		return nil, err
	}
	if refusal.Core != parsed.Core {
		return nil, errors.New("the server refused another envelope")
	}
	return &void{Void: x, void: parsed}, v.log.CheckProof(manifest.VoidHash(x.Void), manifest.LeafVoid, &x.Proof)
}

// link is a place in a device's chain.
type link struct {
	index      int64
	seq        uint64
	core, prev codec.Hash
	void       bool
}

type chain struct {
	device       codec.Hash
	conversation codec.ID
}

func (v *verifier) chains() (string, error) {
	chains := map[chain][]link{}
	for _, it := range v.items {
		h := it.manifest.Header
		c := chain{h.Device, h.Conversation}
		chains[c] = append(chains[c], link{index: it.Proof.Index, seq: h.Seq, core: it.core, prev: h.Prev})
	}
	for _, x := range v.voids {
		c := chain{x.void.Device, x.void.Conversation}
		chains[c] = append(chains[c], link{index: x.Proof.Index, seq: x.void.Seq, core: x.void.Core, void: true})
	}
	for c, links := range chains {
		slices.SortFunc(links, func(a, b link) int { return cmp.Compare(a.index, b.index) })
		for i, l := range links {
			switch {
			case i == 0 && l.seq == 0 && !l.prev.IsZero():
				return "", fmt.Errorf("envelope %s: the first of its chain names one before it", l.core.Short())
			case i == 0:
			case l.seq != links[i-1].seq+1:
				return "", fmt.Errorf("device %s in conversation %s: number %d follows %d", c.device.Short(), c.conversation, l.seq, links[i-1].seq)
			case !l.void && l.prev != links[i-1].core:
				return "", fmt.Errorf("envelope %s names another envelope before it", l.core.Short())
			}
		}
	}
	return fmt.Sprintf("%d chains", len(chains)), nil
}

func (v *verifier) order() (string, error) {
	leaves := slices.Clone(v.leaves)
	heads, err := pack.ParseHeads(v.body.Heads.Heads)
	if err != nil {
		return "", err
	}
	if err := v.log.CheckProof(heads.Hash(), manifest.LeafHeads, &v.body.Heads.Proof); err != nil {
		return "", fmt.Errorf("the leaf of heads: %w", err)
	}
	v.heads = heads
	leaves = append(leaves, pack.Leaf{Index: v.body.Heads.Proof.Index, Opening: &v.body.Heads.Proof.Opening, Object: heads.Hash()})
	slices.SortFunc(leaves, func(a, b pack.Leaf) int { return cmp.Compare(a.Index, b.Index) })
	for i := 1; i < len(leaves); i++ {
		a, b := &leaves[i-1], &leaves[i]
		if a.Index == b.Index {
			return "", fmt.Errorf("leaf %d stands for two things", b.Index)
		}
		if b.Opening.Body.ControlSize < a.Opening.Body.ControlSize {
			return "", fmt.Errorf("leaf %d was judged at control size %d, after leaf %d at %d", b.Index, b.Opening.Body.ControlSize, a.Index, a.Opening.Body.ControlSize)
		}
	}
	for _, conversation := range pack.Order(v.leaves) {
		for i := 1; i < len(conversation); i++ {
			if conversation[i].Opening.Body.Time < conversation[i-1].Opening.Body.Time {
				return "", fmt.Errorf("leaf %d was received before the position before it", conversation[i].Index)
			}
		}
	}
	return fmt.Sprintf("%d leaves", len(leaves)), nil
}

func (v *verifier) completeness() (string, error) {
	if v.heads == nil {
		return "", errors.New("the leaf of heads is not in the log")
	}
	lo, hi := request.Window(&v.request.Request)
	shown := map[codec.ID]bool{}
	places := 0
	for _, conversation := range pack.Order(v.leaves) {
		run, _ := pack.Run(conversation, lo, hi)
		if err := pack.CheckRun(run, lo, hi, v.heads); err != nil {
			return "", err
		}
		shown[run[0].Opening.Body.Conversation] = true
		places += len(run)
	}
	for _, c := range v.request.Conversations {
		has := slices.ContainsFunc(v.heads.Heads, func(h manifest.Head) bool { return h.Conversation == c })
		if has && !shown[c] {
			return "", fmt.Errorf("nothing of conversation %s is shown: %w", c, pack.ErrIncomplete)
		}
	}
	detail := fmt.Sprintf("%d places in %d of the organisation's %d conversations, as of %s", places, len(shown), len(v.heads.Heads), time.UnixMilli(v.heads.Time).UTC().Format(time.RFC3339))
	if len(v.request.Conversations) == 0 && len(shown) < len(v.heads.Heads) {
		detail += "; that no custodian was in the others is the server's word"
	}
	return detail, nil
}

func (v *verifier) within(phase control.Phase, it *item) error {
	return request.Within(v.state, v.request, phase, it.manifest, it.roster)
}

// sets returns the items of a phase's set, in its order.
func (v *verifier) set(phase control.Phase) ([]*item, error) {
	cores := v.body.RecordSet
	if phase == control.PhaseIndex {
		cores = v.body.IndexSet
	}
	seen := map[codec.Hash]bool{}
	var out []*item
	for _, c := range cores {
		it := v.cores[c]
		if it == nil || seen[c] {
			return nil, fmt.Errorf("envelope %s was asked for and is not shown, or is named twice", c.Short())
		}
		seen[c] = true
		out = append(out, it)
	}
	return out, nil
}

func (v *verifier) scope() (string, error) {
	asked := map[codec.Hash]bool{}
	counts := map[control.Phase]int{}
	for _, phase := range []control.Phase{control.PhaseIndex, control.PhaseRecord} {
		set, err := v.set(phase)
		if err != nil {
			return "", err
		}
		for _, it := range set {
			if err := v.within(phase, it); err != nil {
				return "", err
			}
			asked[it.core] = true
		}
		counts[phase] = len(set)
	}
	opened := 0
	for _, it := range v.items {
		if it.Opened == nil {
			continue
		}
		opened++
		if !asked[it.core] {
			return "", fmt.Errorf("envelope %s is opened, and nobody asked for it", it.core.Short())
		}
	}
	v.report.Opened = opened
	if n := counts[control.PhaseRecord]; uint64(n) > v.request.MaxCount {
		return "", fmt.Errorf("%d records, the request allows %d", n, v.request.MaxCount)
	}
	if !v.request.Search && counts[control.PhaseIndex] > 0 {
		return "", errors.New("index keys were opened without a search")
	}
	return fmt.Sprintf("%d index keys and %d records asked for, %d opened", counts[control.PhaseIndex], counts[control.PhaseRecord], opened), nil
}

func (v *verifier) uses() (string, error) {
	detail := ""
	for _, phase := range []control.Phase{control.PhaseIndex, control.PhaseRecord} {
		cores := v.body.RecordSet
		if phase == control.PhaseIndex {
			cores = v.body.IndexSet
		}
		if len(cores) == 0 {
			continue
		}
		root := control.UseSet(cores)
		keyholders, guards := map[uint8]bool{}, map[uint8]bool{}
		for _, u := range v.usesOf() {
			if u.Phase != phase || u.Root != root || u.Count != uint64(len(cores)) {
				continue
			}
			if u.Guard {
				guards[u.Holder] = true
			} else {
				keyholders[u.Holder] = true
			}
		}
		if need := int(v.genesis.Threshold); len(keyholders) < need || len(guards) == 0 {
			return "", fmt.Errorf("phase %d: %d of %d keyholders and %d guards wrote that they answer for these %d envelopes", phase, len(keyholders), need, len(guards), len(cores))
		}
		detail += fmt.Sprintf("%d keyholders and %d guards for %d envelopes of phase %d; ", len(keyholders), len(guards), len(cores), phase)
	}
	if detail == "" {
		return "nothing was asked for", nil
	}
	return detail[:len(detail)-2], nil
}

// reseal checks what envelopes has not yet of an opened envelope: the tag under
// the ML-KEM secret, that its record is one, and that all that was asked for was
// opened, or shown not to open.
func (v *verifier) reseal() (string, error) {
	shown := map[codec.Hash]int{} // why each envelope isn't opened, and how often
	for i := range v.body.Broken {
		shown[v.body.Broken[i].Core]++
	}
	n := 0
	for _, phase := range []control.Phase{control.PhaseIndex, control.PhaseRecord} {
		set, err := v.set(phase)
		if err != nil {
			return "", err
		}
		for _, aside := range v.body.SetAside {
			for _, r := range aside.Envelopes {
				if aside.Phase == phase && r.Position < uint64(len(set)) {
					shown[set[r.Position].core]++
				}
			}
		}
		for _, it := range set {
			if it.Opened != nil {
				shown[it.core]++
			}
			if shown[it.core] != 1 {
				return "", fmt.Errorf("envelope %s was asked for, and is neither opened nor shown not to open, or more than one of them", it.core.Short())
			}
		}
	}
	for _, it := range v.items {
		if it.Opened == nil {
			continue
		}
		if it.secrets.Tag(it.core) != it.manifest.Tag {
			return "", fmt.Errorf("envelope %s: %w", it.core.Short(), envelope.ErrTag)
		}
		n++
		switch it.manifest.Header.Kind {
		case envelope.KindIndex:
			if len(it.Opened.Record) != 0 {
				return "", fmt.Errorf("index envelope %s holds a record", it.core.Short())
			}
		default:
			// A record of a version to come is opened and not exported.
			it.record, _ = envelope.ParseRecord(it.Opened.Record)
		}
	}
	return fmt.Sprintf("%d envelopes", n), nil
}

// keyOf returns the index key under which a record can be searched, or nil.
func (v *verifier) keyOf(it *item) *blindindex.Key {
	index := v.cores[it.manifest.Transport.Index]
	if index == nil || index.Opened == nil || !pack.Searchable(it.manifest, index.manifest) {
		return nil
	}
	key := blindindex.KeyFromSeed(index.Opened.Seed[:])
	return &key
}

func (v *verifier) search() (string, error) {
	asked := map[codec.Hash]bool{}
	for _, c := range slices.Concat(v.body.IndexSet, v.body.RecordSet) {
		asked[c] = true
	}
	scans := map[codec.Hash]*pack.Scan{}
	scanned, hits := 0, 0
	for _, it := range v.items {
		if v.request.Search && v.within(control.PhaseIndex, it) == nil && !asked[it.core] {
			return "", fmt.Errorf("index envelope %s is in scope and was not opened: what it indexes was not searched", it.core.Short())
		}
		if v.within(control.PhaseRecord, it) != nil {
			continue
		}
		hit := true
		if v.request.Search {
			key := v.keyOf(it)
			if key == nil {
				v.report.Unsearchable++
				hit = false
			} else {
				id := it.manifest.Transport.Index
				if scans[id] == nil {
					scans[id] = v.terms.Scan(key)
				}
				hit = scans[id].Match(it.manifest.Core.Envelope, it.Tags)
				scanned++
			}
		}
		if hit {
			hits++
		}
		if hit && !asked[it.core] {
			return "", fmt.Errorf("envelope %s (leaf %d) is in scope and matches, and was left out", it.core.Short(), it.Proof.Index)
		}
		if !hit && asked[it.core] {
			return "", fmt.Errorf("envelope %s (leaf %d) does not match, and was asked for", it.core.Short(), it.Proof.Index)
		}
	}
	if !v.request.Search {
		return fmt.Sprintf("no search: all %d records in scope were asked for", hits), nil
	}
	detail := fmt.Sprintf("%d records scanned under %d index keys, %d match", scanned, len(scans), hits)
	if v.report.Unsearchable > 0 {
		detail += fmt.Sprintf("; %d records in scope have no index that is in scope: no search finds them", v.report.Unsearchable)
	}
	return detail, nil
}

// parallel calls f for each index on all cores and returns the error of the
// lowest index that failed.
func parallel(n int, f func(i int) error) error {
	errs := make([]error, n)
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := range next {
				errs[i] = f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
