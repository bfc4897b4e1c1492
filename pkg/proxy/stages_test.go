package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
)

// A trial is a stage that does what a test says and writes down what it was
// asked to do.
type trial struct {
	request  func(context.Context, *exchange.Exchange) *exchange.Refusal
	response func(*exchange.Exchange) *exchange.Refusal
	rescue   func(*exchange.Exchange) bool

	mu  sync.Mutex
	log []string
}

func (s *trial) Name() string { return "trial" }

func (s *trial) note(what string) {
	s.mu.Lock()
	s.log = append(s.log, what)
	s.mu.Unlock()
}

func (s *trial) ran() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.log, " ")
}

func (s *trial) Request(ctx context.Context, x *exchange.Exchange) *exchange.Refusal {
	s.note("request")
	if s.request == nil {
		return nil
	}
	return s.request(ctx, x)
}

func (s *trial) Response(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
	s.note("response")
	if s.response == nil {
		return nil
	}
	return s.response(x)
}

func (s *trial) Deliver(x *exchange.Exchange) {
	s.note("deliver")
	x.Response.Header.Add("X-Delivered", "yes")
}

func (s *trial) Withdraw(*exchange.Exchange) { s.note("withdraw") }
func (s *trial) End(*exchange.Exchange)      { s.note("end") }

func (s *trial) Rescue(x *exchange.Exchange, _ *exchange.Refusal) bool {
	s.note("rescue")
	return s.rescue != nil && s.rescue(x)
}

// local fills the response as a stage that answers does.
func local(x *exchange.Exchange, text string) {
	x.Response.Reset()
	x.Response.Version, x.Response.Status, x.Response.Length = exchange.HTTP11, 200, int64(len(text))
	x.Response.Header.Set("Content-Length", fmt.Sprint(len(text)))
	x.Response.Body = exchange.NewBytes([]byte(text))
}

// atMost refuses a body that is longer.
type atMost struct {
	x      *exchange.Exchange
	reason policy.Reason
	limit  int
	seen   int
}

func (w *atMost) Watch(p []byte, _ bool) error {
	w.seen += len(p)
	if w.seen <= w.limit {
		return nil
	}
	if r := w.x.Object(w.x.Refuse(w.reason, "too long")); r != nil {
		return r
	}
	return nil
}

const stageRules = `
rules:
  - name: web
    match: { hosts: [api.example.com] }
    private: [127.0.0.0/8]
    action: allow
`

func limitRequest(x *exchange.Exchange) {
	if x.Request.Body != nil {
		x.Request.Body = exchange.Watch(x.Request.Body, &atMost{x: x, reason: policy.RequestTooLarge, limit: 10})
	}
}

