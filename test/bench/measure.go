package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// one runs a comparison's job through a system.
func (m *machine) one(c *comparison, s *system, j job) (x sample, err error) {
	j.Address, j.Issuer = s.address, s.issuer
	if s.host != "" {
		j.Name = s.host
	}
	if j.Kind == newNames {
		m.names += 1_000_000 // no name comes twice
		j.First = m.names
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s through %s: %w", c.name, s.name, err)
		}
	}()
	var before int
	if c.pooled {
		if before, err = m.peers.site.accepted(); err != nil {
			return x, err
		}
	}
	if err := s.client.begin(j); err != nil {
		return x, err
	}
	var stop func() int64
	if j.Kind == bulk {
		stop = watchMemory(s.processes)
	}
	used, keeper := cpuTime(s.processes...), cpuTime(keeperOf(s)...)
	x.result, err = s.client.finish()
	x.cpu, x.keeper = cpuTime(s.processes...)-used, cpuTime(keeperOf(s)...)-keeper
	if stop != nil {
		x.peak = stop()
	}
	if err != nil {
		return x, err
	}
	if s.book != nil {
		s.book.served += x.All
	}
	if c.pooled {
		after, err := m.peers.site.accepted()
		if err != nil {
			return x, err
		}
		x.accepted = after - before - 1 // asking is a connection itself
		if x.accepted*20 > x.All {
			return x, fmt.Errorf("upstream connections are not shared: %d for %d requests", x.accepted, x.All)
		}
	}
	return x, nil
}

func keeperOf(s *system) []int {
	if s.keeper == 0 {
		return nil
	}
	return []int{s.keeper}
}

// measure does all rounds of all comparisons. What fails is not tried again.
func (m *machine) measure(ctx context.Context, all []comparison, rounds int, progress func(string)) error {
	for round := range rounds {
		for i := range all {
			c := &all[i]
			if c.failure != nil {
				continue
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			progress(fmt.Sprintf("round %d of %d: %s", round+1, rounds, c.name))
			got, err := m.round(c, round)
			if err != nil {
				c.failure = err
				progress(oneLine(err))
				continue
			}
			for name, x := range got {
				c.samples[name] = append(c.samples[name], x)
			}
		}
	}
	return nil
}

// round measures every system once, in an order that turns: nobody is always
// first.
func (m *machine) round(c *comparison, round int) (map[string]sample, error) {
	if c.special != nil {
		return c.special(c, round)
	}
	parts := make(map[string][]sample)
	j, n := c.job, max(c.parts, 1)
	j.Window /= time.Duration(n)
	for part := range n {
		for i := range c.systems {
			s := &c.systems[turn(i, round+part, len(c.systems))]
			x, err := m.one(c, s, j)
			if err != nil {
				return nil, err
			}
			parts[s.name] = append(parts[s.name], x)
		}
	}
	got := make(map[string]sample)
	for name, x := range parts {
		byPace(x)
		got[name] = x[len(x)/2]
		if c.quickest {
			got[name] = x[0]
		}
	}
	return got, nil
}

// byPace sorts the parts of a round from quick to slow: by the time of a request,
// or of a byte where that is what was measured.
func byPace(parts []sample) {
	slices.SortFunc(parts, func(a, b sample) int {
		return cmp.Or(cmp.Compare(a.P50, b.P50), cmp.Compare(a.Wall.Seconds()*float64(b.Bytes), b.Wall.Seconds()*float64(a.Bytes)))
	})
}

// turn says who is i-th of n in a round: every other round goes backwards, and
// every second one begins with the next.
func turn(i, round, n int) int {
	k := (i + round/2) % n
	if round%2 == 1 {
		k = n - 1 - k
	}
	return k
}

// idleConnections is how many connections are opened for their memory, and then
// as many more: what a process holds from its start and gives back later would
// pass for memory that the first ones do not need.
const idleConnections = 1000

// idleMemory measures what an idle connection costs a fresh process: sallyport
// is started for it in each round; the peers, which are only for comparison,
// are fresh in the first one.
func (m *machine) idleMemory(c *comparison, round int) (map[string]sample, error) {
	got := make(map[string]sample)
	for i := range c.systems {
		s := c.systems[i]
		counted := s.processes
		if s.name == inspect {
			g, err := m.startGate(fmt.Sprintf("fresh%d", round), fewRules)
			if err != nil {
				return nil, err
			}
			defer g.down()
			s.client, s.book = g.client, nil
			counted = []int{g.worker}
		} else if round > 0 {
			continue
		}
		start := float64(resident(counted...))
		few, err := m.memoryWith(c, &s, counted, idleConnections)
		if err != nil {
			return nil, err
		}
		many, err := m.memoryWith(c, &s, counted, 2*idleConnections)
		if err != nil {
			return nil, err
		}
		got[s.name] = sample{start: start, filled: few, perConnection: (many - few) / idleConnections}
	}
	return got, nil
}

// memoryWith gives the resident memory of processes with n idle connections.
func (m *machine) memoryWith(c *comparison, s *system, counted []int, n int) (float64, error) {
	j := c.job
	j.Connections, j.Address, j.Issuer = n, s.address, s.issuer
	if err := s.client.begin(j); err != nil {
		return 0, fmt.Errorf("%d idle connections through %s: %w", n, s.name, err)
	}
	time.Sleep(time.Second) // whatever goes on after the last answer
	rss := resident(counted...)
	r, err := s.client.finish()
	if s.book != nil {
		s.book.served += r.All
	}
	return float64(rss), err
}

// audit compares each proxy's log with what it served: who logs less does less
// than was asked of it.
func audit(all []comparison, within time.Duration) error {
	var books []*book
	for i := range all {
		for j := range all[i].systems {
			if b := all[i].systems[j].book; b != nil && b.served > 0 && !slices.Contains(books, b) {
				books = append(books, b)
			}
		}
	}
	var errs []error
	for _, b := range books {
		var lines int
		var err error
		if eventually(within, "all is logged", func() bool {
			lines, err = b.lines()
			return err == nil && lines >= b.served
		}) != nil {
			errs = append(errs, errors.Join(fmt.Errorf("%s has logged %d requests of at least %d that it served", b.name, lines, b.served), err))
		}
	}
	return errors.Join(errs...)
}

// load puts load on one system for somebody who watches.
func (m *machine) load(ctx context.Context, c *comparison, o *options) error {
	i := slices.IndexFunc(c.systems, func(s system) bool { return s.name == o.hold })
	if i < 0 {
		return fmt.Errorf("case %s has no system %q", c.name, o.hold)
	}
	s := &c.systems[i]
	fmt.Printf("processes %v, keeper %d\n", s.processes, s.keeper)
	for end := time.Now().Add(o.window); time.Now().Before(end) && ctx.Err() == nil; {
		j := c.job
		j.Window = min(j.Window, time.Second)
		x, err := m.one(c, s, j)
		if err != nil {
			return err
		}
		for _, f := range c.figures {
			fmt.Printf("%s "+f.format+"  ", f.name, f.of(&x))
		}
		fmt.Println()
	}
	return nil
}
