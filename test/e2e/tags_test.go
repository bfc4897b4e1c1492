package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

// tagged runs sallyport tag or untag with the daemon's configuration.
func (h *host) tagging(args ...string) result {
	h.t.Helper()
	return h.run(h.sallyport(append(args, "--config", daemonConfig)...))
}

// apart makes a cgroup beside the host's slice and gives its path below the mount.
func (h *host) apart(name string) string {
	h.t.Helper()
	path := "/" + h.name + "-" + name
	h.t.Cleanup(func() { removeCgroups(filepath.Join(cgroupRoot(), path)) })
	return path
}

// removeCgroups ends what runs in a cgroup and removes it with all below it.
func removeCgroups(dir string) {
	os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	for range 100 {
		var dirs []string
		filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append([]string{p}, dirs...)
			}
			return nil
		})
		for _, d := range dirs {
			unix.Rmdir(d)
		}
		if _, err := os.Stat(dir); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// at prepares a command in a cgroup anywhere, which is made for it.
func (h *host) at(path string, uid int, argv ...string) *exec.Cmd {
	h.t.Helper()
	dir := filepath.Join(cgroupRoot(), path)
	return h.as(uid, append([]string{"bash", "-c", `mkdir -p "$0" && echo $$ > "$0/cgroup.procs" && exec "$@"`, dir}, asUser(uid, argv)...)...)
}

// sleeper starts a process in a cgroup that does nothing, and gives its number.
func (h *host) sleeper(path string) int {
	h.t.Helper()
	c := h.at(path, nobody, "sleep", "600")
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	procs := filepath.Join(cgroupRoot(), path, "cgroup.procs")
	pid := 0
	eventually(h.t, 5*time.Second, "the sleeper runs in "+path, func() bool {
		data, _ := os.ReadFile(procs)
		lines := strings.Fields(string(data))
		if len(lines) != 1 {
			return false
		}
		comm, _ := os.ReadFile("/proc/" + lines[0] + "/comm")
		pid, _ = strconv.Atoi(lines[0])
		return strings.TrimSpace(string(comm)) == "sleep"
	})
	return pid
}

// workloadNotes gives the notes of the status by cgroup.
func (h *host) workloadNotes() map[string]string {
	h.t.Helper()
	r := h.run(h.sallyport("status", "--json", "--config", daemonConfig))
	var s struct {
		Workloads []struct{ Name, Cgroup, Note string }
	}
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
		h.t.Fatalf("status: %v: %v", err, r)
	}
	notes := make(map[string]string)
	for _, w := range s.Workloads {
		notes[w.Cgroup] = w.Name + ": " + w.Note
	}
	return notes
}

const tagPolicy = `
workloads:
  tools: {}
  front: { match: { cgroup: "/%[1]s-front/*" } }
rules:
  - { name: tools, match: { workloads: [tools], hosts: [api.example.com], protocols: [http] }, action: allow }
  - { name: front, match: { workloads: [front], hosts: [api.example.com], protocols: [http] }, action: allow }
`

var curlAPI = []string{"curl", "-4sS", "-m", "10", "--resolve", "api.example.com:80:" + originV4, "http://api.example.com/"}

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
	older := h.at(path, nobody, "python3", "-u", "-c", `
import socket
s = socket.create_connection(("`+originV4+`", 80))
print("up")
try:
    print("end", s.recv(1))
except OSError as e:
    print("lost", e)`)
	out, err := older.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := older.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { older.Process.Kill(); older.Wait() })
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "up" {
		t.Fatalf("no connection: %q", lines.Text())
	}
	r := h.tagging("tag", "cgroup", filepath.Join(cgroupRoot(), path), "--workload", "tools")
	if r.code != 0 || !strings.Contains(r.stdout, "captured: "+path) {
		t.Fatalf("tag: %v: %s", r, d.stderr)
	}
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "lost") {
		t.Errorf("a connection of before: %q", lines.Text())
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
	removeCgroups(filepath.Join(cgroupRoot(), path))
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
	removeCgroups(filepath.Join(cgroupRoot(), path, "inner"))
	// Before anything else runs below it: that would be captured by itself.
	eventually(t, 5*time.Second, "status says so", func() bool { return len(h.status().Problems) == 0 })
	eventually(t, 5*time.Second, "the outer one is captured", func() bool {
		before := h.net.connections.Load()
		r := h.run(h.at(path+"/other", nobody, curlAPI...))
		return strings.Contains(r.stdout, "no_rule") && h.net.connections.Load() == before
	})
}

