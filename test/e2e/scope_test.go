package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/systemd/systemdtest"
	"sallyport/test/outside"
)

// bootSystemd makes systemd the host's service manager: a stand-in that answers
// where systemd does and makes scopes as it does, with cgroup2 to itself.
func (h *host) bootSystemd() *systemdtest.Server {
	h.t.Helper()
	h.sh("mkdir -p /run/systemd/system")
	if cgroupRoot() != "/sys/fs/cgroup" {
		if r := h.sh("mount --bind " + cgroupRoot() + " /sys/fs/cgroup"); r.code != 0 {
			h.t.Fatalf("cgroup2: %v", r)
		}
	}
	return systemdtest.Start(h.t, h.path("/run/systemd/private"))
}

// A scopeMaker makes scopes and watches them as systemd does.
type scopeMaker struct {
	h      *host
	server *systemdtest.Server
	// made are the properties of the scopes, left what was in a scope when its last
	// process had gone.
	made chan map[string]any
	left chan []string
}

// makeScopes has the stand-in make scopes.
func (h *host) makeScopes(server *systemdtest.Server) *scopeMaker {
	m := &scopeMaker{h, server, make(chan map[string]any, 8), make(chan []string, 8)}
	server.Job = m.job
	return m
}

func (m *scopeMaker) job(verb, unit string, properties map[string]any) string {
	if verb != "transient" || properties["Slice"] != "-.slice" {
		return "failed"
	}
	dir := filepath.Join(cgroupRoot(), unit)
	if os.Mkdir(dir, 0o755) != nil {
		return "failed"
	}
	for _, pid := range properties["PIDs"].([]uint32) {
		if os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(int(pid))), 0) != nil {
			return "failed"
		}
	}
	m.made <- properties
	go m.watch(unit, dir)
	return "done"
}

// watch removes a scope with its last process.
func (m *scopeMaker) watch(unit, dir string) {
	for {
		events, err := os.ReadFile(dir + "/cgroup.events")
		if err != nil || strings.Contains(string(events), "populated 0") {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	var left []string
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && p != dir {
			left = append(left, p)
		}
		return nil
	})
	outside.RemoveCgroups(dir)
	m.server.Forget(unit)
	m.left <- left
}

// TestExecScope: where systemd has the cgroups, an `exec` without a daemon asks it
// for a scope beside the slice, works in it as ever, and leaves nothing in it,
// whoever of its processes ends first.
func TestExecScope(t *testing.T) {
	for _, end := range []string{"command", "keeper killed", "scope stopped"} {
		t.Run(end, func(t *testing.T) {
			h := newHost(t)
			h.putInmate()
			h.warmUp()
			m := h.makeScopes(h.bootSystemd())
			argv := h.exec(h.config(oneAllowed), inmatePath)
			before := h.snapshot()
			i := h.startInmate(argv...)
			unit := fmt.Sprintf("%s-exec-%d.scope", strings.ReplaceAll(h.name, "-", "_"), i.pid)
			var made map[string]any
			select {
			case made = <-m.made:
			default:
				t.Fatal("systemd was asked for no scope")
			}
			if made["Delegate"] != true || made["Slice"] != "-.slice" {
				t.Errorf("scope with %v", made)
			}
			keeper, watcher, worker := h.role("keeper"), h.role("watch"), h.role("worker")
			for pid, want := range map[int]string{i.pid: "/" + unit + "/gate/command", keeper: "/" + unit + "/keeper", worker: "/" + unit + "/keeper", watcher: "/" + unit} {
				if got := h.tagged(pid); got != cgroupRoot()+want {
					t.Errorf("process %d is in %s, want %s", pid, got, want)
				}
			}
			if o := i.do("ask", originHTTP, originV4); !strings.Contains(o.Answer, "200") {
				t.Errorf("allowed: %+v", o)
			}
			reached := h.net.connections.Load()
			if o := i.do("ask", deniedHTTP, "203.0.113.12"); strings.Contains(o.Answer, "200") || h.net.connections.Load() != reached {
				t.Errorf("denied: %+v", o)
			}
			objects := h.pinnedObjects()
			switch end {
			case "command":
				i.stdin.Close()
			case "keeper killed":
				h.kill(keeper, unix.SIGKILL)
			case "scope stopped": // systemctl stop: KillMode=control-group
				for _, pid := range []int{watcher, worker, i.pid, keeper} {
					h.kill(pid, unix.SIGTERM)
				}
			}
			h.goneWithin(goneAfter, before, objects, i.pid)
			select {
			case left := <-m.left:
				if len(left) > 0 {
					t.Errorf("left in the scope: %v", left)
				}
			case <-time.After(moreIfBusy * goneAfter):
				t.Error("the scope has processes yet")
			}
		})
	}
}

// TestExecWithoutScope: no scope, no command; and nothing is left of it.
func TestExecWithoutScope(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	server := h.bootSystemd()
	server.Job = func(string, string, map[string]any) string { return "failed" }
	argv := h.exec(h.config("mode: observe\n"), "curl", "-4sS", "http://api.example.com/")
	before := h.snapshot()
	r := h.run(h.command(argv...))
	if r.code != 1 || !strings.Contains(r.stderr, ".scope: systemd's job ended with \"failed\"") {
		t.Errorf("systemd makes none: %v", r)
	}
	h.goneWithin(goneAfter, before, nil, 0)
	h.sh("rm /run/systemd/private")
	before = h.snapshot()
	if r = h.run(h.command(argv...)); r.code != 1 || !strings.Contains(r.stderr, "systemd does not run here") {
		t.Errorf("systemd does not answer: %v", r)
	}
	h.goneWithin(goneAfter, before, nil, 0)
	if n := h.net.connections.Load(); n != 0 {
		t.Errorf("%d connections reached the origin", n)
	}
}
