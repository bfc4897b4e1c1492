package admin

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

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

func second[T any](_ T, err error) error { return err }

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
