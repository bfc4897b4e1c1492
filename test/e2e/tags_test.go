package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
	"sallyport/test/outside"
)

// TestTagCgroup: what a command names is captured at once, with the workload's
// name, keeps that over a restart of the daemon, and loses it with its next start
// after untag.
func TestTagCgroup(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.startDaemon(h.config(fmt.Sprintf(tagPolicy, h.name)))
	path := h.apart("tools")
	h.sleeper(path)
	rule := func(want string) {
		t.Helper()
		if r := h.run(h.at(path, nobody, curlAPI...)); !strings.Contains(r.stdout, want) {
			t.Errorf("want %s: %v", want, r)
		}
	}
	before := h.net.connections.Load()
	if r := h.run(h.at(path, nobody, curlAPI...)); !strings.Contains(r.stdout, `"ok":true`) || h.net.connections.Load() != before+1 {
		t.Fatalf("an untagged cgroup: %v", r)
	}
	// A connection from before is ended, said and recorded.
	older := outside.Start(t, h.at(path, nobody, "python3", "-u", "-c", `
import socket
s = socket.create_connection(("`+originV4+`", 80))
print("up")
try:
    print("end", s.recv(1))
except OSError as e:
    print("lost", e)`))
	if line, err := older.Line(); line != "up" {
		t.Fatalf("no connection: %q, %v", line, err)
	}
	r := h.tagging("tag", "cgroup", filepath.Join(cgroupRoot(), path), "--workload", "tools")
	if r.code != 0 || !strings.Contains(r.stdout, "captured: "+path) {
		t.Fatalf("tag: %v: %s", r, d.stderr)
	}
	if line, err := older.Line(); !strings.HasPrefix(line, "lost") {
		t.Errorf("a connection of before: %q, %v", line, err)
	}
	h.waitAudit("the end of a connection from before", func(e *audit.Event) bool {
		return e.Kind == audit.ForeignSocket && e.Workload.Cgroup == path && e.Dst.Port == 80
	})
	for _, bad := range []string{"/", "/" + h.slice, "/init.scope", "relative"} {
		if r := h.tagging("tag", "cgroup", bad); r.code == 0 {
			t.Errorf("tag cgroup %s: %v", bad, r)
		}
	}
	rule(`"ok":true`)
	h.waitAudit("an exchange of the tagged cgroup", func(e *audit.Event) bool {
		return e.Kind == audit.Exchange && e.Rule == "tools" && e.Workload.Cgroup == path && e.Workload.Name == "tools"
	})
	if n := h.workloadNotes(); n[path] != "tools: " {
		t.Errorf("status: %v", n)
	}
	// Each lock alone holds what is tagged here as it holds the slice.
	h.putSock()
	w := h.tap()
	for what, open := range map[string]func(){"BPF alone": h.flush, "the guard alone": func() { h.detach("*") }} {
		h.kill(d.pid, unix.SIGSTOP) // it must not mend what is tested
		open()
		w.packets()
		for _, uid := range []int{nobody, 0} {
			h.run(h.at(path, uid, sockPath, "socket inet stream 6", "connect "+originV4+" 7443", "send hello"))
			h.run(h.at(path+"/below", uid, sockPath, "socket inet dgram 17", "connect "+originV4+" 4433", "send hello"))
			h.run(h.at(path, uid, sockPath, "socket inet stream 6", "device eth0", "connect "+originV4+" 7443", "send hello"))
		}
		w.silent(what)
		h.kill(d.pid, unix.SIGCONT)
		h.waitLocks()
	}
	// With the daemon's end the gate is shut, and the next one holds it.
	d.stop()
	before = h.net.connections.Load()
	if r := h.run(h.at(path+"/below", nobody, curlAPI...)); r.code == 0 || h.net.connections.Load() != before {
		t.Errorf("without a daemon: %v", r)
	}
	h.startDaemon(h.config(fmt.Sprintf(tagPolicy, h.name)))
	rule(`"ok":true`)
	if r := h.tagging("untag", "cgroup", path); r.code != 0 || !strings.Contains(r.stdout, "next start") {
		t.Errorf("untag: %v", r)
	}
	if r := h.tagging("untag", "cgroup", path); r.code != 1 || !strings.Contains(r.stderr, "not tagged") {
		t.Errorf("untag again: %v", r)
	}
	rule(`"reason":"no_rule"`) // captured still, under its own name
	outside.RemoveCgroups(filepath.Join(cgroupRoot(), path))
	eventually(t, 5*time.Second, "a cgroup that was made anew after untag is free", func() bool {
		before := h.net.connections.Load()
		r := h.run(h.at(path, nobody, curlAPI...))
		return strings.Contains(r.stdout, `"ok":true`) && h.net.connections.Load() == before+1 && h.auditFree(path)
	})
}

