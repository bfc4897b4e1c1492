package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// TestContainers: a workload is a container by what its engine says of it. While
// no engine answers, and for a cgroup that only has a container's name, it is not.
func TestContainers(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(`
timeouts: { drain: 1s }
workloads:
  web: { match: { container: { name: web, image: "nginx:*", label: "tier=front" } }, name: "c-{container}" }
  other: { match: { container: { name: other } } }
rules:
  - { name: web, match: { workloads: [c-web], hosts: [api.example.com], protocols: [http] }, action: allow }
  - { name: other, match: { workloads: [other], hosts: [other.example.com], protocols: [http] }, action: allow }
`))
	web, other := strings.Repeat("0123456789abcdef", 4), strings.Repeat("fedcba9876543210", 4)
	scope := func(id string) string { return "docker-" + id + ".scope" }
	addresses := map[string]string{"api.example.com": originV4, "other.example.com": "203.0.113.11"}
	asks := func(cgroup, host string) result {
		return h.run(h.inside(cgroup, nobody, "curl", "-4sS", "--resolve", host+":80:"+addresses[host], "http://"+host+"/"))
	}
	refused := func(what, cgroup, host string) {
		t.Helper()
		if r := asks(cgroup, host); !strings.Contains(r.stdout, `"reason":"no_rule"`) {
			t.Errorf("%s: %v", what, r)
		}
	}
	refused("no engine", scope(web), "api.example.com")

	// An engine whose containers have each a process that does nothing.
	pids := map[string]int{}
	for _, id := range []string{web, other} {
		init := h.inside(scope(id), nobody, "sleep", "600")
		if err := init.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { init.Process.Kill(); init.Wait() })
		eventually(t, 20*time.Second, "the container starts", func() bool {
			procs, err := os.ReadFile(filepath.Join(h.below(scope(id)), "cgroup.procs"))
			if err != nil {
				t.Fatal(err)
			}
			pids[id], _ = strconv.Atoi(strings.TrimSpace(string(procs)))
			return pids[id] != 0
		})
	}
	var asked atomic.Int32
	l, err := net.Listen("unix", h.path("/run/docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	engine := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/containers/"), "/json")
		name := map[string]string{web: "web", other: "other"}[id]
		if name == "" {
			// The daemon also looks at containers that other tests make on this host.
			http.NotFound(w, r)
			return
		}
		asked.Add(1)
		fmt.Fprintf(w, `{"Id":%q,"Name":"/%s","State":{"Pid":%d},"Config":{"Image":"nginx:1.27","Labels":{"tier":"front"}}}`, id, name, pids[id])
	})}
	go engine.Serve(l)
	t.Cleanup(func() { engine.Close() })

	eventually(t, 30*time.Second, "the engine is asked again", func() bool {
		return strings.Contains(asks(scope(web), "api.example.com").stdout, `"ok":true`)
	})
	// Each is asked for again by itself.
	eventually(t, 30*time.Second, "the other container", func() bool {
		return strings.Contains(asks(scope(other), "other.example.com").stdout, `"ok":true`)
	})
	refused("what the other may", scope(web), "other.example.com")
	refused("a cgroup of one container with another's name", scope(other)+"/"+scope(web), "api.example.com")
	refused("a name that no engine knows", scope(strings.Repeat("a", 64)), "api.example.com")
	// Inside a container, one that its own engine made is still it.
	if r := asks(scope(web)+"/docker/"+strings.Repeat("b", 64), "api.example.com"); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("a container in the container: %v", r)
	}
	n := asked.Load()
	for range 3 {
		asks(scope(web), "api.example.com")
	}
	if asked.Load() != n {
		t.Error("the engine is asked for each connection")
	}
	for _, e := range h.auditOf(audit.Exchange) {
		if e.Rule == "web" && (e.Workload.Name != "c-web" || e.Workload.Container != web) {
			t.Errorf("%+v", e.Workload)
		}
	}
}
