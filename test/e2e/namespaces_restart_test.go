package e2e

import (
	"bufio"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

// TestNamespaceThroughRestarts: under the units a program in a namespace of its own
// is not refused while worker and keeper are restarted or killed: its listeners lie
// in the descriptor store too, and leave it with the namespace.
func TestNamespaceThroughRestarts(t *testing.T) {
	t.Parallel()
	s := newServices(t)
	h := s.h
	h.slice = s.tagged
	b := h.newBox().plug()
	anchor := b.occupy("box")
	stored := func() (names []string) {
		for _, name := range s.keeper.stored() {
			if strings.Contains(name, "4.") || strings.Contains(name, "6.") {
				names = append(names, name)
			}
		}
		return names
	}
	eventually(t, 10*time.Second, "eight listeners are stored", func() bool { return len(stored()) == 8 })
	kept := stored()
	if r := h.run(b.inside("box", nobody, fetches("http://api.example.com/first")...)); !strings.Contains(r.stdout, `"ok":true`) {
		t.Fatal(r)
	}

	// One request after the other; 7 is curl's word for a connect that failed.
	asks := b.inside("box", nobody, "bash", "-c", `while :; do curl -4sS -o /dev/null --max-time 20 --resolve api.example.com:80:`+originV4+` http://api.example.com/again 2>/dev/null; echo $?; sleep 0.01; done`)
	out, err := asks.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := asks.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan map[string]int)
	var served atomic.Int64
	go func() {
		codes := map[string]int{}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			codes[lines.Text()]++
			if lines.Text() == "0" {
				served.Add(1)
			}
		}
		ended <- codes
	}()
	for range 2 {
		s.worker.restart()
		s.worker.waitReady(20 * time.Second)
		s.keeper.restart()
		s.keeper.waitReady(20 * time.Second)
		s.worker.waitReady(20 * time.Second)
		// It may be about to be started anew by itself, after the keeper.
		unix.Kill(s.worker.main(), unix.SIGKILL)
		time.Sleep(100 * time.Millisecond)
		s.worker.waitReady(20 * time.Second)
		h.kill(s.keeper.main(), unix.SIGKILL)
		time.Sleep(100 * time.Millisecond)
		s.keeper.waitReady(20 * time.Second)
		s.worker.waitReady(20 * time.Second)
	}
	before := served.Load()
	eventually(t, 20*time.Second, "it is served, after all of that too", func() bool { n := served.Load(); return n >= before+5 && n >= 20 })
	asks.Process.Kill()
	asks.Wait()
	codes := <-ended
	t.Logf("curl's ends: %v", codes)
	// Whoever had just been accepted when the keeper was killed cannot be named any
	// more and is reset, which curl may call a failed connect.
	lost := 0
	for _, e := range h.auditOf(audit.Refused) {
		switch {
		case e.Reason == "flow_lost":
			lost += int(max(e.Count, 1))
		case strings.HasSuffix(e.Workload.Cgroup, "/box"):
			t.Errorf("refused: %s %s", e.Reason, e.Message)
		}
	}
	if codes["7"] > lost || codes["28"] > 0 {
		t.Errorf("connects failed: %v, %d lost; keeper: %s", codes, lost, s.keeper.stderr)
	}
	eventually(t, 10*time.Second, fmt.Sprintf("stored is what was at first, %v", kept), func() bool { return slices.Equal(stored(), kept) })
	anchor.Process.Kill()
	anchor.Wait()
	eventually(t, 15*time.Second, "the store has forgotten the namespace", func() bool { return len(stored()) == 4 })
	b.shut()
}

// TestNamespaceRestarts: worker and keeper die while namespaces are open. Nothing
// leaves meanwhile, and the next ones serve them again.
func TestNamespaceRestarts(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putSock()
	d := h.startDaemon(h.config(boxPolicy))
	b := h.newBox().plug()
	b.occupy("box")
	lost := h.newBox()
	inLost := lost.occupy("lost")
	w := h.tap()
	asks := func(when string) {
		t.Helper()
		if r := h.run(b.inside("box", nobody, fetches("http://api.example.com/")...)); !strings.Contains(r.stdout, `"ok":true`) {
			t.Errorf("%s: %v", when, r)
		}
	}
	asks("at first")
	for range 3 {
		h.kill(h.role("worker"), unix.SIGKILL)
		asks("after the worker died")
	}
	d.cmd.Process.Kill()
	<-d.ended
	for range 5 {
		lines := h.sockLines(b.inside("box", nobody, sockPath, "socket inet stream 6", "connect "+originV4+" 80", "send hello"))
		if strings.Contains(strings.Join(lines, "\n"), "send 5") {
			t.Errorf("without a keeper: %v", lines)
		}
	}
	if lines := w.fromBox(); len(lines) > 0 {
		t.Errorf("on the wire: %v", lines)
	}
	if !b.tabled() {
		t.Error("the table inside went with the keeper")
	}
	// This namespace ends while nobody looks.
	inLost.Process.Kill()
	inLost.Wait()
	lost.end()
	h.startDaemon(h.config(boxPolicy))
	asks("after the keeper died")
	eventually(t, 10*time.Second, "nothing is left of the namespace that ended", func() bool {
		return h.scrape(`sallyport_resource_entries{resource="bpf_listeners"}`) == 2
	})
}
