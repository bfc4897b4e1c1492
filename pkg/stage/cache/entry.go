package cache

import (
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"sallyport/pkg/exchange"
)

// An entry is one stored response. Nothing of it changes but its place in the
// store: what confirms it makes another one.
type entry struct {
	scope  scope
	caller digest
	// selection is what Vary named.
	selection selection
	// head says that it answers HEAD only: it has no body and length is what GET
	// would give.
	head bool

	status int
	phrase string
	fields []exchange.Field
	body   []byte
	length int64

	etag string
	// modified is Last-Modified as written, modifiedAt as read, zero without one.
	modified   string
	modifiedAt time.Time
	freshness  freshness

	// size is what it is counted with.
	size int64

	// used is set where it answers, and taken back by the hand of its share.
	used     atomic.Bool
	resource *resource
	share    *share
	// Its neighbours in the queue of its share, newer and older.
	newer, older *entry
}

// What an entry and its resource take beside what they hold, about: measured by
// TestSizeIsHonest.
const (
	entryOverhead    = 480
	fieldOverhead    = 56
	resourceOverhead = 160
)

// newEntry makes an entry of the head of a response. Its strings share one
// memory of their own: those of a message may hold much more alive.
func newEntry(resp *exchange.Response) *entry {
	e := &entry{status: resp.Status, length: resp.Length, fields: make([]exchange.Field, 0, resp.Header.Len()+1)}
	total := len(resp.Phrase)
	for i := range resp.Header.Len() {
		f := resp.Header.At(i)
		total += len(f.Name) + len(f.Value)
	}
	var b strings.Builder
	b.Grow(total)
	copied := func(s string) string {
		at := b.Len()
		b.WriteString(s)
		return b.String()[at:]
	}
	e.phrase = copied(resp.Phrase)
	for i := range resp.Header.Len() {
		f := *resp.Header.At(i)
		if !stored(&f) {
			continue
		}
		if known := f.ID.String(); f.Name == known {
			f.Name = known
		} else {
			f.Name = copied(f.Name)
		}
		f.Value = copied(f.Value)
		e.fields = append(e.fields, f)
		if f.ID == exchange.OtherName {
			e.note(&f)
		}
	}
	e.size = entryOverhead + int64(total) + fieldOverhead*int64(cap(e.fields))
	return e
}

// stored reports whether a field is kept: not those of one hop, of framing, and
// those that each answer gets anew.
func stored(f *exchange.Field) bool {
	switch f.ID {
	case exchange.ContentLength, exchange.TransferEncoding, exchange.Trailer, exchange.AltSvc, exchange.SetCookie:
		return false
	case exchange.OtherName:
		return !exchange.EqualFold(f.Name, "Age") && !exchange.EqualFold(f.Name, StatusField)
	default:
		return !f.ID.HopByHop()
	}
}

// note remembers the validators.
func (e *entry) note(f *exchange.Field) {
	switch {
	case exchange.EqualFold(f.Name, "ETag"):
		// One without quotes is sent back as it came: its upstream will know it.
		if e.etag == "" {
			e.etag = f.Value
		}
	case exchange.EqualFold(f.Name, "Last-Modified"):
		if t, ok := parseTime(f.Value); ok && e.modified == "" {
			e.modified, e.modifiedAt = f.Value, t
		}
	}
}

// validators reports whether the upstream can be asked whether it still holds.
func (e *entry) validators() bool { return e.etag != "" || e.modified != "" }

// hold gives the entry its body and counts it.
func (e *entry) hold(body []byte) {
	e.body, e.length = body, int64(len(body))
	e.size += int64(cap(body))
}

// merged makes the entry that a confirmation gives: its fields take the place
// of those with their names (RFC 9111 section 3.2), but for those that describe
// the content, which is the stored one.
// full is that header as it came, with Age.
func (e *entry) merged(confirmation *exchange.Header) (_ *entry, full exchange.Header) {
	var h exchange.Header
	replaced := func(name string) bool { return confirmation.Has(name) }
	for i := range e.fields {
		if f := &e.fields[i]; e.describes(f) || !replaced(f.Name) {
			h.Append(*f)
		}
	}
	for i := range confirmation.Len() {
		if f := confirmation.At(i); !e.describes(f) {
			h.Append(*f)
		}
	}
	n := newEntry(&exchange.Response{Status: e.status, Phrase: e.phrase, Header: h, Length: e.length})
	n.scope, n.caller, n.selection, n.head = e.scope, e.caller, e.selection, e.head
	n.body = e.body
	n.size += int64(cap(e.body)) + e.selection.size()
	return n, h
}

