package socket

import (
	"errors"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func listening(t *testing.T, o Options) *Socket {
	t.Helper()
	s, err := Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Listener.Close() })
	return s
}

func path(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	return filepath.Join(dir, "admin.sock")
}

func TestListen(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give the socket to a group")
	}
	defer syscall.Umask(syscall.Umask(0))
	group, err := user.LookupGroupId("1") // daemon, on every system
	if err != nil {
		t.Skipf("no group with id 1: %v", err)
	}
	tests := []struct {
		name    string
		group   string
		owner   int
		mode    os.FileMode
		gid     uint32
		groupID int
		warning string
	}{
		{"with a group", group.Name, 0, 0o660, 1, 1, ""},
		{"a missing group", "no-such-group-here", 0, 0o600, 0, -1, "groupadd --system no-such-group-here"},
		{"no group", "", 0, 0o600, 0, -1, ""},
		{"of a caller", "", 1234, 0o600, 0, -1, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := path(t)
			s := listening(t, Options{Path: p, Group: tt.group, Owner: tt.owner})
			info, err := os.Lstat(p)
			if err != nil {
				t.Fatal(err)
			}
			st := info.Sys().(*syscall.Stat_t)
			if info.Mode() != os.ModeSocket|tt.mode || int(st.Uid) != tt.owner || st.Gid != tt.gid {
				t.Errorf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
			}
			if s.GroupID != tt.groupID || !strings.Contains(s.Warning, tt.warning) || (s.Warning == "") != (tt.warning == "") {
				t.Errorf("group %d, warning %q", s.GroupID, s.Warning)
			}
			conn, err := net.Dial("unix", p)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
		})
	}
}

func TestLiveSocketIsNotStolen(t *testing.T) {
	p := path(t)
	first := listening(t, Options{Path: p})
	if _, err := Listen(Options{Path: p}); !errors.Is(err, ErrInUse) {
		t.Fatalf("got %v", err)
	}
	// It still works.
	go func() {
		if c, err := first.Listener.Accept(); err == nil {
			c.Close()
		}
	}()
	conn, err := net.Dial("unix", p)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	// After a crash the path is there and nobody listens.
	first.Listener.Close()
	if _, err := os.Lstat(p); err != nil {
		t.Fatalf("closing the listener removed the path: %v", err)
	}
	second := listening(t, Options{Path: p})
	// The first no longer owns the path.
	if err := first.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(p); err != nil {
		t.Errorf("the second's socket was removed by the first: %v", err)
	}
	if err := second.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(p); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
	if err := second.Remove(); err != nil {
		t.Errorf("twice: %v", err)
	}
}

// TestOnlyOneOfManyListens: all start at once over a stale socket.
func TestOnlyOneOfManyListens(t *testing.T) {
	p := path(t)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: p})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		won  int
		lost int
	)
	for range 8 {
		wg.Go(func() {
			s, err := Listen(Options{Path: p})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
				t.Cleanup(func() { s.Listener.Close() })
			case errors.Is(err, ErrInUse):
				lost++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 || lost != 7 {
		t.Errorf("%d listen, %d were refused", won, lost)
	}
}

func TestUnsafePlacesAreRefused(t *testing.T) {
	tests := []struct {
		name string
		make func(p string) error
		want string
	}{
		{"a file", func(p string) error { return os.WriteFile(p, []byte("x"), 0o600) }, "is no socket"},
		{"a link to a socket", func(p string) error { return os.Symlink("/run/other.sock", p) }, "is no socket"},
		{"a directory", func(p string) error { return os.Mkdir(p, 0o700) }, "is no socket"},
		{"a directory that all may write", func(p string) error { return os.Chmod(filepath.Dir(p), 0o777) }, "may write"},
		{"a directory of another user", func(p string) error {
			if os.Geteuid() != 0 {
				return errSkip
			}
			return os.Chown(filepath.Dir(p), 4321, 4321)
		}, "belongs to uid 4321"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := path(t)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := tt.make(p); errors.Is(err, errSkip) {
				t.Skip("needs root")
			} else if err != nil {
				t.Fatal(err)
			}
			s, err := Listen(Options{Path: p})
			if err == nil {
				s.Listener.Close()
				t.Fatal("it listens")
			}
			if !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v; want %q", err, tt.want)
			}
		})
	}
	if _, err := Listen(Options{Path: filepath.Join(t.TempDir(), strings.Repeat("x", 120))}); err == nil {
		t.Error("a path longer than sun_path is accepted")
	}
}

var errSkip = errors.New("skip")

func TestPacketSocket(t *testing.T) {
	p := path(t)
	s := listening(t, Options{Path: p, Packet: true})
	conn, err := net.Dial("unixpacket", p)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	// One of either kind keeps the other away.
	for _, packet := range []bool{true, false} {
		if _, err := Listen(Options{Path: p, Packet: packet}); !errors.Is(err, ErrInUse) {
			t.Errorf("packet %v: %v", packet, err)
		}
	}
	s.Listener.Close()
	listening(t, Options{Path: p})
}
