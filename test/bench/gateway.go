package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// The names under which the one origin is reached: the policy inspects the one
// and tunnels the other.
const (
	inspectName = "inspect.example.com"
	tunnelName  = "tunnel.example.com"
)

// ruleCount is the size of the policy; the rules that match are the last ones.
const ruleCount = 100

const configPath = "/srv/sallyport.yaml"

// policyText is a configuration with audit and metrics on.
func (m *machine) policyText() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `version: 1
mode: enforce
slice: %[1]s.slice
nft_table: %[1]s
bpf_dir: /srv/bpf/%[1]s
listen: { tcp: 0, dns: 0 }
rules:
`, m.name)
	for i := range ruleCount - 2 {
		fmt.Fprintf(&b, "  - { name: rule-%d, match: { hosts: [", i)
		if i%5 == 0 {
			fmt.Fprintf(&b, `"*.zone%d.example.net"`, i)
		} else {
			fmt.Fprintf(&b, `api%d.example.net`, i)
		}
		b.WriteString("], ports: [443]")
		if i%3 == 0 {
			b.WriteString(`, methods: [GET, POST], paths: ["/v1/**", "/v2/*/items"]`)
		}
		b.WriteString(" }, action: allow }\n")
	}
	fmt.Fprintf(&b, "  - { name: inspected, match: { hosts: [%s], ports: [443], methods: [GET], paths: [/small, /large] }, action: allow }\n", inspectName)
	fmt.Fprintf(&b, "  - { name: tunnelled, match: { hosts: [%s], ports: [443] }, action: allow, handling: tunnel }\n", tunnelName)
	return b.Bytes()
}

// startSallyport starts the daemon, both halves on the proxies' processor.
func (m *machine) startSallyport() error {
	if err := m.write(configPath, m.policyText()); err != nil {
		return err
	}
	c := m.pinned(m.cpus[0], "/srv/bin/sallyport", "run", "--config", configPath)
	ready := &watcher{mark: "ready", seen: make(chan struct{})}
	c.Stderr = ready
	m.closers = append(m.closers, func() {
		// What the daemon leaves on purpose goes after it has ended.
		if err := output(m.command("/srv/bin/sallyport", "teardown", "--stop", "--config", configPath)); err != nil {
			fmt.Fprintln(os.Stderr, "bench: teardown:", err)
		}
	})
	if err := m.start(c, 10*time.Second); err != nil {
		return err
	}
	select {
	case <-ready.seen:
	case <-time.After(15 * time.Second):
		return errors.New("not ready within 15 s: " + ready.text.String())
	}
	m.keeper = c.Process.Pid
	for _, pid := range children(m.keeper) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.HasSuffix(string(line), "\x00internal\x00worker\x00") {
			m.worker = pid
		}
	}
	if m.worker == 0 {
		return errors.New("the keeper has no worker")
	}
	return nil
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