// describes reports whether a field tells what the stored content is, so that a
// confirmation does not change it. Of the type RFC 9111 section 3.2 leaves that
// open: a filter has judged the content by it.
func (e *entry) describes(f *exchange.Field) bool {
	switch f.ID {
	case exchange.ContentLength, exchange.ContentEncoding, exchange.ContentType, exchange.ContentRange:
		return true
	case exchange.OtherName:
		return exchange.EqualFold(f.Name, "ETag") && e.etag != "" || exchange.EqualFold(f.Name, "Content-MD5") ||
			exchange.EqualFold(f.Name, "Content-Digest") || exchange.EqualFold(f.Name, "Repr-Digest") || exchange.EqualFold(f.Name, "Content-Language")
	default:
		return false
	}
}

// answer fills a response from the entry.
func (e *entry) answer(req *exchange.Request, resp *exchange.Response, now time.Time, status exchange.CacheStatus) {
	resp.Reset()
	resp.Version, resp.Status, resp.Phrase = exchange.HTTP11, e.status, e.phrase
	for i := range e.fields {
		resp.Header.Append(e.fields[i])
	}
	if e.length > 0 || e.length == 0 && e.status != 204 {
		resp.Header.Append(lengthField(e.length))
		resp.Length = e.length
	}
	e.tell(resp, now, status)
	if req.Method != "HEAD" && len(e.body) > 0 {
		resp.Body = exchange.NewBytes(e.body)
	}
}

// unchanged fills a response that tells the client that what it has still holds
// (RFC 9110 section 15.4.5).
func (e *entry) unchanged(resp *exchange.Response, now time.Time, status exchange.CacheStatus) {
	resp.Reset()
	resp.Version, resp.Status = exchange.HTTP11, 304
	for i := range e.fields {
		switch f := &e.fields[i]; {
		case e.describes(f) && !exchange.EqualFold(f.Name, "ETag"):
		case e.etag != "" && exchange.EqualFold(f.Name, "Last-Modified"):
		default:
			resp.Header.Append(*f)
		}
	}
	e.tell(resp, now, status)
}

// tell adds what a client is told of the cache itself.
func (e *entry) tell(resp *exchange.Response, now time.Time, status exchange.CacheStatus) {
	seconds := int64(e.freshness.age(now) / time.Second)
	resp.Header.Append(exchange.Field{Name: "Age", Value: strconv.FormatInt(min(seconds, maxSeconds), 10), Checked: true})
	resp.Header.Append(statusField(status))
}

func lengthField(n int64) exchange.Field {
	return exchange.Field{Name: "Content-Length", Value: strconv.FormatInt(n, 10), ID: exchange.ContentLength, Checked: true}
}

// StatusField is the response field that says how the cache served a request.
const StatusField = "X-Cache-Status"

func statusField(s exchange.CacheStatus) exchange.Field {
	return exchange.Field{Name: StatusField, Value: s.String(), Checked: true}
}

// A resource is what is stored under one key.
type resource struct {
	key  string
	hash uint64
	// next is the next of the same bucket.
	next atomic.Pointer[resource]
	// variants are replaced, never changed; the newest is the first.
	variants atomic.Pointer[[]*entry]
}

// maxVariants bounds what is stored of one resource: a workload that varies a
// header without end has its own oldest variants dropped.
const maxVariants = 16

// list gives the variants; a nil resource has none.
func (r *resource) list() []*entry {
	if r == nil {
		return nil
	}
	if p := r.variants.Load(); p != nil {
		return *p
	}
	return nil
}

// choose gives the newest entry that a request selects, nil for none. HEAD is
// answered by what answers GET, or else by what answered HEAD.
func (r *resource) choose(sc *scope, caller digest, req *exchange.Request) *entry {
	head := req.Method == "HEAD"
	var spare *entry
	for _, e := range r.list() {
		if e.caller != caller || e.head && !head || e.scope != *sc || !e.selection.matches(&req.Header) {
			continue
		}
		if !e.head {
			return e
		}
		if spare == nil {
			spare = e
		}
	}
	return spare
}

// replaces reports whether e stands for the same as old.
func (e *entry) replaces(old *entry) bool {
	return e.head == old.head && e.caller == old.caller && e.scope == old.scope &&
		slices.Equal(e.selection.names, old.selection.names) && slices.Equal(e.selection.values, old.selection.values)
}
