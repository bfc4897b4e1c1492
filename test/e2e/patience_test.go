package e2e

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// patience is the time given, or more where so many processes wait for a
// processor that nothing can be in time.
func patience(within time.Duration) time.Duration {
	b, _ := os.ReadFile("/proc/loadavg")
	load, _, _ := strings.Cut(string(b), " ")
	if l, err := strconv.ParseFloat(load, 64); err == nil && l > 2*float64(runtime.NumCPU()) {
		return 5 * within
	}
	return within
}

// late reports whether a time has passed, with patience.
func late(start time.Time, within time.Duration) bool {
	took := time.Since(start)
	return took > within && took > patience(within)
}
