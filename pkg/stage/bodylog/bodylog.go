// Package bodylog is the stage `log`: it puts the bodies and header fields of
// requests and responses into their audit event, bounded, decoded, and redacted
// before any sink sees them. Bodies are watched as they pass and never held up.
package bodylog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"sallyport/pkg/audit"
	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/stage/decode"
)

// A Redactor replaces the secrets that it finds in a text.
type Redactor interface {
	// Redact appends p to dst without them.
	Redact(dst, p []byte) []byte
	// RedactURL is Redact for a path or a query, which is percent-encoded.
	RedactURL(dst, p []byte) []byte
}

// A Budget bounds what the bodies of all exchanges that run may hold, and those
// of one workload to half of that.
type Budget struct {
	max int64

	mu   sync.Mutex
	used int64
	// holders are what workloads hold, those that hold something.
	holders map[string]int64
}

// NewBudget gives one of max bytes.
func NewBudget(max int64) *Budget { return &Budget{max: max, holders: make(map[string]int64)} }

// Figures gives what is in use and the bound, in bytes.
func (b *Budget) Figures() (used, max int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used, b.max
}

// take takes n bytes for a workload, or gives them back; false where there is no
// room.
func (b *Budget) take(workload string, n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	held := b.holders[workload] + int64(n)
	if n > 0 && (held > b.max/2 || b.used+int64(n) > b.max) {
		return false
	}
	b.used += int64(n)
	if held > 0 {
		b.holders[workload] = held
	} else {
		delete(b.holders, workload)
	}
	return true
}

// Options are what the stage works with.
type Options struct {
	// Secrets redacts after the rule's own redactions. Required.
	Secrets Redactor
	// Budget is shared by all rules. Required.
	Budget *Budget
}

// A Stage records the messages of one rule.
type Stage struct {
	o                 Options
	request, response bool
	max               int
	headers           []string
	redactors         sync.Pool // *jsonRedactor
}

var (
	_ exchange.RequestStage  = (*Stage)(nil)
	_ exchange.ResponseStage = (*Stage)(nil)
	_ exchange.DeliveryStage = (*Stage)(nil)
	_ exchange.EndStage      = (*Stage)(nil)
	_ exchange.RecordStage   = (*Stage)(nil)
)

// New makes the stage of a rule.
func New(c *config.BodyLog, o Options) (*Stage, error) {
	s := &Stage{o: o, request: c.RequestBody, response: c.ResponseBody, max: int(min(c.MaxBody, audit.MaxBody))}
	var paths []config.JSONPath
	for _, r := range c.Redact {
		if r.Header != "" {
			s.headers = append(s.headers, r.Header)
			continue
		}
		p, err := config.ParseJSONPath(r.Path)
		if err != nil {
			return nil, fmt.Errorf("log.redact: %w", err)
		}
		paths = append(paths, p)
	}
	s.redactors.New = func() any { return &jsonRedactor{paths: paths} }
	return s, nil
}

// Name implements exchange.Stage.
func (s *Stage) Name() string { return "log" }

// A capture is what is kept of one exchange.
type capture struct{ request, response *body }

// Request implements exchange.RequestStage.
func (s *Stage) Request(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
	c := &capture{}
	x.Keep(s, c)
	x.Record.RequestHeaders = s.fields(&x.Request.Header)
	if s.request && x.Request.Body != nil && !tunnels(&x.Request) {
		c.request = s.watch(x, &x.Request.Header)
		x.Request.Body = exchange.Watch(x.Request.Body, c.request)
	}
	return nil
}

// Resume implements exchange.ResumeStage: what is repeated has no body.
func (s *Stage) Resume(x *exchange.Exchange) {
	x.Keep(s, &capture{})
	x.Record.RequestHeaders = s.fields(&x.Request.Header)
}

// Response implements exchange.ResponseStage.
func (s *Stage) Response(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
	c, _ := x.Kept(s).(*capture)
	if c == nil || !s.response || x.Response.Body == nil || tunnels(&x.Request) && x.Response.Status/100 == 2 {
		return nil
	}
	c.response = s.watch(x, &x.Response.Header)
	x.Response.Body = exchange.Watch(x.Response.Body, c.response)
	return nil
}

// tunnels reports whether the request is an extended CONNECT (RFC 8441), whose
// bodies are the frames of another protocol. The connection of an HTTP/1.1
// upgrade leaves HTTP, and what is asked for with Upgrade may be refused: its
// body is one.
func tunnels(r *exchange.Request) bool { return r.Method == "CONNECT" }

// Deliver implements exchange.DeliveryStage: the fields are those that the
// workload gets, whoever made them. What another stage has answered is seen here
// only.
func (s *Stage) Deliver(x *exchange.Exchange) {
	x.Record.ResponseHeaders = s.fields(&x.Response.Header)
	if !x.Answered() {
		return
	}
	c, _ := x.Kept(s).(*capture)
	if c == nil {
		c = &capture{}
		x.Keep(s, c)
		x.Record.RequestHeaders = s.fields(&x.Request.Header)
	}
	if s.response && x.Response.Body != nil {
		if c.response != nil {
			// The upstream's, which nobody gets.
			c.response.drop()
		}
		c.response = s.watch(x, &x.Response.Header)
		x.Response.Body = exchange.Watch(x.Response.Body, c.response)
	}
}

// End implements exchange.EndStage.
func (s *Stage) End(x *exchange.Exchange) {
	c, _ := x.Kept(s).(*capture)
	if c == nil {
		return
	}
	var cut bool
	x.Record.RequestBody, cut = s.text(c.request)
	x.Record.Truncated = x.Record.Truncated || cut
	x.Record.ResponseBody, cut = s.text(c.response)
	x.Record.Truncated = x.Record.Truncated || cut
}

