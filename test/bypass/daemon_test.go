package bypass

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

// A daemon is `sallyport run` on a host.
type daemon struct {
	h      *host
	cmd    *exec.Cmd
	pid    int
	ended  chan struct{}
	mu     sync.Mutex
	stderr bytes.Buffer
}

func (d *daemon) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stderr.Write(b)
}

func (d *daemon) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stderr.String()
}

// config gives a configuration of this host's with rules.
func (h *host) config(rest string) string {
	return fmt.Sprintf(`version: 1
slice: %s
nft_table: %s
tls: { upstream_ca_files: [/srv/etc/internet.crt] }
%s`, h.slice, h.table(), rest)
}

func (h *host) table() string { return strings.ReplaceAll(h.name, "-", "_") }

// startDaemon starts the daemon and waits until it is ready.
func (h *host) startDaemon(conf string, flags ...string) *daemon {
	h.t.Helper()
	d, err := h.tryDaemon(conf, flags...)
	if err != nil {
		h.t.Fatal(err)
	}
	return d
}

func (h *host) tryDaemon(conf string, flags ...string) (*daemon, error) {
	h.t.Helper()
	h.write(configPath, conf)
	h.write("/srv/etc/internet.crt", string(h.net.ca.PEM))
	d := &daemon{h: h, cmd: h.sallyport(append([]string{"run", "--config", configPath}, flags...)...), ended: make(chan struct{})}
	d.cmd.Stderr = d
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	d.pid = d.cmd.Process.Pid
	go func() { d.cmd.Wait(); close(d.ended) }()
	h.t.Cleanup(func() {
		d.stop()
		// The gate stays shut after a stop; nothing may stay behind a test.
		var out []byte
		var err error
		// An exec that has just ended takes a moment to put its own away.
		if !within(10*time.Second, func() bool {
			out, err = h.sallyport("teardown", "--stop", "--config", configPath).CombinedOutput()
			return err == nil
		}) {
			h.t.Errorf("teardown: %v: %s", err, out)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; {
		if strings.Contains("\n"+d.String(), "\nready\n") {
			return d, nil
		}
		select {
		case <-d.ended:
			return nil, fmt.Errorf("run ended: %s", d)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("run is not ready: %s", d)
		}
	}
}

// stop ends the daemon and waits for it.
func (d *daemon) stop() {
	d.cmd.Process.Signal(unix.SIGTERM)
	d.cmd.Process.Signal(unix.SIGCONT)
	select {
	case <-d.ended:
	case <-time.After(40 * time.Second):
		d.cmd.Process.Kill()
		<-d.ended
		d.h.t.Errorf("run did not stop within 40 s: %s", d)
	}
}

// worker finds the daemon's worker, which is one of its children beside self-probes
// and commands of exec. There is one: a signal to 0 would be one to the test itself.
func (d *daemon) worker() int {
	d.h.t.Helper()
	children, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, path := range children {
		b, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(b), "\nPPid:\t"+strconv.Itoa(d.pid)+"\n") {
			continue
		}
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if !strings.HasPrefix(string(line), "sallyport\x00internal\x00worker\x00") {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		return pid
	}
	d.h.t.Fatalf("no worker: %s", d)
	return 0
}

// A statusReport is what `status --json` says.
type statusReport struct {
	Ready             bool     `json:"ready"`
	EnforcementActive bool     `json:"enforcement_active"`
	Problems          []string `json:"problems"`
}

func (h *host) status() (s statusReport) {
	out, _ := h.sallyport("status", "--json", "--config", configPath).Output()
	json.Unmarshal(out, &s)
	return s
}

// audit reads every event of the host's audit file.
func (h *host) audit() []audit.Event {
	f, err := os.Open(h.path("/var/log/sallyport/audit.jsonl"))
	if err != nil {
		return nil
	}
	defer f.Close()
	var all []audit.Event
	for r := audit.NewReader(f); ; {
		var e audit.Event
		if _, err := r.Next(&e); err != nil {
			return all
		}
		all = append(all, e)
	}
}
