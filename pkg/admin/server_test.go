package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

// A fakeBackend answers what a test wants.
type fakeBackend struct {
	log *audit.Log

	mu       sync.Mutex
	status   *Status
	flowList []Flow
	reloaded *Reloaded
	err      error
	reloads  int
	asked    *ExplainRequest
}

func (b *fakeBackend) Status(context.Context) (*Status, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status, b.err
}

func (b *fakeBackend) Flows(context.Context) ([]Flow, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.flowList, b.err
}

func (b *fakeBackend) Follow(recent int) (*audit.Subscription, error) { return b.log.Subscribe(recent) }

func (b *fakeBackend) Reload(context.Context) (*Reloaded, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reloads++
	return b.reloaded, b.err
}

func (b *fakeBackend) Explain(_ context.Context, q *ExplainRequest) (*Explanation, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = q
	if q.URL == "" {
		return nil, fmt.Errorf("%w: no URL", ErrBadRequest)
	}
	return &Explanation{Verdict: "deny", Reason: "no_rule", Mode: "enforce", Steps: []Step{{Rule: "a", Why: "hosts: not in it"}}}, b.err
}

func (b *fakeBackend) PurgeCache(_ context.Context, rule string) (*Purged, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if rule == "unknown" {
		return nil, fmt.Errorf("%w: no rule is called unknown", ErrBadRequest)
	}
	return &Purged{Entries: len(rule), Bytes: 1000}, b.err
}

func (b *fakeBackend) Ready() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func (b *fakeBackend) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

type discard struct{}

func (discard) Name() string                { return "discard" }
func (discard) Write(p []byte) (int, error) { return len(p), nil }

// A running server.
type running struct {
	socket  string
	backend *fakeBackend
	server  *Server

	mu     sync.Mutex
	events []audit.Event
}

func (r *running) record(e *audit.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, *e)
}

func (r *running) recorded() []audit.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]audit.Event(nil), r.events...)
}

const testGroup = 54321

func start(t *testing.T, change ...func(*Options, *Server)) *running {
	t.Helper()
	log, err := audit.New(audit.Options{Sink: discard{}})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{
		socket:  filepath.Join(t.TempDir(), "admin.sock"),
		backend: &fakeBackend{log: log, status: &Status{Ready: true, Mode: "enforce"}, reloaded: &Reloaded{Hash: "h"}},
	}
	o := Options{
		Backend: r.backend,
		Access:  Access{GroupID: testGroup, Tagged: func(*Peer) (bool, error) { return false, nil }},
		Record:  r.record,
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "page\n") }),
	}
	for _, c := range change {
		c(&o, nil)
	}
	if r.server, err = NewServer(o); err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(&Options{}, r.server)
	}
	l, err := net.Listen("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.socket, 0o666); err != nil { // the server's own checks are meant here
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Dir(r.socket), filepath.Dir(filepath.Dir(r.socket))} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	served, logged := make(chan error, 1), make(chan error, 1)
	go func() { served <- r.server.Serve(ctx, l) }()
	go func() { logged <- log.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := <-logged; err != nil {
			t.Errorf("audit: %v", err)
		}
	})
	return r
}

func (r *running) client(t *testing.T) *Client {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("root is who may do all; the test runs as somebody else")
	}
	c := NewClient(r.socket)
	t.Cleanup(c.Close)
	return c
}

// clientAs connects once with the credentials of somebody else: only this
// thread of the process has them (setresuid(2), raw), and it ends.
func (r *running) clientAs(t *testing.T, uid, gid int, groups ...int) *Client {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	type result struct {
		conn net.Conn
		err  error
	}
	connect := func() result {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		list := make([]uint32, len(groups)+1)
		for i, g := range groups {
			list[i] = uint32(g)
		}
		_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(pointer(list)), 0)
		if errno == 0 {
			_, _, errno = unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid))
		}
		if errno == 0 {
			_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
		}
		if errno != 0 {
			return result{err: errno}
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return result{err: err}
		}
		f := os.NewFile(uintptr(fd), "")
		defer f.Close()
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: r.socket}); err != nil {
			return result{err: err}
		}
		conn, err := net.FileConn(f)
		return result{conn, err}
	}
	c := NewClient(r.socket)
	c.http.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) {
		done := make(chan result)
		go func() { done <- connect() }()
		got := <-done
		return got.conn, got.err
	}
	t.Cleanup(c.Close)
	return c
}

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

