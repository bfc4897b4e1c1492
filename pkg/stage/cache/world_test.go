package cache

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
)

// A world is a rule with a cache, an origin behind it, and a clock.
type world struct {
	t        testing.TB
	store    *Store
	stage    *Stage
	pipeline *exchange.Pipeline
	rule     config.RuleCache

	mu   sync.Mutex
	time time.Time
	// hits counts what reached the origin; last is the newest request there.
	hits   int
	last   *exchange.Request
	origin func(*exchange.Request) answer
	// failure is why the origin cannot be reached, 0 where it can.
	failure policy.Reason
	observe bool
}

// An answer is what an origin says. Fields are "Name: value"; a Date is added
// where there is none.
type answer struct {
	status  int
	fields  []string
	body    string
	chunked bool
	cut     bool
	trailer string
}

func ok(body string, fields ...string) answer { return answer{status: 200, fields: fields, body: body} }

// defaults are the keys of a rule that narrow little.
func defaults() config.RuleCache {
	return config.RuleCache{
		Methods: []string{"GET", "HEAD"}, Statuses: []int{200, 301, 302}, ContentTypes: []string{"text/plain", "application/json"},
		TTL: 300 * time.Second, MaxBody: 1 << 20,
	}
}

func newWorld(t testing.TB, rule config.RuleCache) *world {
	w := &world{t: t, store: NewStore(8 << 20), rule: rule, time: time.Unix(1_700_000_000, 0).UTC()}
	w.use("read", rule)
	return w
}

func (w *world) use(name string, rule config.RuleCache) {
	w.stage = New(w.store, name, &rule, Print{digestOf([]byte(name))})
	w.stage.now = w.now
	w.pipeline = exchange.NewPipeline(w.stage)
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.time
}

func (w *world) sleep(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.time = w.time.Add(d)
}

func (w *world) says(a answer) { w.origin = func(*exchange.Request) answer { return a } }

// A reply is what a client saw.
type reply struct {
	*exchange.Response
	text string
	err  error
	// refused is the reason of a refusal.
	refused policy.Reason
	cache   string
	record  exchange.CacheStatus
	repeat  func(*exchange.Exchange)
	x       *exchange.Exchange
}

// exchangeFor makes an exchange of a request: "METHOD /path", then fields.
func (w *world) exchangeFor(line string, fields ...string) *exchange.Exchange {
	method, target, _ := strings.Cut(line, " ")
	x := new(exchange.Exchange)
	r := &x.Request
	r.Version, r.Method, r.Target, r.Scheme, r.Authority = exchange.HTTP11, method, target, "https", "api.example.com"
	r.Path, r.Query, r.HasQuery = strings.Cut(target, "?")
	x.Subject = exchange.Subject{Workload: "w", Rule: "read", Scheme: "https", Host: "api.example.com", Port: 443, Method: method, Observe: w.observe, Time: w.now()}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header.Add(name, value)
	}
	return x
}

func (w *world) do(line string, fields ...string) reply {
	w.t.Helper()
	return w.run(context.Background(), w.exchangeFor(line, fields...))
}

// run takes an exchange through the pipeline as the proxy does.
func (w *world) run(ctx context.Context, x *exchange.Exchange) reply {
	p := w.pipeline
	out := reply{x: x, Response: &x.Response}
	if refusal := p.Request(ctx, x); refusal != nil {
		out.refused = refusal.Reason
	} else if !x.Answered() {
		w.send(ctx, x, &out)
	}
	out.repeat = x.Repeated()
	if out.refused == policy.NoReason {
		p.Deliver(x)
		out.text, out.err = drain(x.Response.Body)
	}
	out.record = x.Record.Cache
	out.cache = x.Response.Header.Get(StatusField)
	if out.repeat == nil {
		p.End(x)
	}
	return out
}