// auditFree reports whether the last exchange of a cgroup is not from just now.
func (h *host) auditFree(path string) bool {
	n := h.workloadNotes()
	_, ok := n[path]
	return !ok
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
	removeCgroups(filepath.Join(cgroupRoot(), path))
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
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	lines := bufio.NewScanner(out)
	say := func(word string) string {
		t.Helper()
		fmt.Fprintln(in, word)
		if !lines.Scan() {
			t.Fatalf("%s: it said nothing: %v", word, lines.Err())
		}
		return lines.Text()
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

// TestTagContainerBusyEngine: a tagged container that begins is captured also where
// its engine knows it only some time after it runs: that makes it no later.
func TestTagContainerBusyEngine(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(fmt.Sprintf(tagPolicy, h.name)))
	id := strings.Repeat("fedcba9876543210", 3) + fmt.Sprintf("%016x", time.Now().UnixNano())
	path := h.apart("busy") + "/docker-" + id + ".scope"
	l, err := net.Listen("unix", h.path("/run/docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	var pid, asked atomic.Int64
	engine := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/containers/"+id+"/json" {
			http.NotFound(w, r)
			return
		}
		if asked.Add(1); pid.Load() == 0 {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, `{"Id":%q,"Name":"/busy","State":{"Pid":%d},"Config":{"Image":"nginx:1.27"}}`, id, pid.Load())
	})}
	go engine.Serve(l)
	t.Cleanup(func() { engine.Close() })
	if r := h.tagging("tag", "container", "busy"); r.code != 0 || !strings.Contains(r.stdout, "holds from its start") {
		t.Fatalf("tag container: %v", r)
	}
	running := h.sleeper(path)
	eventually(t, 10*time.Second, "the engine is asked twice", func() bool { return asked.Load() >= 2 })
	pid.Store(int64(running))
	eventually(t, 10*time.Second, "it is captured", func() bool {
		return strings.HasPrefix(h.workloadNotes()[path], "busy: trust incomplete")
	})
}

// TestTagContainer: a container elsewhere, by name and by id where no engine
// answers; what it lacks of trust is in the status.
func TestTagContainer(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(fmt.Sprintf(tagPolicy, h.name)))
	id := strings.Repeat("0123456789abcdef", 3) + fmt.Sprintf("%016x", time.Now().UnixNano())
	path := h.apart("engine") + "/docker-" + id + ".scope"
	pid := 0
	l, err := net.Listen("unix", h.path("/run/docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	engine := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/containers/"+id+"/json" || pid == 0 {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, `{"Id":%q,"Name":"/web","State":{"Pid":%d},"Config":{"Image":"nginx:1.27","Labels":{"tier":"front"}}}`, id, pid)
	})}
	go engine.Serve(l)
	t.Cleanup(func() { engine.Close() })

	pid = h.sleeper(path)
	// What the keeper first sees with the tag there is new to it.
	time.Sleep(1200 * time.Millisecond)
	for _, args := range [][]string{{"web", "--workload", "tools"}, {"--label", "tier=front"}} {
		if r := h.tagging(append([]string{"tag", "container"}, args...)...); r.code != 0 || !strings.Contains(r.stdout, "captured late: container "+id[:12]) {
			t.Errorf("tag container %q: %v", args, r)
		}
	}
	for _, args := range [][]string{nil, {"web", "--label", "a=b"}, {"--label", "a"}} {
		if r := h.tagging(append([]string{"tag", "container"}, args...)...); r.code != 2 {
			t.Errorf("tag container %q: %v", args, r)
		}
	}
	removeCgroups(filepath.Join(cgroupRoot(), path))
	eventually(t, 5*time.Second, "the end is noticed", func() bool { return h.workloadNotes()[path] == "" })
	pid = h.sleeper(path)
	eventually(t, 10*time.Second, "the container is captured at its next start", func() bool {
		return strings.HasPrefix(h.workloadNotes()[path], "tools: trust incomplete: no trust directory")
	})
	if r := h.run(h.at(path, nobody, curlAPI...)); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("%v", r)
	}
	h.waitAudit("an exchange of the container", func(e *audit.Event) bool {
		return e.Kind == audit.Exchange && e.Rule == "tools" && e.Workload.Container == id
	})

	// With what container-args prints, nothing is missing.
	r := h.tagging("container-args", "--json")
	var flags []string
	if err := json.Unmarshal([]byte(r.stdout), &flags); err != nil || flags[0] != "--cgroup-parent="+h.slice {
		t.Fatalf("container-args: %v: %v", err, r)
	}
	removeCgroups(filepath.Join(cgroupRoot(), path))
	var mounts, variables []string
	for _, f := range flags[1:] {
		name, value, _ := strings.Cut(f, "=")
		switch name {
		case "--volume":
			parts := strings.Split(value, ":")
			if len(parts) != 3 || parts[2] != "ro" {
				t.Fatalf("%q", f)
			}
			mounts = append(mounts, fmt.Sprintf("mount --bind %s %s", parts[0], parts[1]))
		case "--env":
			variables = append(variables, value)
		default:
			t.Errorf("%q", f)
		}
	}
	second := strings.Replace(id, "0", "f", 1)
	inner := filepath.Dir(path) + "/" + "docker-" + second + ".scope"
	c := h.at(inner, 0, append(append([]string{"env"}, variables...), "unshare", "--mount", "bash", "-c", strings.Join(mounts, " && ")+" && exec sleep 600")...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	if r := h.tagging("tag", "container", second); r.code != 0 {
		t.Errorf("tag by id: %v", r)
	}
	// Late, unless the tag was there before the daemon had seen the cgroup.
	eventually(t, 10*time.Second, "it is seen", func() bool { return strings.HasPrefix(h.workloadNotes()[inner], second[:12]+": ") })
	removeCgroups(filepath.Join(cgroupRoot(), inner))
	c = h.at(inner, 0, append(append([]string{"env"}, variables...), "unshare", "--mount", "bash", "-c", strings.Join(mounts, " && ")+" && exec sleep 600")...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	eventually(t, 10*time.Second, "its trust is complete", func() bool { return h.workloadNotes()[inner] == second[:12]+": " })
}
