package foreign

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestSocketInode(t *testing.T) {
	for in, want := range map[string]uint32{
		"socket:[18884908]": 18884908, "socket:[4294967295]": 4294967295,
		"socket:[]": 0, "socket:[1": 0, "socket:[x]": 0, "pipe:[7]": 0, "/tmp/socket:[7]": 0, "": 0,
	} {
		got, ok := socketInode([]byte(in))
		if ok != (want != 0) || ok && got != want {
			t.Errorf("socketInode(%q) = %d, %v", in, got, ok)
		}
	}
}

// TestParseRing: as Linux 6.18 and as Linux 6.1 write it.
func TestParseRing(t *testing.T) {
	const head = "pos:\t0\nflags:\t02000002\nSqMask:\t0x3\n"
	for _, c := range []struct {
		name, info string
		inodes     []uint32
		unnamed    []string
	}{
		{"numbers", head + "UserFiles:\t3\n    0: socket:[18884907]\n    1: /etc/passwd\n    2: socket:[5]\nUserBufs:\t1\n    0: 0x1/2\n", []uint32{18884907, 5}, nil},
		{"names", head + "UserFiles:\t4\n    0: TCP\n    1: passwd\n    2: <none>\n    3: UNIX-STREAM\nUserBufs:\t0\nPollList:\n", nil, []string{"TCP"}},
		{"a name with line feeds", head + "UserFiles:\t2\n    0: a\nUserBufs:\t0\nb\n    1: TCP\nUserBufs:\t0\n", nil, []string{"TCP"}},
		{"none", head + "UserFiles:\t0\nUserBufs:\t0\n", nil, nil},
		{"a busy ring", head + "UserFiles:\t2\nUserBufs:\t0\n", nil, nil},
		{"nothing", "", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			inodes, unnamed := parseRing(c.info)
			if diff := cmp.Diff(c.inodes, inodes) + cmp.Diff(c.unnamed, unnamed); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func free(int) error { return nil }

// TestTables: every socket of this process is found, by its number.
func TestTables(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	want := make(map[int]uint32)
	for _, fd := range pair {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		want[fd] = uint32(st.Ino)
	}
	got := make(map[int]uint32)
	var all tables
	if err := all.of(os.Getpid(), free, func(e entry) {
		// A thread of a look that another test began may not have ended yet, and has
		// other files by these numbers in its own table.
		if e.tid == os.Getpid() && want[e.fd] != 0 {
			got[e.fd] = e.inode
		}
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := all.of(1<<22+1, free, func(entry) {}); !gone(err) {
		t.Errorf("a process that is not there: %v", err)
	}
}

// BenchmarkTables is a look at 2,000 descriptors of one process.
func BenchmarkTables(b *testing.B) {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil || limit.Cur < 2200 {
		b.Skip("2,200 descriptors are not allowed")
	}
	for range 1000 {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		defer unix.Close(pair[0])
		defer unix.Close(pair[1])
	}
	var all tables
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		all.large = all.large[:0]
		if err := all.of(os.Getpid(), free, func(entry) { n++ }); err != nil || n < 2000 {
			b.Fatal(n, err)
		}
	}
}

// FuzzParseRing: whatever a kernel writes before and behind the list, what is in it
// is found, and nothing else; without a list there is nothing.
func FuzzParseRing(f *testing.F) {
	f.Add("pos:\t0\nSqMask:\t0x3\n", "    0: TCP\n")
	f.Add("    0: socket:[9]\n    1: TCP\n", "")
	f.Fuzz(func(t *testing.T, front, behind string) {
		if strings.Contains(front, "UserFiles:") || strings.Contains(behind, "UserBufs:") {
			return // then the list is there, or ends there
		}
		if inodes, unnamed := parseRing(front); len(inodes)+len(unnamed) > 0 {
			t.Errorf("%q without a list: %v, %q", front, inodes, unnamed)
		}
		inodes, unnamed := parseRing(front + "UserFiles:\t3\n    0: socket:[7]\n    1: TCP\n    2: passwd\nUserBufs:\t1\n" + behind)
		if !slices.Equal(inodes, []uint32{7}) || !slices.Equal(unnamed, []string{"TCP"}) {
			t.Errorf("between %q and %q: %v, %q", front, behind, inodes, unnamed)
		}
	})
}
