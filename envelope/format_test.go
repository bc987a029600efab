package envelope

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"chancery/codec"
)

func fullHash() codec.Hash { return codec.Hash(bytes.Repeat([]byte{0xff}, 32)) }

func fullHeader() *Header {
	h := fullHash()
	return &Header{Version: 1, Suite: 1, Organisation: h, EscrowKey: h, PolicyLeaf: h, Device: h,
		Conversation: codec.ID(h[:16]), Seq: math.MaxUint64, Prev: h, Kind: KindVoid, Day: math.MaxUint32, Commitment: h}
}

func TestHeader(t *testing.T) {
	b := fullHeader().Encode()
	if len(b) != MaxHeaderSize {
		t.Errorf("longest header takes %d bytes, MaxHeaderSize is %d", len(b), MaxHeaderSize)
	}
	h, err := ParseHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	if *h != *fullHeader() {
		t.Error("header doesn't survive")
	}
	version2 := codec.Encode([]any{2, "another form"})
	long2 := codec.Encode([]any{300, make([]byte, 1000)})
	alter := func(f func(*Header)) []byte { h := fullHeader(); f(h); return h.Encode() }
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"version 0":        {alter(func(h *Header) { h.Version = 0 }), ErrVersion},
		"version 2":        {alter(func(h *Header) { h.Version = 2 }), ErrVersion},
		"suite 2":          {alter(func(h *Header) { h.Suite = 2 }), ErrVersion},
		"kind 0":           {alter(func(h *Header) { h.Kind = 0 }), ErrVersion},
		"kind 7":           {alter(func(h *Header) { h.Kind = 7 }), ErrVersion},
		"version 2, other": {version2, ErrVersion},
		"version 2, long":  {long2, ErrVersion},
		"empty":            {nil, codec.ErrEncoding},
		"array of none":    {[]byte{0x80}, codec.ErrEncoding},
		"truncated":        {b[:len(b)-1], codec.ErrEncoding},
		"trailing":         {append(testHeader(t, testSeed("a"), nil), 0), codec.ErrEncoding},
		"long":             {append(bytes.Clone(b), 0), codec.ErrSize},
		"version wide":     {bytes.Replace(b, []byte{0x8c, 1}, []byte{0x8c, 0x18, 1}, 1)[:MaxHeaderSize], codec.ErrEncoding},
		"version text":     {codec.Encode([]any{"1"}), codec.ErrEncoding},
	} {
		if h, err := ParseHeader(c.b); !errors.Is(err, c.want) || h != nil {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func TestKindString(t *testing.T) {
	var got []string
	for k := range Kind(8) {
		got = append(got, k.String())
	}
	want := "kind(0) record index report delegation capture void kind(7)"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("got %s, want %s", s, want)
	}
}

func TestDayOf(t *testing.T) {
	zone := time.FixedZone("", 14*3600)
	for _, c := range []struct {
		t    time.Time
		want uint32
	}{
		{time.Unix(0, 0), 0},
		{time.Unix(86399, 999999999), 0},
		{time.Unix(86400, 0), 1},
		{time.Unix(-1, 0), 0},
		{time.Date(2026, 1, 1, 0, 0, 0, 0, zone), 20453}, // still 31 December in UTC
		{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), 20454},
		{time.Unix(math.MaxInt64/2, 0), math.MaxUint32},
	} {
		if got := DayOf(c.t); got != c.want {
			t.Errorf("DayOf(%v) = %d, want %d", c.t, got, c.want)
		}
	}
}

func fullRecord() *Record {
	return &Record{
		ID: "<m@x>", Time: -1, Sender: "Zoë", Conversation: codec.ID{1}, ConversationName: "général",
		Text: "héllo world", Action: ActionReply, Target: "m-0",
		Attachments: []Attachment{{Name: "a.pdf", Type: "application/pdf", Size: 1 << 40, Hash: fullHash(), Key: []byte("key")}},
		Mentions:    []string{"bob", "carol"}, Redactions: []Span{{Start: 0, End: 3}, {Start: 3, End: 12}},
		Flags: []string{"urgent"}, Source: "rcs",
	}
}