// TestStages: what a stage says is done, in both versions of HTTP, and told to
// the client, the audit and the stages.
func TestStages(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 100_000)
	for _, tt := range []struct {
		name    string
		stage   *trial
		observe bool
		dead    bool   // the upstream cannot be reached
		body    string // of the request
		// What is expected.
		status          int // 0: the answer is cut
		text, ran       string
		verdict, reason string
		reached         int64
	}{
		{name: "nothing", status: 200, text: "/p", ran: "request response deliver end", verdict: "allow", reached: 1},
		{
			name: "refuses", status: 429, text: `"reason":"rate_limited"`, ran: "request deliver end", verdict: "deny", reason: "rate_limited",
			stage: &trial{request: func(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
				return x.Refuse(policy.RateLimited, "too many")
			}},
		},
		{
			name: "refuses, observed", observe: true, status: 200, text: "/p", ran: "request response deliver end", verdict: "would_deny", reason: "rate_limited", reached: 1,
			stage: &trial{request: func(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
				return x.Refuse(policy.RateLimited, "too many")
			}},
		},
		{
			name: "refuses what is not observed", observe: true, status: 401, text: `"reason":"auth_required"`, ran: "request deliver end", verdict: "deny", reason: "auth_required",
			stage: &trial{request: func(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
				return x.Refuse(policy.AuthRequired, "who are you")
			}},
		},
		{
			name: "answers", status: 200, text: "from memory", ran: "request deliver end", verdict: "allow",
			stage: &trial{request: func(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
				local(x, "from memory")
				x.Answer()
				return nil
			}},
		},
		{
			name: "refuses the response", status: 502, text: `"reason":"response_filter"`, ran: "request response deliver end", verdict: "deny", reason: "response_filter", reached: 1,
			stage: &trial{response: func(x *exchange.Exchange) *exchange.Refusal { return x.Refuse(policy.ResponseFilter, "bad words") }},
		},
		{
			name: "answers in place of the response", status: 200, text: "what was stored", ran: "request response deliver end", verdict: "allow", reached: 1,
			stage: &trial{response: func(x *exchange.Exchange) *exchange.Refusal {
				local(x, "what was stored")
				x.Answer()
				return nil
			}},
		},
		{
			name: "refuses in the request's body", body: large, status: 413, text: `"reason":"request_too_large"`, ran: "request deliver end", verdict: "deny", reason: "request_too_large",
			stage: &trial{request: func(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
				limitRequest(x)
				return nil
			}},
		},
		{
			name: "refuses in the request's body, observed", observe: true, body: large, status: 200, text: "/p", ran: "request response deliver end", verdict: "would_deny", reason: "request_too_large", reached: 1,
			stage: &trial{request: func(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
				limitRequest(x)
				return nil
			}},
		},
		{
			name: "refuses in the response's body", body: "long", status: 0, ran: "request response deliver end", verdict: "deny", reason: "response_too_large", reached: 1,
			stage: &trial{response: func(x *exchange.Exchange) *exchange.Refusal {
				x.Response.Body = exchange.Watch(x.Response.Body, &atMost{x: x, reason: policy.ResponseTooLarge, limit: 10})
				return nil
			}},
		},
		{
			name: "rescues", dead: true, status: 200, text: "stale", ran: "request rescue deliver end", verdict: "allow",
			stage: &trial{rescue: func(x *exchange.Exchange) bool {
				local(x, "stale")
				return true
			}},
		},
		{name: "cannot rescue", dead: true, status: 502, text: "upstream_unreachable", ran: "request rescue deliver end", verdict: "deny", reason: "upstream_unreachable"},
	} {
		for _, protocol := range []string{"http/1.1", "h2"} {
			t.Run(tt.name+", "+protocol, func(t *testing.T) {
				t.Parallel()
				var stage trial
				if does := tt.stage; does != nil {
					stage.request, stage.response, stage.rescue = does.request, does.response, does.rescue
				}
				g := newGate(t, stageRules, nil)
				s := settings(t, stageRules)
				if tt.observe {
					s = settings(t, "mode: observe\n"+stageRules)
				}
				s.Pipelines = []*exchange.Pipeline{exchange.NewPipeline(&stage)}
				g.p.Apply(s)
				site := g.speaking("api.example.com", func(w http.ResponseWriter, r *http.Request) {
					if _, err := io.Copy(io.Discard, r.Body); err != nil {
						return
					}
					io.WriteString(w, r.URL.Path)
					if tt.body == "long" {
						w.(http.Flusher).Flush()
						io.WriteString(w, large)
					}
				}, protocol)
				if tt.dead {
					g.book.mu.Lock()
					g.book.addrs["api.example.com"] = nil
					g.book.mu.Unlock()
				}
				client := g.client(site, "api.example.com")
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://api.example.com/p", nil)
				if err != nil {
					t.Fatal(err)
				}
				if tt.body != "" {
					req.Body, req.ContentLength = io.NopCloser(bytes.NewReader([]byte(tt.body))), -1
				}
				r := fetch(client, req)
				switch {
				case tt.status == 0 && r.err == nil:
					t.Errorf("got the whole of %d bytes", len(r.text))
				case tt.status != 0 && r.err != nil:
					t.Fatal(r.err)
				case tt.status != 0 && (r.StatusCode != tt.status || !strings.Contains(r.text, tt.text) || r.Header.Get("X-Delivered") != "yes"):
					t.Errorf("got %d %q, delivered %q; want %d with %q", r.StatusCode, r.text, r.Header.Get("X-Delivered"), tt.status, tt.text)
				}
				e := g.event(audit.Exchange, 1)
				if e.Verdict != tt.verdict || e.Reason != tt.reason {
					t.Errorf("recorded %s %s (%s), want %s %s", e.Verdict, e.Reason, e.Message, tt.verdict, tt.reason)
				}
				if got := stage.ran(); got != tt.ran {
					t.Errorf("ran %q, want %q", got, tt.ran)
				}
				if n := site.reqs.Load(); n != tt.reached && tt.name != "refuses in the request's body" {
					t.Errorf("%d requests reached the upstream, want %d", n, tt.reached)
				}
			})
		}
	}
}

// TestStageWaits: a stage that waits is told when its client has left.
func TestStageWaits(t *testing.T) {
	t.Parallel()
	asked, waited := make(chan struct{}), make(chan error, 1)
	stage := trial{request: func(ctx context.Context, _ *exchange.Exchange) *exchange.Refusal {
		close(asked)
		select {
		case <-ctx.Done():
			waited <- ctx.Err()
		case <-time.After(30 * time.Second):
			waited <- nil
		}
		return nil
	}}
	g := newGate(t, stageRules, nil)
	s := settings(t, stageRules)
	s.Pipelines = []*exchange.Pipeline{exchange.NewPipeline(&stage)}
	g.p.Apply(s)
	site := g.speaking("api.example.com", nil, "h2")
	client := g.client(site, "api.example.com")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := fetch(client, req); r.err == nil {
		t.Error("was answered")
	}
	select {
	case err := <-waited:
		if err == nil {
			t.Error("the stage was not told")
		}
	case <-time.After(time.Minute):
		t.Fatal("the stage still waits")
	}
	if n := site.reqs.Load(); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
}