func (w *world) send(ctx context.Context, x *exchange.Exchange, out *reply) {
	if w.failure != policy.NoReason {
		r := x.Refuse(w.failure, "the upstream is away")
		if !w.pipeline.Rescue(x, r) {
			out.refused = r.Reason
		}
		return
	}
	w.roundTrip(x)
	if refusal := w.pipeline.Response(ctx, x); refusal != nil {
		out.refused = refusal.Reason
	}
}

// repeat does what was asked to be done behind an answer.
func (w *world) repeat(r reply) *exchange.Exchange {
	w.t.Helper()
	if r.repeat == nil {
		w.t.Fatal("nothing is to be asked again")
	}
	x := new(exchange.Exchange)
	x.Request.CopyFrom(&r.x.Request)
	x.Subject = r.x.Subject
	w.pipeline.Resume(x)
	r.repeat(x)
	w.pipeline.End(r.x)
	w.send(context.Background(), x, &reply{})
	drain(x.Response.Body)
	w.pipeline.End(x)
	return x
}

func (w *world) roundTrip(x *exchange.Exchange) {
	w.mu.Lock()
	w.hits++
	seen := new(exchange.Request)
	seen.CopyFrom(&x.Request)
	w.last = seen
	origin := w.origin
	w.mu.Unlock()
	a := origin(&x.Request)
	resp := &x.Response
	resp.Version, resp.Status = exchange.HTTP11, a.status
	for _, f := range a.fields {
		name, value, _ := strings.Cut(f, ": ")
		resp.Header.Add(name, value)
	}
	if !resp.Header.Has("Date") {
		resp.Header.Add("Date", w.now().Format("Mon, 02 Jan 2006 15:04:05 GMT"))
	}
	if !resp.Header.Has("Content-Type") && a.status != 304 && a.body != "" {
		resp.Header.Add("Content-Type", "text/plain")
	}
	resp.Length = int64(len(a.body))
	switch {
	case a.status == 304, a.status == 204:
		resp.Length = 0
	case x.Request.Method == "HEAD":
		resp.Header.Add("Content-Length", strconv.Itoa(len(a.body)))
	case a.chunked:
		resp.Length = exchange.UnknownLength
		resp.Header.Add("Transfer-Encoding", "chunked")
		resp.Body = &slowBody{Bytes: exchange.NewBytes([]byte(a.body)), cut: a.cut, trailer: a.trailer, resp: resp}
	case a.body != "":
		resp.Header.Add("Content-Length", strconv.Itoa(len(a.body)))
		resp.Body = &slowBody{Bytes: exchange.NewBytes([]byte(a.body)), cut: a.cut}
	}
}

// A slowBody gives nothing without a Read, a few bytes at a time.
type slowBody struct {
	*exchange.Bytes
	cut     bool
	trailer string
	resp    *exchange.Response
}

func (b *slowBody) Buffered() ([]byte, bool) { return nil, false }
func (b *slowBody) Rewind() bool             { return false }

func (b *slowBody) Read(p []byte) (int, error) {
	n, err := b.Bytes.Read(p[:min(len(p), 1000)])
	if err == io.EOF {
		if b.cut {
			return n, io.ErrUnexpectedEOF
		}
		if b.trailer != "" {
			b.resp.Trailer.Add("X-End", b.trailer)
		}
	}
	return n, err
}

func drain(b exchange.Body) (string, error) {
	if b == nil {
		return "", nil
	}
	p, err := exchange.ReadAll(b, 16<<20)
	var source *exchange.SourceError
	if errors.As(err, &source) {
		err = source.Err
	}
	return string(p), err
}

// want checks how the cache served and how often the origin was asked so far.
func (w *world) want(r reply, cache string, hits int) {
	w.t.Helper()
	if r.cache != cache || w.hits != hits {
		w.t.Errorf("%s %s: %q, %d hits at the origin; want %q, %d", r.x.Request.Method, r.x.Request.Target, r.cache, w.hits, cache, hits)
	}
	if r.record.String() != r.cache && r.refused == policy.NoReason {
		w.t.Errorf("recorded %q, told %q", r.record, r.cache)
	}
}
