package keeper

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"sallyport/pkg/keeper/wire"
	"sallyport/pkg/workload"
)

func TestStatusFields(t *testing.T) {
	got := statusFields("Name:\tbash: x\nUmask:\t0022\nSeccomp:\t0\nNoNewPrivs:\t1\nno field\n")
	for name, want := range map[string]string{"Name": "bash: x", "Umask": "0022", "Seccomp": "0", "NoNewPrivs": "1"} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if len(got) != 4 {
		t.Errorf("%v", got)
	}
}

// TestStatusOfAForgedName: the name of a process is its own choice and stands
// above the fields that are asked for.
func TestStatusOfAForgedName(t *testing.T) {
	done := make(chan string)
	go func() {
		runtime.LockOSThread() // and ended with the goroutine: the name is the thread's
		name := []byte("a\nSeccomp:\t7\x00")
		if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0); err != nil {
			t.Error(err)
		}
		data, err := os.ReadFile("/proc/thread-self/status")
		if err != nil {
			t.Error(err)
		}
		done <- string(data)
	}()
	fields := statusFields(<-done)
	if !strings.Contains(fields["Name"], "Seccomp") {
		t.Fatalf("the name is %q: the test proves nothing", fields["Name"])
	}
	if fields["Seccomp"] == "7" {
		t.Error("a name was read as a field")
	}
}

func TestMember(t *testing.T) {
	for _, tt := range []struct {
		c     caller
		group int
		want  bool
	}{
		{caller{uid: 0, gid: 0}, -1, true},
		{caller{uid: 1000, gid: 1000}, -1, false},
		{caller{uid: 1000, gid: 1000, groups: []int{5, 77}}, 77, true},
		{caller{uid: 1000, gid: 77}, 77, true},
		{caller{uid: 1000, gid: 1000, groups: []int{5}}, 77, false},
		// A missing group is nobody's, whatever id the kernel shows.
		{caller{uid: 1000, gid: -1, groups: []int{-1}}, -1, false},
	} {
		if got := tt.c.member(tt.group); got != tt.want {
			t.Errorf("%+v in %d: %v", tt.c, tt.group, got)
		}
	}
}

// TestCallerOf: this process at the other end of a socket is seen as it is, and
// proven by a message that it sends itself.
func TestCallerOf(t *testing.T) {
	tree, err := workload.FindTree()
	if err != nil {
		t.Skipf("needs cgroup2: %v", err)
	}
	t.Cleanup(func() { tree.Close() })
	own, err := tree.OfProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := tree.Create("/sallyport-test-" + strconv.Itoa(os.Getpid()))
	if err != nil {
		t.Skipf("needs to make cgroups: %v", err)
	}
	t.Cleanup(func() {
		if err := elsewhere.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func() *net.UnixConn {
		t.Helper()
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	client := dial()
	server, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	who, err := callerOf(server, tree, (&gate{tagged: elsewhere}).inside)
	if err != nil {
		t.Fatal(err)
	}
	defer who.close()
	if who.pid != os.Getpid() || who.uid != os.Getuid() || who.gid != os.Getgid() || len(who.limits) != len(limitNames) {
		t.Errorf("%+v", who)
	}
	umask := unix.Umask(0o022)
	unix.Umask(umask)
	if who.umask != umask {
		t.Errorf("umask %o, want %o", who.umask, umask)
	}
	if err := wire.FromUnix(client).Send(&wire.Message{Method: methodLaunch}, nil); err != nil {
		t.Fatal(err)
	}
	m, err := wire.FromUnix(server).Receive()
	if err != nil {
		t.Fatal(err)
	}
	if !who.proven(m.Sender) {
		t.Errorf("own message does not prove: %+v", m.Sender)
	}
	other := *m.Sender
	other.Pid++
	if who.proven(&other) || who.proven(nil) {
		t.Error("another process's message proves")
	}

	dial()
	tagged, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer tagged.Close()
	for name, g := range map[string]*gate{
		"the slice":      {tagged: own},
		"tagged outside": {tagged: elsewhere, elsewhere: map[string]workload.Cgroup{own.Path(): own}},
	} {
		if c, err := callerOf(tagged, tree, g.inside); err == nil || !strings.Contains(err.Error(), "tagged cgroup") {
			t.Errorf("from %s: %v, %v", name, c, err)
		}
	}
}

func TestPlaceFiles(t *testing.T) {
	open := func() *os.File {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	a, b := open(), open()
	for _, tt := range []struct {
		files   []*os.File
		numbers []int
		want    []*os.File
		err     string
	}{
		{nil, nil, []*os.File{nil, nil, nil}, ""},
		{[]*os.File{a, b}, []int{0, 2}, []*os.File{a, nil, b}, ""},
		{[]*os.File{b, a}, []int{5, 1}, []*os.File{nil, a, nil, nil, nil, b}, ""},
		{[]*os.File{a}, []int{maxDescriptor}, nil, "at most"},
		{[]*os.File{a}, []int{-1}, nil, "at most"},
		{[]*os.File{a, b}, []int{3, 3}, nil, "twice"},
		{[]*os.File{a, b}, []int{3}, nil, "2 descriptors with 1 numbers"},
		{nil, []int{1}, nil, "0 descriptors with 1 numbers"},
	} {
		got, err := placeFiles(tt.files, tt.numbers)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%v: %v, want %q", tt.numbers, err, tt.err)
			}
			continue
		}
		same := err == nil && len(got) == len(tt.want)
		for i := range got {
			same = same && got[i] == tt.want[i]
		}
		if !same {
			t.Errorf("%v: %v, %v", tt.numbers, got, err)
		}
	}
}
