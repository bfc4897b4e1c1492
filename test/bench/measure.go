package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A system is one way from the client to the origin.
type system struct {
	name    string
	tagged  bool
	address string
	host    string
	pid     int // of the proxy, 0 for none
}

// The systems by name; ratios are taken against nginx.
const (
	direct    = "direct"
	nginxName = "nginx"
	inspect   = "inspect"
	tunnel    = "tunnel"
)

func (m *machine) systems() []system {
	return []system{
		{name: direct, address: originAddress + ":443", host: inspectName},
		{name: nginxName, address: nginxAddress, host: inspectName, pid: m.nginx},
		{name: inspect, address: originAddress + ":443", host: inspectName, tagged: true, pid: m.worker},
		{name: tunnel, address: originAddress + ":443", host: tunnelName, tagged: true, pid: m.worker},
	}
}

func (m *machine) client(s *system) *client {
	if s.tagged {
		return m.tagged
	}
	return m.plain
}

// A sample is one measurement of one system.
type sample struct {
	result
	cpu    time.Duration // of the proxy
	keeper time.Duration // of sallyport's privileged half, in the same time
	peak   int64         // most resident memory seen, in bytes; bulk only
}

// one runs a job through a system.
func (m *machine) one(s *system, kind string, o *options) (sample, error) {
	j := job{Kind: kind, Address: s.address, Name: s.host, Connections: o.connections, Window: o.window}
	if kind == connect {
		j.Connections = min(o.connections, 8)
	}
	c := m.client(s)
	if err := c.begin(j); err != nil {
		return sample{}, fmt.Errorf("%s through %s: %w", kind, s.name, err)
	}
	var stop func() int64
	if kind == bulk && s.pid != 0 {
		stop = watchMemory(s.pid)
	}
	cpu, keeper := cpuTime(s.pid), cpuTime(m.keeper)
	r, err := c.finish()
	x := sample{result: r, cpu: cpuTime(s.pid) - cpu, keeper: cpuTime(m.keeper) - keeper}
	if stop != nil {
		x.peak = stop()
	}
	if err != nil {
		return sample{}, fmt.Errorf("%s through %s: %w", kind, s.name, err)
	}
	return x, nil
}

// measure does all rounds.
func (m *machine) measure(ctx context.Context, o *options) (*report, error) {
	r := &report{samples: make(map[string]map[string][]sample)}
	systems := m.systems()
	if o.hold != "" {
		return r, m.load(ctx, systems, o)
	}
	if o.only == "" || o.only == "memory" {
		// First, on fresh processes.
		if err := m.memory(systems, r); err != nil {
			return nil, err
		}
	}
	for round := range o.rounds {
		for _, kind := range []string{keepAlive, connect, bulk} {
			if o.only != "" && o.only != kind {
				continue
			}
			for i := range systems {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				// The order turns, and every other round is backwards: nobody
				// is always first.
				k := (i + round) % len(systems)
				if round%2 == 1 {
					k = len(systems) - 1 - k
				}
				x, err := m.one(&systems[k], kind, o)
				if err != nil {
					return nil, err
				}
				r.add(kind, systems[k].name, x)
			}
		}
	}
	return r, nil
}

// load puts load on one system for somebody who watches.
func (m *machine) load(ctx context.Context, systems []system, o *options) error {
	kind := o.only
	if kind == "" {
		kind = keepAlive
	}
	i := slices.IndexFunc(systems, func(s system) bool { return s.name == o.hold })
	if i < 0 {
		return fmt.Errorf("unknown system %q", o.hold)
	}
	fmt.Printf("nginx %d worker %d keeper %d\n", m.nginx, m.worker, m.keeper)
	for end := time.Now().Add(o.window); time.Now().Before(end) && ctx.Err() == nil; {
		one := *o
		one.window = time.Second
		x, err := m.one(&systems[i], kind, &one)
		if err != nil {
			return err
		}
		fmt.Printf("%s: %.0f/s p50 %s p99 %s CPU %.2f µs per request, keeper %s\n", systems[i].name,
			float64(x.Requests)/x.Wall.Seconds(), x.P50, x.P99, float64(x.cpu.Nanoseconds())/1e3/float64(x.Requests), x.keeper)
	}
	return nil
}

// idleConnections is how many connections are opened for their memory.
const idleConnections = 1000

// memory measures what an idle connection costs a proxy.
func (m *machine) memory(systems []system, r *report) error {
	for i := range systems {
		s := &systems[i]
		if s.pid == 0 || s.name == tunnel {
			continue
		}
		c := m.client(s)
		idleJob := func(n int) (int64, error) {
			if err := c.begin(job{Kind: idle, Address: s.address, Name: s.host, Connections: n}); err != nil {
				return 0, fmt.Errorf("idle connections through %s: %w", s.name, err)
			}
			time.Sleep(time.Second) // whatever goes on after the last answer
			rss := resident(s.pid)
			_, err := c.finish()
			return rss, err
		}
		few, err := idleJob(10)
		if err != nil {
			return err
		}
		many, err := idleJob(idleConnections + 10)
		if err != nil {
			return err
		}
		r.memory = append(r.memory, memoryFigure{s.name, few, (many - few) / idleConnections})
	}
	return nil
}

// cpuTime gives the processor time of a whole process, user and system, all of
// its threads that ever were, in ns. The id of that clock is made as
// clock_getcpuclockid(3) does.
func cpuTime(pid int) time.Duration {
	if pid == 0 {
		return 0
	}
	const schedClock = 2
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedClock), &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// resident gives the resident memory of a process in bytes.
func resident(pid int) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.ParseInt(f[1], 10, 64)
	return n * int64(os.Getpagesize())
}

// watchMemory looks at a process's memory until stop is called, which gives
// the most that was seen.
func watchMemory(pid int) (stop func() int64) {
	end, peak := make(chan struct{}), make(chan int64)
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		most := resident(pid)
		for {
			select {
			case <-end:
				peak <- most
				return
			case <-tick.C:
				most = max(most, resident(pid))
			}
		}
	}()
	return func() int64 { close(end); return <-peak }
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
