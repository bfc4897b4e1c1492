package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport/pkg/audit"
)

func (discard) Name() string                { return "discard" }
func (discard) Write(p []byte) (int, error) { return len(p), nil }

const testGroup = 54321

func TestWhoMayDoWhat(t *testing.T) {
	tests := []struct {
		name         string
		client       func(*testing.T, *running) *Client
		read, change bool
	}{
		{"root", func(t *testing.T, r *running) *Client { return r.client(t) }, true, true},
		{"group as own", func(t *testing.T, r *running) *Client { return r.clientAs(t, 4001, testGroup) }, true, false},
		{"group as supplementary", func(t *testing.T, r *running) *Client { return r.clientAs(t, 4001, 4001, 7, testGroup) }, true, false},
		{"another group", func(t *testing.T, r *running) *Client { return r.clientAs(t, 4001, 4001, 7) }, false, false},
		{"reader", func(t *testing.T, r *running) *Client { return r.clientAs(t, 4999, 4999) }, true, false},
		{"group root", func(t *testing.T, r *running) *Client { return r.clientAs(t, 4001, 0) }, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, func(o *Options, _ *Server) { o.Access.Readers = []uint32{4999} })
			c := tt.client(t, r)
			ctx := context.Background()
			none := &audit.Filter{}
			for what, err := range map[string]error{
				"status":  second(c.Status(ctx)),
				"flows":   second(c.Flows(ctx, none)),
				"explain": second(c.Explain(ctx, &ExplainRequest{URL: "https://a.example"})),
				"tail":    c.Tail(ctx, none, 1, false, func([]byte, *audit.Event) error { return nil }),
				"ready":   c.Ready(ctx),
			} {
				if tt.read && err != nil || !tt.read && !errors.Is(err, ErrForbidden) {
					t.Errorf("%s: %v", what, err)
				}
			}
			_, err := c.Reload(ctx)
			if tt.change && err != nil || !tt.change && !errors.Is(err, ErrForbidden) {
				t.Errorf("reload: %v", err)
			}
			r.backend.set(func() {
				if reloaded := r.backend.reloads == 1; reloaded != tt.change {
					t.Errorf("%d reloads", r.backend.reloads)
				}
			})
			verdict := "deny"
			if tt.change {
				verdict = "allow"
			}
			events := r.recorded()
			if len(events) == 0 || events[len(events)-1].Kind != audit.Admin || events[0].Verdict != verdict {
				t.Errorf("recorded: %+v", events)
			}
		})
	}
}

func TestTaggedPeersAreRefused(t *testing.T) {
	tests := []struct {
		name   string
		tagged func(*Peer) (bool, error)
		want   string
	}{
		{"tagged", func(*Peer) (bool, error) { return true, nil }, "workloads may not ask"},
		{"unknown", func(*Peer) (bool, error) { return false, errors.New("no /proc") }, "no /proc"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, func(o *Options, _ *Server) { o.Access.Tagged = tt.tagged })
			c := r.client(t)
			began := time.Now()
			for range 5 {
				if _, err := c.Status(context.Background()); !errors.Is(err, ErrForbidden) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("status: %v", err)
				}
			}
			if _, err := c.Reload(context.Background()); !errors.Is(err, ErrForbidden) {
				t.Errorf("reload: %v", err)
			}
			// Health is not given to workloads either; and the audit is not flooded.
			if err := c.Ready(context.Background()); !errors.Is(err, ErrForbidden) {
				t.Errorf("ready: %v", err)
			}
			if n, most := len(r.recorded()), 2+int(time.Since(began)/time.Second); n < 1 || n > most {
				t.Errorf("%d events, at most one a second is %d", n, most)
			}
		})
	}
}

func TestStatusHasEveryKey(t *testing.T) {
	r := start(t)
	c := r.client(t)
	response, err := c.send(context.Background(), http.MethodGet, pathStatus, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"ready":true,"mode":"enforce","enforcement_active":false,"locks":0,"config":{"hash":"","error":""},"workloads":[],"flows":0,"maps":{},"pinned":[],"problems":[]}`
	if got := strings.TrimSpace(string(body)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := response.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("type %s", got)
	}
}

func TestReloadErrors(t *testing.T) {
	r := start(t)
	c := r.client(t)
	want := &Reloaded{Hash: "old", Errors: []string{`f.yaml:3:5: unknown field "hostz" (did you mean "hosts"?)`, "f.yaml:9:1: x"}}
	r.backend.set(func() { r.backend.reloaded = want })
	got, err := c.Reload(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	r.backend.set(func() { r.backend.err = errors.New("no keeper") })
	if _, err := c.Reload(context.Background()); err == nil || err.Error() != "no keeper" {
		t.Errorf("got %v", err)
	}
}

func TestExplain(t *testing.T) {
	r := start(t)
	c := r.client(t)
	q := &ExplainRequest{Workload: "w", URL: "https://a.example/x", Method: "POST", Headers: []Header{{"Accept", "a"}}}
	e, err := c.Explain(context.Background(), q)
	if err != nil || e.Verdict != "deny" || len(e.Steps) != 1 {
		t.Errorf("%+v, %v", e, err)
	}
	if diff := cmp.Diff(q, r.backend.asked); diff != "" {
		t.Error(diff)
	}
	if _, err := c.Explain(context.Background(), &ExplainRequest{}); !errors.Is(err, ErrBadRequest) {
		t.Errorf("without a URL: %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	r := start(t)
	c := r.client(t)
	tests := []struct {
		method, target, body string
		status               int
	}{
		{"GET", "/v1/nothing", "", 404},
		{"GET", "/", "", 404},
		{"POST", "/v1/status", "", 405},
		{"GET", "/v1/reload", "", 405},
		{"DELETE", "/v1/flows", "", 405},
		{"GET", "/v1/flows?kind=nonsense", "", 400},
		{"GET", "/v1/tail?recent=-1", "", 400},
		{"GET", "/v1/tail?recent=99999999", "", 400},
		{"GET", "/v1/tail?recent=x", "", 400},
		{"GET", "/v1/tail?since=yesterday", "", 400},
		{"GET", "/v1/tail", "a body", 400},
		{"GET", "/v1/tail?verdict=maybe", "", 400},
		{"POST", "/v1/explain", "", 400},
		{"POST", "/v1/explain", "{", 400},
		{"POST", "/v1/explain", `{"url":"x"} {}`, 400},
		{"POST", "/v1/explain", `{"urll":"x"}`, 400},
		{"POST", "/v1/explain", `{"url":"` + strings.Repeat("x", maxBodyBytes) + `"}`, 400},
		{"GET", "/metrics", "", 200},
		{"GET", "/healthz", "", 200},
		{"GET", "/v1/flows?workload=" + strings.Repeat("a,", 5000), "", 400},
	}
	for _, tt := range tests {
		name := tt.method + " " + tt.target[:min(len(tt.target), 40)]
		q, err := http.NewRequest(tt.method, "http://sallyport"+tt.target, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := c.http.Do(q)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		response.Body.Close()
		if response.StatusCode != tt.status {
			t.Errorf("%s: %d, want %d", name, response.StatusCode, tt.status)
		}
	}
}

func TestNobodyAnswers(t *testing.T) {
	dir := t.TempDir()
	c := NewClient(filepath.Join(dir, "none.sock"))
	if _, err := c.Status(context.Background()); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "none.sock") {
		t.Errorf("no socket: %v", err)
	}
	stale := filepath.Join(dir, "stale.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := NewClient(stale).Status(context.Background()); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "nobody listens") {
		t.Errorf("a stale socket: %v", err)
	}
}