func TestRecord(t *testing.T) {
	for name, r := range map[string]*Record{"full": fullRecord(), "empty": {}, "longest text": {Text: strings.Repeat("x", MaxTextSize)}} {
		got, err := ParseRecord(r.Encode())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(r, got, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(Record{}, Attachment{}, Span{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		fields, err := Fields(r.Encode())
		if err != nil || len(fields) != 13 {
			t.Errorf("%s: %d fields, %v", name, len(fields), err)
		}
		if !bytes.Equal(append([]byte{0x8d}, bytes.Join(fields, nil)...), r.Encode()) {
			t.Errorf("%s: fields don't make the record", name)
		}
	}
	alter := func(f func(*Record)) *Record { r := fullRecord(); f(r); return r }
	long := strings.Repeat("x", 257)
	for name, c := range map[string]struct {
		r    *Record
		want error
	}{
		"id":                    {alter(func(r *Record) { r.ID = long }), codec.ErrSize},
		"sender":                {alter(func(r *Record) { r.Sender = long }), codec.ErrSize},
		"name":                  {alter(func(r *Record) { r.ConversationName = strings.Repeat("x", 1025) }), codec.ErrSize},
		"text":                  {alter(func(r *Record) { r.Text = strings.Repeat("x", MaxTextSize+1) }), codec.ErrSize},
		"target":                {alter(func(r *Record) { r.Target = long }), codec.ErrSize},
		"source":                {alter(func(r *Record) { r.Source = long }), codec.ErrSize},
		"mention":               {alter(func(r *Record) { r.Mentions = []string{long} }), codec.ErrSize},
		"mentions":              {alter(func(r *Record) { r.Mentions = make([]string, 4097) }), codec.ErrSize},
		"flag":                  {alter(func(r *Record) { r.Flags = []string{long} }), codec.ErrSize},
		"flags":                 {alter(func(r *Record) { r.Flags = make([]string, 65) }), codec.ErrSize},
		"attachments":           {alter(func(r *Record) { r.Attachments = make([]Attachment, 257) }), codec.ErrSize},
		"attachment's name":     {alter(func(r *Record) { r.Attachments[0].Name = strings.Repeat("x", 1025) }), codec.ErrSize},
		"attachment's type":     {alter(func(r *Record) { r.Attachments[0].Type = long }), codec.ErrSize},
		"attachment's key":      {alter(func(r *Record) { r.Attachments[0].Key = make([]byte, 257) }), codec.ErrSize},
		"redactions":            {alter(func(r *Record) { r.Redactions = make([]Span, 4097) }), codec.ErrSize},
		"action":                {alter(func(r *Record) { r.Action = 6 }), ErrVersion},
		"reply to nothing":      {alter(func(r *Record) { r.Target = "" }), codec.ErrEncoding},
		"message with target":   {alter(func(r *Record) { r.Action = ActionMessage }), codec.ErrEncoding},
		"text not UTF-8":        {alter(func(r *Record) { r.Text = "\xff" + r.Text }), codec.ErrEncoding},
		"span beyond":           {alter(func(r *Record) { r.Redactions[1].End = 13 }), codec.ErrEncoding},
		"span huge":             {alter(func(r *Record) { r.Redactions[1].End = math.MaxUint64 }), codec.ErrEncoding},
		"span empty":            {alter(func(r *Record) { r.Redactions[1].End = 3 }), codec.ErrEncoding},
		"span backwards":        {alter(func(r *Record) { r.Redactions[1].Start = 2 }), codec.ErrEncoding},
		"span within character": {alter(func(r *Record) { r.Redactions = []Span{{Start: 0, End: 2}} }), codec.ErrEncoding},
	} {
		if err := c.r.Check(); !errors.Is(err, c.want) {
			t.Errorf("%s: Check returned %v, want %v", name, err, c.want)
		}
		if r, err := ParseRecord(c.r.Encode()); !errors.Is(err, c.want) || r != nil {
			t.Errorf("%s: ParseRecord returned %v, want %v", name, err, c.want)
		}
	}
	if _, err := ParseRecord(make([]byte, MaxRecordSize+1)); !errors.Is(err, codec.ErrSize) {
		t.Errorf("longest: got %v", err)
	}
}

func TestFieldsRefuse(t *testing.T) {
	deep := append(bytes.Repeat([]byte{0x81}, 18), 0)
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"no array":                {[]byte{0x00}, codec.ErrEncoding},
		"empty array":             {[]byte{0x80}, codec.ErrEncoding},
		"truncated head":          {[]byte{0x98}, codec.ErrEncoding},
		"wide head":               {[]byte{0x98, 0x01, 0x00}, codec.ErrEncoding},
		"wide integer":            {[]byte{0x81, 0x18, 0x17}, codec.ErrEncoding},
		"wider integer":           {[]byte{0x81, 0x19, 0x00, 0xff}, codec.ErrEncoding},
		"wider still":             {[]byte{0x81, 0x1a, 0, 0, 0xff, 0xff}, codec.ErrEncoding},
		"widest":                  {[]byte{0x81, 0x1b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, codec.ErrEncoding},
		"indefinite":              {[]byte{0x9f, 0xff}, codec.ErrEncoding},
		"indefinite string":       {[]byte{0x81, 0x5f, 0xff}, codec.ErrEncoding},
		"reserved":                {[]byte{0x81, 0x1c}, codec.ErrEncoding},
		"too few":                 {[]byte{0x82, 0x00}, codec.ErrEncoding},
		"trailing":                {[]byte{0x81, 0x00, 0x00}, codec.ErrEncoding},
		"tag":                     {[]byte{0x81, 0xc0, 0x60}, codec.ErrEncoding},
		"float":                   {[]byte{0x81, 0xf9, 0x00, 0x00}, codec.ErrEncoding},
		"undefined":               {[]byte{0x81, 0xf7}, codec.ErrEncoding},
		"simple":                  {[]byte{0x81, 0xe0}, codec.ErrEncoding},
		"string beyond the end":   {[]byte{0x81, 0x45, 0x00}, codec.ErrEncoding},
		"string of 2^64-1":        {[]byte{0x81, 0x5b, 255, 255, 255, 255, 255, 255, 255, 255}, codec.ErrEncoding},
		"array of 2^64-1":         {[]byte{0x81, 0x9b, 255, 255, 255, 255, 255, 255, 255, 255}, codec.ErrEncoding},
		"map of 2^64-1":           {[]byte{0x81, 0xbb, 255, 255, 255, 255, 255, 255, 255, 255}, codec.ErrEncoding},
		"not UTF-8":               {[]byte{0x81, 0x61, 0xff}, codec.ErrEncoding},
		"keys out of order":       {[]byte{0x81, 0xa2, 1, 0, 0, 0}, codec.ErrEncoding},
		"keys twice":              {[]byte{0x81, 0xa2, 0, 0, 0, 0}, codec.ErrEncoding},
		"deep":                    {deep, codec.ErrEncoding},
		"256 fields":              {append([]byte{0x99, 1, 0}, make([]byte, 256)...), codec.ErrSize},
		"more fields than memory": {[]byte{0x9b, 0x7f, 255, 255, 255, 255, 255, 255, 255}, codec.ErrSize},
		"long":                    {make([]byte, MaxRecordSize+1), codec.ErrSize},
	} {
		if f, err := Fields(c.b); !errors.Is(err, c.want) || f != nil {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	for name, c := range map[string]struct {
		b    []byte
		want int
	}{
		"nothing":      {nil, 0},
		"255 fields":   {append([]byte{0x98, 255}, make([]byte, 255)...), 255},
		"constants":    {[]byte{0x83, 0xf4, 0xf5, 0xf6}, 3},
		"map":          {[]byte{0x81, 0xa2, 0, 0, 1, 0x20}, 1},
		"nested":       {append(bytes.Repeat([]byte{0x81}, 16), 0), 1},
		"wide numbers": {[]byte{0x82, 0x19, 0x01, 0x00, 0x3b, 255, 255, 255, 255, 255, 255, 255, 255}, 2},
	} {
		if f, err := Fields(c.b); err != nil || len(f) != c.want {
			t.Errorf("%s: got %d fields, %v", name, len(f), err)
		}
	}
}

func TestCore(t *testing.T) {
	c := &Core{Header: fullHeader().Encode(), Envelope: fullHash()}
	for range MaxAttachments {
		c.Attachments = append(c.Attachments, fullHash())
	}
	b := c.Encode()
	if len(b) > maxCoreSize {
		t.Fatalf("longest core takes %d bytes, bound is %d", len(b), maxCoreSize)
	}
	got, err := ParseCore(b)
	if err != nil {
		t.Fatal(err)
	}
	if got.Hash() != c.Hash() {
		t.Error("core doesn't survive")
	}
	none, empty := &Core{Header: c.Header}, &Core{Header: c.Header, Attachments: []codec.Hash{}}
	if none.Hash() != empty.Hash() {
		t.Error("no attachments have two hashes")
	}
	bad := *c
	bad.Attachments = append(bad.Attachments, fullHash())
	later := *none
	later.Header = codec.Encode([]any{2})
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"257 attachments": {bad.Encode(), codec.ErrSize},
		"long":            {make([]byte, maxCoreSize+1), codec.ErrSize},
		"later header":    {later.Encode(), ErrVersion},
		"no header":       {(&Core{}).Encode(), codec.ErrEncoding},
		"empty":           {nil, codec.ErrEncoding},
		"trailing":        {append(none.Encode(), 0), codec.ErrEncoding},
	} {
		if got, err := ParseCore(c.b); !errors.Is(err, c.want) || got != nil {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func TestPadme(t *testing.T) {
	// The first three are the paper's and small; the rest by its definition.
	for _, c := range []struct{ n, want int }{
		{4, 4}, {5, 5}, {7, 7}, {8, 8}, {9, 10}, {17, 18}, {100, 104}, {1000, 1024}, {1025, 1088}, {2052, 2176},
		{65537, 67584}, {lengthSize + MaxRecordSize, maxPaddedSize},
	} {
		if got := padme(c.n); got != c.want {
			t.Errorf("padme(%d) = %d, want %d", c.n, got, c.want)
		}
	}
	last := 0
	for n := lengthSize; n < 1<<17; n++ {
		p := padme(n)
		if p < n || p < last || padme(p) != p || !isPadded(p) {
			t.Fatalf("padme(%d) = %d", n, p)
		}
		if float64(p-n) > 0.12*float64(n) {
			t.Fatalf("padme(%d) = %d adds more than 12 %%", n, p)
		}
		last = p
	}
}

func TestLargestRecord(t *testing.T) {
	k, seed := newKeys(t, "escrow"), testSeed("large")
	// 0x81, head of a byte string, its bytes.
	record := codec.Encode([]any{make([]byte, MaxRecordSize-6)})
	if len(record) != MaxRecordSize {
		t.Fatalf("record of %d bytes", len(record))
	}
	s := seal(t, k, seed, record)
	if len(s.env.Ciphertext) != MaxCiphertextSize {
		t.Errorf("ciphertext of %d bytes, MaxCiphertextSize is %d", len(s.env.Ciphertext), MaxCiphertextSize)
	}
	env, err := Parse(s.env.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if _, got, err := Open(k.priv, s.header, env); err != nil || !bytes.Equal(got, record) {
		t.Fatalf("largest record doesn't open: %v", err)
	}
	if _, err := Commit(seed, append(record, 0)); !errors.Is(err, codec.ErrSize) {
		t.Errorf("one byte more: got %v", err)
	}
}

func TestSealRefuses(t *testing.T) {
	k, seed := newKeys(t, "escrow"), testSeed("a")
	record := testRecord("x").Encode()
	if _, _, err := Seal(k.pub, []byte{0x80}, seed, record); !errors.Is(err, codec.ErrEncoding) {
		t.Errorf("no header: got %v", err)
	}
	if _, _, err := Seal(k.pub, testHeader(t, seed, record), seed, []byte("text")); !errors.Is(err, codec.ErrEncoding) {
		t.Errorf("no record: got %v", err)
	}
	index := seal(t, k, seed, nil)
	if got, record, err := Open(k.priv, index.header, index.env); err != nil || *got != *seed || len(record) != 0 {
		t.Errorf("an envelope of a seed alone doesn't open: %v", err)
	}
	for name, env := range map[string]*Envelope{"nothing": {}, "enc alone": {Enc: index.env.Enc}, "short enc": {Enc: index.env.Enc[1:], Ciphertext: index.env.Ciphertext}} {
		if _, _, err := Open(k.priv, index.header, env); !errors.Is(err, codec.ErrEncoding) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if e := new(Envelope); e.E() != nil || e.MLKEMCiphertext() != nil {
		t.Error("an empty envelope has halves")
	}
}

func TestNewSeed(t *testing.T) {
	s, err := NewSeed(bytes.NewReader(bytes.Repeat([]byte{7}, 33)))
	if err != nil || s != Seed(bytes.Repeat([]byte{7}, 32)) {
		t.Errorf("got %v", err)
	}
	if s, err := NewSeed(bytes.NewReader(make([]byte, 31))); err == nil || s != (Seed{}) {
		t.Error("short randomness made a seed")
	}
}
