package keeper

import (
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"sallyport/pkg/keeper/protocol"
)

func TestScarce(t *testing.T) {
	const mib = 1 << 20 / 4096
	for _, c := range []struct {
		name string
		st   unix.Statfs_t
		want string
	}{
		{"plenty", unix.Statfs_t{Bsize: 4096, Blocks: 1000 * mib, Bavail: 900 * mib, Files: 1000, Ffree: 900}, ""},
		{"a small one with room", unix.Statfs_t{Bsize: 4096, Blocks: 8 * mib, Bavail: 7 * mib}, ""},
		{"full", unix.Statfs_t{Bsize: 4096, Blocks: 1000 * mib}, "0 KiB"},
		{"nearly full", unix.Statfs_t{Bsize: 4096, Blocks: 1000 * mib, Bavail: 15 * mib}, "15360 KiB"},
		{"a small one, nearly full", unix.Statfs_t{Bsize: 4096, Blocks: 10 * mib, Bavail: mib / 2}, "512 KiB"},
		{"no inodes", unix.Statfs_t{Bsize: 4096, Blocks: 1000 * mib, Bavail: 900 * mib, Files: 1 << 20, Ffree: 3}, "3 inodes"},
		{"one that does not count inodes", unix.Statfs_t{Bsize: 4096, Blocks: 1000 * mib, Bavail: 900 * mib}, ""},
	} {
		if got := scarce(&c.st); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestFullHost(t *testing.T) {
	list := []protocol.Resource{
		{Name: keeperDescriptors, Entries: 89, Capacity: 100},
		{Name: workerDescriptors, Entries: 90, Capacity: 100},
		{Name: conntrackEntries, Entries: 0, Capacity: 65536},
		{Name: tcpPorts, Entries: 28231, Capacity: 28232},
	}
	got := fullHost(list)
	if len(got) != 2 || !strings.HasPrefix(got[0], "worker_descriptors: 90 of 100 in use; raise LimitNOFILE=") || !strings.HasPrefix(got[1], "ephemeral_ports: 28231 of 28232") {
		t.Errorf("%q", got)
	}
	for _, r := range list {
		if p := fullHost([]protocol.Resource{{Name: r.Name, Entries: 1, Capacity: 1}}); len(p) != 1 || strings.HasSuffix(p[0], "; ") {
			t.Errorf("%s has no remedy: %q", r.Name, p)
		}
	}
}

// TestDescriptors counts those of processes that do nothing: in this one others open
// and close theirs.
func TestDescriptors(t *testing.T) {
	open := func(more int) {
		t.Helper()
		cmd := exec.Command("cat")
		for range more {
			f, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		}
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer cmd.Process.Kill()
		// Once it answers it has started, and waits.
		if _, err := stdin.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(stdout, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		n, most, err := descriptors(cmd.Process.Pid)
		if err != nil || most < n {
			t.Fatalf("%d of %d, %v", n, most, err)
		}
		if all, err := os.ReadDir("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/fd"); err != nil || n != len(all) || n < 3+more {
			t.Errorf("%d, has %d with %d more than usual, %v", n, len(all), more, err)
		}
	}
	open(0)
	open(20)
}

func TestTCPSockets(t *testing.T) {
	const stat = "sockets: used 290\nTCP: inuse 12 orphan 1 tw 30 alloc 15 mem 3\nUDP: inuse 4 mem 2\n"
	if got := tcpSockets(stat); got != 42 {
		t.Errorf("%d, want 42", got)
	}
}

func TestNearEnd(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	at := func(name string, left time.Duration) []protocol.Certificate {
		return []protocol.Certificate{{Name: name, NotBefore: now.Add(-day), NotAfter: now.Add(left)}}
	}
	for _, c := range []struct {
		name string
		list []protocol.Certificate
		want string
	}{
		{"a young root", at("root", 3650*day), ""},
		{"a root near its end", at("root", 30*day), "the root certificate ends in 30 days; sallyport ca rotate"},
		{"a root that ended", at("root", -day), "the root certificate ended on 2026-11-21: workloads reject every connection"},
		{"a renewed issuing one", at("issuing", 4*day), ""},
		{"one that is not renewed", at("issuing", 2*day), "the issuing certificate ends in 2 days; its renewal fails"},
		{"one of tomorrow", []protocol.Certificate{{Name: "issuing", NotBefore: now.Add(day), NotAfter: now.Add(8 * day)}}, "the issuing certificate is not valid before 2026-11-23"},
	} {
		got := nearEnd(c.list, now)
		if c.want == "" && len(got) != 0 || c.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], c.want)) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestJump: sleep and slewing are no jumps; setting the clock is one, either way.
func TestJump(t *testing.T) {
	start := moment{time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), 1000 * time.Second}
	after := func(wall, boot time.Duration) moment { return moment{start.wall.Add(wall), start.boot + boot} }
	for _, c := range []struct {
		name       string
		wall, boot time.Duration
		want       time.Duration
	}{
		{"a second", time.Second, time.Second, 0},
		{"a night's sleep", 8 * time.Hour, 8 * time.Hour, 0},
		{"slewed", 1100 * time.Millisecond, time.Second, 0},
		{"set forward", time.Hour + time.Second, time.Second, time.Hour},
		{"set back", -2*time.Hour + time.Second, time.Second, -2 * time.Hour},
	} {
		if got := jump(start, after(c.wall, c.boot)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	now, err := readClocks()
	if err != nil || now.boot <= 0 || now.wall.Year() < 2020 {
		t.Errorf("%+v, %v", now, err)
	}
}

// TestConcerns: a problem is told when it comes and when it goes, and not between.
func TestConcerns(t *testing.T) {
	k := &Keeper{log: zap.NewNop(), reports: make(chan struct{}, 1)}
	k.concern("disk")
	k.concern("disk", "full")
	k.concern("disk", "full")
	k.concern("host", "busy")
	k.concern("disk", "full", "fuller")
	if got := strings.Join(k.concerns.all(), "|"); got != "disk: full|disk: fuller|host: busy" {
		t.Errorf("%q", got)
	}
	k.concern("disk")
	if got := strings.Join(k.concerns.all(), "|"); got != "host: busy" {
		t.Errorf("%q", got)
	}
	want := "noticed: disk: full|noticed: host: busy|noticed: disk: fuller|over: disk"
	if got := strings.Join(k.health.notes, "|"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
