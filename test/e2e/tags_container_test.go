package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/test/outside"
)

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
	d := h.startDaemon(h.config(fmt.Sprintf(tagPolicy, h.name)))
	id := strings.Repeat("0123456789abcdef", 3) + fmt.Sprintf("%016x", time.Now().UnixNano())
	path := h.apart("engine") + "/docker-" + id + ".scope"
	var pid atomic.Int64
	l, err := net.Listen("unix", h.path("/run/docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	engine := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/containers/"+id+"/json" || pid.Load() == 0 {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, `{"Id":%q,"Name":"/web","State":{"Pid":%d},"Config":{"Image":"nginx:1.27","Labels":{"tier":"front"}}}`, id, pid.Load())
	})}
	go engine.Serve(l)
	t.Cleanup(func() { engine.Close() })

	pid.Store(int64(h.sleeper(path)))
	// What the keeper first sees with the tag there is new to it.
	eventually(t, 10*time.Second, "the keeper has seen it", func() bool { return d.watches(path) })
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
	outside.RemoveCgroups(filepath.Join(cgroupRoot(), path))
	eventually(t, 5*time.Second, "the end is noticed", func() bool { return h.workloadNotes()[path] == "" })
	pid.Store(int64(h.sleeper(path)))
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
	outside.RemoveCgroups(filepath.Join(cgroupRoot(), path))
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
	outside.RemoveCgroups(filepath.Join(cgroupRoot(), inner))
	c = h.at(inner, 0, append(append([]string{"env"}, variables...), "unshare", "--mount", "bash", "-c", strings.Join(mounts, " && ")+" && exec sleep 600")...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	eventually(t, 10*time.Second, "its trust is complete", func() bool { return h.workloadNotes()[inner] == second[:12]+": " })
}