func second[T any](_ T, err error) error { return err }

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
			if n := len(r.recorded()); n < 1 || n > 3 {
				t.Errorf("%d events", n)
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
	want := `{"ready":true,"mode":"enforce","enforcement_active":false,"config":{"hash":"","error":""},"workloads":[],"flows":0,"maps":{},"pinned":[],"problems":[]}`
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

func flowEvent(kind audit.Kind, id uint64, workload string) *audit.Event {
	return &audit.Event{
		Kind: kind, Flow: id, Verdict: "allow", Workload: audit.Workload{Name: workload},
		Dst: audit.Destination{IP: netip.MustParseAddr("203.0.113.1"), Port: 443, Host: "a.example"},
	}
}

func TestFollowFlows(t *testing.T) {
	r := start(t)
	c := r.client(t)
	r.backend.set(func() {
		r.backend.flowList = []Flow{
			{ID: 1, State: FlowOpen, Verdict: "allow", Workload: FlowWorkload{Name: "w"}},
			{ID: 2, State: FlowOpen, Verdict: "allow", Workload: FlowWorkload{Name: "other"}},
		}
	})
	list, err := c.Flows(context.Background(), &audit.Filter{Workloads: []string{"w*"}})
	if err != nil || len(list) != 1 || list[0].ID != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	var got []string
	enough := errors.New("enough")
	err = c.FollowFlows(context.Background(), &audit.Filter{Workloads: []string{"w"}}, func(f *Flow) error {
		if len(got) == 0 { // the stream is established
			r.backend.log.Record(flowEvent(audit.FlowOpen, 1, "w")) // known already
			r.backend.log.Record(flowEvent(audit.FlowOpen, 3, "w"))
			r.backend.log.Record(flowEvent(audit.Exchange, 3, "w"))
			r.backend.log.Record(flowEvent(audit.FlowClose, 2, "other"))
			r.backend.log.Record(flowEvent(audit.FlowClose, 1, "w"))
		}
		got = append(got, fmt.Sprint(f.ID, " ", f.State))
		if len(got) == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || strings.Join(got, ", ") != "1 open, 3 open, 1 closed" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestTail(t *testing.T) {
	r := start(t)
	c := r.client(t)
	log := r.backend.log
	for i := range 20 {
		e := flowEvent(audit.Exchange, uint64(i), "w")
		if i%2 == 1 {
			e.Verdict = "deny"
		}
		log.Record(e)
	}
	eventually(t, "written", func() bool { return log.Stats().Sinks[0].QueueEvents == 0 })
	deny := &audit.Filter{Verdicts: []string{"deny"}}
	var got []string
	eventually(t, "the last lines come", func() bool {
		got = nil
		err := c.Tail(context.Background(), deny, 3, false, func(line []byte, e *audit.Event) error {
			if !json.Valid(line) || e.Hash == "" {
				t.Errorf("line %s", line)
			}
			got = append(got, fmt.Sprint(e.Flow))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(got, " ") == "15 17 19"
	})
	// And follow: what does not pass the filter is not seen.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	got = nil
	enough := errors.New("enough")
	err := c.Tail(ctx, deny, 1, true, func(_ []byte, e *audit.Event) error {
		got = append(got, fmt.Sprint(e.Flow))
		if len(got) == 2 {
			return enough
		}
		log.Record(flowEvent(audit.Exchange, 100, "w"))
		e.Flow = 101
		e.ID = ""
		log.Record(e)
		return nil
	})
	if !errors.Is(err, enough) || strings.Join(got, " ") != "19 101" {
		t.Errorf("%v, %v", got, err)
	}
	eventually(t, "the subscriptions are gone", func() bool { return log.Stats().Followers == 0 })
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestClientThatDoesNotRead: it is let go after the write timeout, and costs the
// log nothing.
func TestClientThatDoesNotRead(t *testing.T) {
	r := start(t, func(_ *Options, s *Server) {
		if s != nil {
			s.streamTimeout = 200 * time.Millisecond
		}
	})
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /v1/tail?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
	log := r.backend.log
	eventually(t, "it follows", func() bool { return log.Stats().Followers == 1 })
	eventually(t, "it is let go", func() bool {
		for range 100 {
			log.Record(&audit.Event{Kind: audit.Exchange, Message: strings.Repeat("x", 4000)})
		}
		return log.Stats().Followers == 0
	})
	if s := log.Stats().Sinks[0]; s.Lost != 0 {
		t.Errorf("%d events were lost", s.Lost)
	}
}

// TestClientThatGoesAway is noticed without an event to send.
func TestClientThatGoesAway(t *testing.T) {
	r := start(t)
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "GET /v1/tail?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
	log := r.backend.log
	eventually(t, "it follows", func() bool { return log.Stats().Followers == 1 })
	conn.Close()
	eventually(t, "it is gone", func() bool { return log.Stats().Followers == 0 })
}

func TestHeartbeat(t *testing.T) {
	r := start(t, func(_ *Options, s *Server) {
		if s != nil {
			s.heartbeat = 10 * time.Millisecond
		}
	})
	c := r.client(t)
	response, err := c.send(context.Background(), http.MethodGet, pathTail, map[string][]string{"follow": {"1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if line, err := bufio.NewReader(response.Body).ReadString('\n'); line != "\n" || err != nil {
		t.Errorf("%q, %v", line, err)
	}
}

// TestPlacesAreBounded: a user who opens all connections that he can leaves
// root's free.
func TestPlacesAreBounded(t *testing.T) {
	l := newPeerListener(nil, nil)
	admit := func(uid uint32, n int) (admitted int) {
		for range n {
			if l.enter(uid) == nil {
				admitted++
			}
		}
		return admitted
	}
	if n := admit(1000, 100); n != maxPerUID {
		t.Errorf("one uid gets %d", n)
	}
	others := maxPerUID
	for uid := range uint32(10) {
		others += admit(2000+uid, 100)
	}
	if others != maxOthers {
		t.Errorf("all uids get %d", others)
	}
	if n := admit(0, 100); n != maxConns-maxOthers {
		t.Errorf("root gets %d", n)
	}
	l.exit(1000)
	if n := admit(0, 2) + admit(1000, 2); n != 1 {
		t.Errorf("into one free place get %d", n)
	}
	for range maxPerUID - 1 {
		l.exit(1000)
	}
	if _, kept := l.uids[1000]; kept {
		t.Error("a uid without connections is remembered")
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
