package outside

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Stands reports whether each thread of a process is stopped. One that was sent SIGSTOP
// while it was in the kernel goes on for a while.
func Stands(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, path := range threads {
		b, err := os.ReadFile(path)
		if at := strings.LastIndex(string(b), ") "); err == nil && (at < 0 || b[at+2] != 'T') {
			return false
		}
	}
	return true
}
