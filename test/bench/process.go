package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime gives the processor time of whole processes, user and system, all
// threads that ever were. The id of a process's clock is made as
// clock_getcpuclockid(3) does.
func cpuTime(pids ...int) (sum time.Duration) {
	const schedClock = 2
	for _, pid := range pids {
		var t unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|schedClock), &t); err == nil {
			sum += time.Duration(t.Nano())
		}
	}
	return sum
}

// resident gives the resident memory of processes in bytes.
func resident(pids ...int) (sum int64) {
	for _, pid := range pids {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if f := strings.Fields(string(b)); len(f) >= 2 {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			sum += n * int64(os.Getpagesize())
		}
	}
	return sum
}

// watchMemory looks at the memory of processes until stop is called, which
// gives the most that was seen.
func watchMemory(pids []int) (stop func() int64) {
	end, peak := make(chan struct{}), make(chan int64)
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		most := resident(pids...)
		for {
			select {
			case <-end:
				peak <- most
				return
			case <-tick.C:
				most = max(most, resident(pids...))
			}
		}
	}()
	return func() int64 { close(end); return <-peak }
}

// children gives the processes that a process has started.
func children(pid int) (pids []int) {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, t := range tasks {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		for _, f := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(f); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// family is a process with all that it has started and those have.
func family(pid int) []int {
	all := []int{pid}
	for _, child := range children(pid) {
		all = append(all, family(child)...)
	}
	return all
}

// listening tells whether one of the processes has a listening TCP socket on
// the port: its socket is among their descriptors.
func listening(port int, pids ...int) bool {
	for _, pid := range pids {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
		for line := range strings.Lines(string(b)) {
			// sl local_address rem_address st … inode; st 0A is LISTEN.
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != "0A" || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				continue
			}
			if slices.Contains(descriptors(pid), "socket:["+f[9]+"]") {
				return true
			}
		}
	}
	return false
}

func descriptors(pid int) (targets []string) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if t, err := os.Readlink(dir + "/" + e.Name()); err == nil {
			targets = append(targets, t)
		}
	}
	return targets
}

// twoProcessors gives the first two processors that we may use.
func twoProcessors() ([2]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return [2]int{}, err
	}
	var found []int
	for i := 0; i < 1024 && len(found) < 2; i++ {
		if set.IsSet(i) {
			found = append(found, i)
		}
	}
	if len(found) < 2 {
		return [2]int{}, fmt.Errorf("one processor only: proxy and client need one each")
	}
	return [2]int(found), nil
}

func loadAverage() string {
	b, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(b), " ")
	return first
}
