package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// A gate is one sallyport with a client behind it, at a site of its own.
type gate struct {
	site           *site
	name, config   string
	keeper, worker int // pids
	client         *client
	down           func()
}

// startGate starts the daemon, both halves on the proxies' processor, where
// Go's runtime sees one processor as it would on a machine with one.
func (m *machine) startGate(name string, rules int) (_ *gate, err error) {
	s, err := m.newSite()
	if err != nil {
		return nil, err
	}
	g := &gate{site: s, name: m.name + name, config: "/srv/" + name + ".yaml"}
	if err := m.write(g.config, policyText(g.name, rules)); err != nil {
		return nil, err
	}
	c := s.pinned(m.cpus[0], "/srv/bin/sallyport", "run", "--config", g.config)
	ready := &watcher{mark: "ready", seen: make(chan struct{})}
	c.Stderr = ready
	teardown := func() {
		// What the daemon leaves on purpose goes after it has ended.
		if err := output(s.command("/srv/bin/sallyport", "teardown", "--stop", "--config", g.config)); err != nil {
			fmt.Fprintln(os.Stderr, "bench: teardown:", err)
		}
	}
	m.closers = append(m.closers, func() {
		if teardown != nil {
			teardown()
		}
	})
	stop, err := m.start(c, 10*time.Second)
	if err != nil {
		return nil, err
	}
	select {
	case <-ready.seen:
	case <-time.After(15 * time.Second):
		return nil, errors.New("sallyport is not ready within 15 s: " + ready.text.String())
	}
	g.keeper = c.Process.Pid
	for _, pid := range children(g.keeper) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.HasSuffix(string(line), "\x00internal\x00worker\x00") {
			g.worker = pid
		}
	}
	if g.worker == 0 {
		return nil, errors.New("the keeper has no worker")
	}
	g.client, err = m.startClient(s.command("/srv/bin/sallyport", "exec", "--config", g.config, "--workload", "bench", "--",
		"taskset", "-c", strconv.Itoa(m.cpus[1]), "/srv/bin/bench", clientArgument))
	g.down = func() {
		g.client.in.Close()
		g.client.stop()
		stop()
		teardown()
		teardown = nil
	}
	return g, err
}

// processes are what a gate's work is charged to.
func (g *gate) processes() []int { return []int{g.worker, g.keeper} }

// exchanges gives how many exchanges the gate says to have audited.
func (g *gate) exchanges() (int, error) {
	page, err := g.site.fetch("http://127.0.0.1:9595/metrics")
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(page, `sallyport_audit_events_total{kind="exchange"} `)
	if !found {
		return 0, errors.New("the metrics tell nothing of exchanges")
	}
	number, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseFloat(number, 64)
	return int(n), err
}

// A watcher waits for a line of a process's standard error and keeps the
// beginning of the rest.
type watcher struct {
	mark string
	seen chan struct{}
	done bool
	text bytes.Buffer
}

func (w *watcher) Write(p []byte) (int, error) {
	if w.text.Len() < 16<<10 {
		w.text.Write(p)
	}
	if !w.done && bytes.Contains(w.text.Bytes(), []byte(w.mark+"\n")) {
		w.done = true
		close(w.seen)
	}
	return len(p), nil
}
