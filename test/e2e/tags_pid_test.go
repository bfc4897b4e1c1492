package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/test/outside"
)

// TestTagPID: only a process without internet sockets; it keeps its tag until its
// end, and its connections of before are ended.
func TestTagPID(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(fmt.Sprintf(tagPolicy, h.name)))
	script := `
import socket, sys, urllib.request
held = []
for line in sys.stdin:
    word = line.strip()
    if word == "open":
        held.append(socket.create_connection(("` + originV4 + `", 80)))
    elif word == "close":
        held.pop().close()
    elif word == "get":
        try:
            print(urllib.request.urlopen("http://` + originV4 + `/", timeout=10).status, flush=True)
        except Exception as e:
            print(e, flush=True)
        continue
    print("done", flush=True)
`
	c := h.at(h.apart("plain"), nobody, "python3", "-u", "-c", script)
	p := outside.Start(t, c)
	say := func(word string) string {
		t.Helper()
		p.Tell(word)
		line, err := p.Line()
		if err != nil {
			t.Fatalf("%s: it said nothing: %v", word, err)
		}
		return line
	}
	say("open")
	procs, err := os.ReadFile(filepath.Join(cgroupRoot(), "/"+h.name+"-plain", "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(procs))
	if r := h.tagging("tag", "pid", pid); r.code != 1 || !strings.Contains(r.stderr, originV4+":80") {
		t.Errorf("a process with a connection: %v", r)
	}
	say("close")
	for _, bad := range []string{"0", "-1", "x"} {
		if r := h.tagging("tag", "pid", bad); r.code != 2 {
			t.Errorf("tag pid %s: %v", bad, r)
		}
	}
	r := h.tagging("tag", "pid", pid, "--workload", "tools")
	if r.code != 0 || !strings.Contains(r.stdout, "captured: /"+h.slice+"/pid-"+pid) {
		t.Fatalf("tag pid: %v", r)
	}
	before := h.net.connections.Load()
	if got := say("get"); !strings.Contains(got, "403") || h.net.connections.Load() != before {
		t.Errorf("a tagged process got %q", got)
	}
	h.waitAudit("its refusal, under its name", func(e *audit.Event) bool {
		return e.Kind == audit.Exchange && e.Workload.Name == "tools" && strings.HasPrefix(e.Workload.Cgroup, "/"+h.slice+"/pid-"+pid)
	})
	if r := h.tagging("tag", "pid", pid); r.code != 1 || !strings.Contains(r.stderr, "tagged cgroup already") {
		t.Errorf("a second time: %v", r)
	}
	if r := h.run(h.as(nobody, asUser(nobody, []string{"/srv/bin/sallyport", "tag", "pid", pid, "--config", daemonConfig})...)); r.code != 1 || !strings.Contains(r.stderr, "not root") {
		t.Errorf("as nobody: %v", r)
	}
	c.Process.Kill()
	eventually(t, 10*time.Second, "its cgroup goes with it", func() bool {
		left, _ := filepath.Glob(filepath.Join(cgroupRoot(), h.slice, "pid-*"))
		data, _ := os.ReadFile(h.path("/var/lib/sallyport/tags.json"))
		return len(left) == 0 && !strings.Contains(string(data), "pid-")
	})
}
