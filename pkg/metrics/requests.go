package metrics

import (
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sallyport/pkg/policy"
)

// A Rule is the handle by which the hot path counts for one workload and rule.
type Rule struct {
	name string

	requests                    cells
	denied                      cells
	duration, upstream          histogram
	requestBytes, responseBytes atomic.Uint64
}

// Rule gives the handle of a rule; "" where no rule matched. Beyond MaxRules
// pairs of workload and rule it is that of OtherName.
func (w *Workload) Rule(name string) *Rule {
	name = labelValue(name)
	w.mu.RLock()
	r := w.rules[name]
	w.mu.RUnlock()
	if r != nil {
		return r
	}
	w.table.mu.Lock()
	defer w.table.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if r = w.rules[name]; r != nil {
		return r
	}
	if w.table.rules >= MaxRules {
		name = OtherName
		if r = w.rules[name]; r != nil {
			return r
		}
	}
	r = &Rule{name: name}
	r.duration.init(&durationBuckets)
	r.upstream.init(&durationBuckets)
	w.rules[name] = r
	w.table.rules++
	return r
}

// A Request is what one exchange adds.
type Request struct {
	// Method as it was received; one outside RFC 9110 and PATCH counts as
	// "other".
	Method string
	// Status is what the workload was answered; 0 where the exchange ended
	// without an answer.
	Status int
	// Duration is the whole exchange; Upstream what of it was spent waiting for
	// the upstream, 0 where none was asked.
	Duration, Upstream time.Duration
	// RequestBytes and ResponseBytes are bytes of body.
	RequestBytes, ResponseBytes int64
}

// Request counts one exchange, at its end.
func (r *Rule) Request(q *Request) {
	r.requests.add(requestKey(methodOf(q.Method), q.Status), requestKey(methodOf(q.Method), codeOther))
	r.duration.observe(q.Duration)
	if q.Upstream > 0 {
		r.upstream.observe(q.Upstream)
	}
	r.requestBytes.Add(uint64(max(q.RequestBytes, 0)))
	r.responseBytes.Add(uint64(max(q.ResponseBytes, 0)))
}

// Denied counts a refusal, or with policy.WouldDeny what observe mode let pass.
func (r *Rule) Denied(reason policy.Reason, verdict policy.Verdict) {
	key := uint32(reason)<<8 | uint32(verdict)
	r.denied.add(key, key)
}

// cells are counters under small keys, of which few are in use: a list that is
// only replaced when a key is new, so that counting takes no lock.
type cells struct {
	list atomic.Pointer[[]*cell]
	mu   sync.Mutex // of replacing
}

type cell struct {
	key uint32
	n   atomic.Uint64
}

// maxCells bounds the keys of one list, as an upstream chooses status codes. The
// reserve is for the keys that take over then.
const (
	maxCells     = 64
	reserveCells = 16
)

// add counts under key, or under instead when the list is full.
func (c *cells) add(key, instead uint32) {
	if list := c.list.Load(); list != nil {
		for _, cell := range *list {
			if cell.key == key {
				cell.n.Add(1)
				return
			}
		}
	}
	c.grow(key, instead).n.Add(1)
}

func (c *cells) grow(key, instead uint32) *cell {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.all()
	if key != instead && len(list) >= maxCells-reserveCells {
		key = instead
	}
	for _, cell := range list {
		if cell.key == key {
			return cell
		}
	}
	fresh := &cell{key: key}
	list = append(slices.Clone(list), fresh)
	c.list.Store(&list)
	return fresh
}

func (c *cells) all() []*cell {
	if list := c.list.Load(); list != nil {
		return *list
	}
	return nil
}

// methods are the values of the label `method`: RFC 9110 §9.3 and PATCH (RFC
// 5789); the last stands for all others.
var methods = [...]string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", OtherName}

func methodOf(name string) uint32 {
	for i, m := range methods[:len(methods)-1] {
		if m == name {
			return uint32(i)
		}
	}
	return uint32(len(methods) - 1)
}

// codeOther is the code of an answer beyond maxCells or outside 100-599.
const codeOther = 1000

func requestKey(method uint32, status int) uint32 {
	if status != 0 && (status < 100 || status > 599) {
		status = codeOther
	}
	return method<<16 | uint32(status)
}

func codeName(code uint32) string {
	if code == codeOther {
		return OtherName
	}
	return strconv.Itoa(int(code))
}

type requestCollector struct {
	m                                                         *Metrics
	requests, duration, upstream, requestBytes, responseBytes *prometheus.Desc
}

func newRequestCollector(m *Metrics) *requestCollector {
	return &requestCollector{
		m: m,
		requests: desc("requests_total", "HTTP exchanges that ended, by the status that the workload got (0: none).",
			"workload", "rule", "method", "code"),
		duration:      desc("request_duration_seconds", "Duration of HTTP exchanges.", "workload", "rule"),
		upstream:      desc("upstream_duration_seconds", "Time that HTTP exchanges waited for the upstream.", "workload", "rule"),
		requestBytes:  desc("http_request_bytes_total", "Bytes of HTTP request bodies.", "workload", "rule"),
		responseBytes: desc("http_response_bytes_total", "Bytes of HTTP response bodies.", "workload", "rule"),
	}
}

func (c *requestCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.requests, c.duration, c.upstream, c.requestBytes, c.responseBytes} {
		ch <- d
	}
}

func (c *requestCollector) Collect(ch chan<- prometheus.Metric) {
	for w, r := range c.m.table.allRules() {
		list := r.requests.all()
		for _, cell := range list {
			ch <- counter(c.requests, cell.n.Load(), w.name, r.name, methods[cell.key>>16], codeName(cell.key&0xffff))
		}
		if len(list) == 0 {
			continue
		}
		if m := r.duration.metric(c.duration, w.name, r.name); m != nil {
			ch <- m
		}
		if m := r.upstream.metric(c.upstream, w.name, r.name); m != nil {
			ch <- m
		}
		ch <- counter(c.requestBytes, r.requestBytes.Load(), w.name, r.name)
		ch <- counter(c.responseBytes, r.responseBytes.Load(), w.name, r.name)
	}
}
