package e2e

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// maxOverhead is the longest that exec may take to the command's first
// instruction, as the median on a machine that does nothing else.
const maxOverhead = 150 * time.Millisecond

// TestExecOverhead measures from the start of the process to the first
// instruction of the command's own, with and without exec, and tells where the
// time goes.
func TestExecOverhead(t *testing.T) {
	h := newHost(t)
	h.putInmate()
	h.warmUp()
	const rounds = 7
	measure := func(argv ...string) time.Duration {
		var took []time.Duration
		for range rounds {
			// Before others, so that it is exec that is measured and not the machine.
			c := h.command(append([]string{"nice", "-n", "-20", "sh", "-c", `date +%s%N; exec "$@"`, "-"}, argv...)...)
			r := h.run(c)
			lines := strings.Fields(r.stdout)
			if r.code != 0 || len(lines) != 2 {
				t.Fatalf("%v", r)
			}
			began, err1 := strconv.ParseInt(lines[0], 10, 64)
			first, err2 := strconv.ParseInt(lines[1], 10, 64)
			if err1 != nil || err2 != nil {
				t.Fatalf("%v", r)
			}
			took = append(took, time.Duration(first-began))
			// The end of the one is no part of the start of the next.
			eventually(t, 5*time.Second, "the exec is gone", func() bool { return len(h.processes()) == 0 })
		}
		slices.Sort(took)
		t.Logf("%v: fastest %s", argv[len(argv)-2:], took[0].Round(100*time.Microsecond))
		return took[rounds/2]
	}
	var bare, exec time.Duration
	var load []byte
	for range 3 {
		bare = measure(inmatePath, "stamp")
		exec = measure(h.exec("", inmatePath, "stamp")...)
		load, _ = os.ReadFile("/proc/loadavg")
		t.Logf("median of %d: %s with exec, %s without; load %s", rounds, exec.Round(100*time.Microsecond), bare.Round(100*time.Microsecond), strings.TrimSpace(string(load)))
		if exec-bare <= maxOverhead {
			return
		}
	}
	var l float64
	fmt.Sscan(string(load), &l)
	if l > float64(runtime.NumCPU())/2 {
		t.Skipf("exec takes %s, want at most %s, but the machine is busy", exec-bare, maxOverhead)
	}
	t.Errorf("exec takes %s, want at most %s", exec-bare, maxOverhead)
}
