package keeper

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseLimits(t *testing.T) {
	text, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseLimits(string(text))
	if err != nil {
		t.Fatal(err)
	}
	for r, l := range got {
		var want unix.Rlimit
		if err := unix.Getrlimit(r, &want); err != nil {
			t.Fatal(err)
		}
		if l != want {
			t.Errorf("%s: %v, want %v", limitNames[r], l, want)
		}
	}
	for _, cut := range []string{"Max open files", "Max realtime timeout", "Max cpu time"} {
		lines := slices.DeleteFunc(strings.Split(string(text), "\n"), func(l string) bool { return strings.HasPrefix(l, cut) })
		if _, err := parseLimits(strings.Join(lines, "\n")); err == nil || !strings.Contains(err.Error(), cut) {
			t.Errorf("without %s: %v", cut, err)
		}
	}
	for _, bad := range []string{"Max open files            x 1024 files", "Max open files            1024", "Max open files            -1 5 files"} {
		broken := strings.Replace(string(text), "Max open files", "Was open files", 1) + bad + "\n"
		if _, err := parseLimits(broken); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestWithFiles: a caller may lower its limit and never raise it.
func TestWithFiles(t *testing.T) {
	for _, tt := range []struct{ soft, want uint64 }{{0, 1024}, {321, 321}, {1024, 1024}, {5000, 1024}, {unix.RLIM_INFINITY, 1024}} {
		limits := make([]unix.Rlimit, len(limitNames))
		limits[unix.RLIMIT_NOFILE] = unix.Rlimit{Cur: 1024, Max: 4096}
		withFiles(limits, tt.soft)
		if got := limits[unix.RLIMIT_NOFILE]; got.Cur != tt.want || got.Max != 4096 {
			t.Errorf("%d: %+v", tt.soft, got)
		}
	}
}

func FuzzParseLimits(f *testing.F) {
	text, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add("Max open files 1 2 files\n")
	f.Fuzz(func(t *testing.T, text string) {
		if limits, err := parseLimits(text); err == nil && len(limits) != len(limitNames) {
			t.Errorf("%d limits", len(limits))
		}
	})
}