// TestTagAround: a cgroup around one that is captured already is captured when that
// has ended, and until then it is said that it is not.
func TestTagAround(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(fmt.Sprintf(tagPolicy, h.name)))
	path := h.apart("around")
	h.sleeper(path + "/inner")
	if r := h.tagging("tag", "cgroup", path+"/inner"); r.code != 0 {
		t.Fatalf("tag: %v", r)
	}
	if r := h.tagging("tag", "cgroup", path); r.code != 0 || !strings.Contains(r.stdout, "captured late: cgroup "+path+": it is tagged, but a cgroup below it is captured by itself") {
		t.Errorf("tag around it: %v", r)
	}
	if s := strings.Join(h.status().Problems, "\n"); !strings.Contains(s, "captured late: cgroup "+path+":") {
		t.Errorf("status: %s", s)
	}
	if r := h.tagging("untag", "cgroup", path+"/inner"); r.code != 0 {
		t.Fatalf("untag: %v", r)
	}
	outside.RemoveCgroups(filepath.Join(cgroupRoot(), path, "inner"))
	// Before anything else runs below it: that would be captured by itself.
	eventually(t, 5*time.Second, "status says so", func() bool { return len(h.status().Problems) == 0 })
	eventually(t, 5*time.Second, "the outer one is captured", func() bool {
		before := h.net.connections.Load()
		r := h.run(h.at(path+"/other", nobody, curlAPI...))
		return strings.Contains(r.stdout, "no_rule") && h.net.connections.Load() == before
	})
}

// TestMatchElsewhere: a match outside of the slice holds from the next start of
// what it names; until then it is captured late, which status and config check say.
func TestMatchElsewhere(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	path := h.apart("front") + "/one"
	h.sleeper(path)
	conf := h.config(fmt.Sprintf(tagPolicy, h.name))
	h.write(daemonConfig, conf)
	check := func(daemon string) {
		t.Helper()
		r := h.run(h.sallyport("config", "check", daemonConfig))
		if r.code != 0 || !strings.Contains(r.stderr, "captured late: ") || !strings.Contains(r.stderr, path) {
			t.Errorf("config check %s: %v", daemon, r)
		}
	}
	check("without a daemon")
	h.startDaemon(conf)
	check("with a daemon")
	eventually(t, 5*time.Second, "status says captured late", func() bool {
		return h.workloadNotes()[path] == "front: captured late" && strings.Contains(strings.Join(h.status().Problems, "\n"), "captured late: cgroup "+path)
	})
	before := h.net.connections.Load()
	if r := h.run(h.at(path, nobody, curlAPI...)); !strings.Contains(r.stdout, `"ok":true`) || h.net.connections.Load() != before+1 {
		t.Errorf("what is captured late is not captured yet: %v", r)
	}
	outside.RemoveCgroups(filepath.Join(cgroupRoot(), path))
	eventually(t, 5*time.Second, "the end is noticed", func() bool { return h.workloadNotes()[path] == "" })
	h.sleeper(path)
	eventually(t, 5*time.Second, "the new one is captured", func() bool { return h.workloadNotes()[path] == "front: " })
	if r := h.run(h.at(path, nobody, curlAPI...)); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("%v", r)
	}
	h.waitAudit("an exchange of the match", func(e *audit.Event) bool { return e.Kind == audit.Exchange && e.Rule == "front" })
	if r := h.run(h.sallyport("config", "check", daemonConfig)); strings.Contains(r.stderr, "captured late") {
		t.Errorf("config check: %v", r)
	}
	// A workload outside of the slice is as tagged as one in it.
	if r := h.run(h.at(path, 0, "/srv/bin/sallyport", "status", "--config", daemonConfig)); r.code == 0 || !strings.Contains(r.stderr, "tagged") {
		t.Errorf("status from a tagged cgroup: %v", r)
	}
	if r := h.run(h.at(path, 0, "/srv/bin/sallyport", "exec", "--config", daemonConfig, "--", "true")); r.code == 0 {
		t.Errorf("exec from a tagged cgroup: %v", r)
	}
	// With both locks, and with each alone.
	h.waitLocks()
}