// Redact implements exchange.RecordStage: the URL is in every event, also where
// a stage before this one has refused the request.
func (s *Stage) Redact(x *exchange.Exchange) { x.Record.RedactURL(&x.Request, s.o.Secrets.RedactURL) }

// fields copies fields for the record, redacted.
func (s *Stage) fields(h *exchange.Header) []exchange.Field {
	n := min(h.Len(), audit.MaxHeaders+1) // one more says that there were more
	list := make([]exchange.Field, n)
	var room [512]byte
	for i := range n {
		f := *h.At(i)
		if s.redacted(f.Name) {
			f.Value = audit.Redacted
		} else if clean := s.o.Secrets.Redact(room[:0], []byte(f.Value)); string(clean) != f.Value {
			f.Value = string(clean)
		}
		list[i] = f
	}
	return list
}

func (s *Stage) redacted(name string) bool {
	for _, h := range s.headers {
		if exchange.EqualFold(h, name) {
			return true
		}
	}
	return audit.SecretHeader(name)
}

// A body keeps the beginning of a body that passes by.
type body struct {
	max         int
	budget      *Budget
	workload    string
	contentType string
	codings     []decode.Coding
	err         error // of the codings

	kept []byte
	// more: it went on beyond what is kept; ended: it has come to its clean end.
	more, ended bool
}

func (s *Stage) watch(x *exchange.Exchange, h *exchange.Header) *body {
	b := &body{max: s.max, budget: s.o.Budget, workload: x.Subject.Workload}
	if f := h.Find(exchange.ContentType); f != nil {
		b.contentType = f.Value
	}
	b.codings, b.err = decode.Codings(h)
	return b
}

// drop gives back what the body holds of the budget.
func (b *body) drop() {
	b.budget.take(b.workload, -len(b.kept))
	b.kept = nil
}

// Watch implements exchange.Watcher.
func (b *body) Watch(p []byte, last bool) error {
	b.ended = last
	if room := b.max - len(b.kept); len(p) > room {
		b.more = true
		p = p[:room]
	}
	if len(p) == 0 {
		return nil
	}
	if !b.budget.take(b.workload, len(p)) {
		b.more, b.max = true, len(b.kept)
		return nil
	}
	b.kept = append(b.kept, p...)
	return nil
}

// text gives what goes into the record, and whether it is not whole.
func (s *Stage) text(b *body) (text []byte, truncated bool) {
	if b == nil {
		return nil, false
	}
	defer b.drop()
	truncated = b.more || !b.ended
	if len(b.kept) == 0 {
		return nil, truncated && b.more
	}
	plain := b.kept
	switch {
	case b.err != nil:
		return []byte("[content coding that cannot be decoded]"), true
	case len(b.codings) > 0:
		var whole bool
		plain, whole = undo(b.kept, b.codings, s.max)
		truncated = truncated || !whole
	}
	if !isText(b.contentType, wholeRunes(plain)) {
		return fmt.Appendf(nil, "[binary, %d bytes]", len(plain)), true
	}
	return s.redact(b.contentType, plain, truncated)
}

// undo takes codings off the beginning of a body, up to max bytes of it.
func undo(p []byte, codings []decode.Coding, max int) (plain []byte, whole bool) {
	r := decode.NewReader(bytes.NewReader(p), codings, 0)
	defer r.Close()
	plain = make([]byte, 0, min(4*len(p), max)+1)
	for len(plain) <= max {
		if len(plain) == cap(plain) {
			plain = append(plain, 0)[:len(plain)]
		}
		n, err := r.Read(plain[len(plain):min(cap(plain), max+1)])
		plain = plain[:len(plain)+n]
		if err != nil {
			return plain[:min(len(plain), max)], errors.Is(err, io.EOF) && len(plain) <= max
		}
	}
	return plain[:max], false
}

// redact redacts a text and bounds it.
func (s *Stage) redact(contentType string, plain []byte, truncated bool) (text []byte, cutOff bool) {
	j := s.redactors.Get().(*jsonRedactor)
	defer s.redactors.Put(j)
	whole := true
	switch kind := formatOf(contentType, plain); {
	case kind == form:
		plain = j.redactForm(nil, plain)
	case len(j.paths) == 0:
	case kind == jsonText:
		plain, whole = j.redact(nil, plain)
	case kind == eventStream:
		plain, whole = j.redactEvents(nil, plain)
	case kind == multipart:
		// Its parts have names and types of their own.
		return []byte("[multipart, in which log.redact finds nothing]"), true
	}
	text = s.o.Secrets.Redact(nil, plain)
	if truncated {
		text = cutTail(text)
	}
	if len(text) > s.max {
		text, whole = wholeRunes(text[:s.max]), false
	}
	truncated = truncated || !whole
	if truncated && !bytes.HasSuffix(text, []byte(cut)) {
		text = append(text, cut...)
	}
	return text, truncated
}

// wholeRunes takes an incomplete last character off a text that was cut.
func wholeRunes(b []byte) []byte {
	for back := 1; back <= 3 && back <= len(b); back++ {
		switch c := b[len(b)-back]; {
		case c < 0x80:
			return b
		case c >= 0xc0:
			if size := runeLength(c); size > back {
				return b[:len(b)-back]
			}
			return b
		}
	}
	return b
}

// runeLength is what the first byte of a character says of its length.
func runeLength(c byte) int {
	switch {
	case c >= 0xf0:
		return 4
	case c >= 0xe0:
		return 3
	default:
		return 2
	}
}
