package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// boxPolicy lets every workload have one name in clear.
const boxPolicy = `
timeouts: { drain: 1s }
rules:
  - { name: api, match: { hosts: [api.example.com], protocols: [http] }, action: allow }
`

// TestNamespaceWithoutNetwork: a workload whose namespace has nothing but a
// loopback interface, down, reaches what its policy allows, and nothing else. Its
// names are resolved.
func TestNamespaceWithoutNetwork(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(boxPolicy))
	h.putSock()
	for name, unshare := range map[string][]string{
		"made by root":                    {"unshare", "--net", "--"},
		"made by a user":                  {"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "unshare", "-Urn", "--"},
		"made by a user, in another user": {"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "unshare", "-Ur", "unshare", "-Urn", "--"},
	} {
		cgroup := "box-" + strings.NewReplacer(" ", "-", ",", "").Replace(name)
		before := h.net.connections.Load()
		r := h.run(h.inside(cgroup, 0, append(unshare, fetches("http://api.example.com/inside")...)...))
		if !strings.Contains(r.stdout, `"ok":true`) {
			t.Errorf("%s: %v", name, r)
		}
		// The worker may use one that it kept.
		if n := h.net.connections.Load() - before; n > 1 {
			t.Errorf("%s: the origin counted %d connections, want 1", name, n)
		}
		// By its name, which our resolver in there answers.
		byName := `for i in $(seq 100); do curl -4sS --max-time 5 http://api.example.com/named && exit 0; sleep 0.05; done; exit 1`
		if r := h.run(h.inside(cgroup, 0, append(unshare, "bash", "-c", byName)...)); !strings.Contains(r.stdout, `"ok":true`) {
			t.Errorf("%s, by name: %v", name, r)
		}
		v6 := `for i in $(seq 100); do curl -6sS --max-time 5 --resolve 'api.example.com:80:[` + originV6 + `]' http://api.example.com/v6 && exit 0; sleep 0.05; done; exit 1`
		if r := h.run(h.inside(cgroup, 0, append(unshare, "bash", "-c", v6)...)); !strings.Contains(r.stdout, `"ok":true`) {
			t.Errorf("%s, IPv6: %v", name, r)
		}
		denied := `for i in $(seq 100); do a=$(curl -4sS --max-time 5 --resolve denied.example.com:80:203.0.113.12 http://denied.example.com/ 2>/dev/null) && echo "$a" && exit 0; sleep 0.05; done; exit 1`
		if r := h.run(h.inside(cgroup, 0, append(unshare, "bash", "-c", denied)...)); !strings.Contains(r.stdout, `"reason":"no_rule"`) {
			t.Errorf("%s, what no rule allows: %v", name, r)
		}
	}
	for _, e := range h.auditOf(audit.Exchange) {
		if !strings.Contains(e.Workload.Cgroup, "/box-") || e.Dst.IP.String() != originV4 && e.Dst.IP.String() != originV6 && e.Dst.IP.String() != "203.0.113.12" {
			t.Errorf("%+v %+v", e.Workload, e.Dst)
		}
	}
	if s := h.status(); len(s.Problems) > 0 || !s.EnforcementActive {
		t.Errorf("%+v", s)
	}
}

// TestNamespaceWindow measures how long a new namespace is refused before it is
// open, as a program sees it that connects at once.
func TestNamespaceWindow(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(boxPolicy))
	var slowest, sum time.Duration
	const times = 20
	connects := `b=${EPOCHREALTIME/./}; n=0; until exec 3<>/dev/tcp/` + originV4 + `/80; do n=$((n + 1)); done 2>/dev/null; echo $((${EPOCHREALTIME/./} - b)) $n`
	for range times {
		r := h.run(h.inside("window", 0, "unshare", "--net", "--", "bash", "-c", connects))
		var us int64
		if _, err := fmt.Sscan(r.stdout, &us); err != nil {
			t.Fatalf("%v: %v", err, r)
		}
		window := time.Duration(us) * time.Microsecond
		slowest, sum = max(slowest, window), sum+window
	}
	t.Logf("refused for %s at the slowest, %s on average", slowest, sum/times)
	// An engine needs a while between a container's namespace and its program.
	late, while := 0, time.Duration(0)
	for range times {
		while = patience(250 * time.Millisecond)
		var us int64
		var refused int
		r := h.run(h.inside("window", 0, "unshare", "--net", "--", "bash", "-c", fmt.Sprintf("sleep %.2f; ", while.Seconds())+connects))
		if _, err := fmt.Sscan(r.stdout, &us, &refused); err != nil {
			t.Fatalf("%v: %v", err, r)
		}
		if refused > 0 {
			late++
		}
	}
	t.Logf("%d of %d that connected some 250 ms after the namespace was made were refused at first", late, times)
	if late == times {
		t.Error("every program was refused at first, although it waited")
	}
	if slowest > patience(2*time.Second) {
		t.Errorf("a new namespace was refused for %s", slowest)
	}
}

// TestNamespaceOwnAddresses: what is local to a workload's own namespace is not
// dialled by us, whose loopback is another one; a rule with handling: direct
// reaches it.
func TestNamespaceOwnAddresses(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(`
timeouts: { drain: 1s }
workloads:
  direct: { match: { cgroup: "/*/direct" } }
  other: { match: { cgroup: "/*/other" } }
rules:
  - { name: own, match: { workloads: [direct], cidrs: [127.0.0.0/8, 198.51.100.2/32, 203.0.113.10/32], ports: [8080, 80] }, handling: direct, action: allow }
  - { name: listed, match: { workloads: [other], cidrs: [127.0.0.0/8, 198.51.100.2/32], ports: [8080] }, action: allow }
`))
	// The host's own server on the same address must never be what answers.
	for _, c := range []struct{ where, says string }{{"host", "of the host"}, {"box", "of the box"}} {
		h.write("/srv/www-"+c.where+"/index.html", c.says)
	}
	host := h.command("python3", "-m", "http.server", "-b", "127.0.0.1", "-d", "/srv/www-host", "8080")
	b := h.newBox().plug()
	inBox := b.outside("python3", "-m", "http.server", "-d", "/srv/www-box", "8080")
	for _, c := range []interface{ Start() error }{host, inBox} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { host.Process.Kill(); host.Wait(); inBox.Process.Kill(); inBox.Wait() })
	eventually(t, 10*time.Second, "both servers answer", func() bool {
		return h.sh("curl -sS http://127.0.0.1:8080/").stdout == "of the host" && b.sh("curl -sS http://127.0.0.1:8080/").stdout == "of the box"
	})
	b.occupy("other")
	b.occupy("direct")
	for _, addr := range []string{"127.0.0.1", boxV4, "127.1.2.3"} {
		r := h.run(b.inside("other", nobody, fetches("http://"+addr+":8080/")...))
		if !strings.Contains(r.stdout, `"reason":"address_denied"`) || !strings.Contains(r.stdout, "handling: direct") {
			t.Errorf("%s by us: %v", addr, r)
		}
		eventually(t, 5*time.Second, addr+" directly", func() bool {
			return h.run(b.inside("direct", nobody, "curl", "-4sS", "--max-time", "5", "http://"+addr+":8080/")).stdout == "of the box"
		})
	}
	// Out of the box by a direct rule: through its own cable.
	w := h.tap()
	if r := h.run(b.inside("direct", nobody, "curl", "-4sS", "--max-time", "5", "http://"+originV4+"/")); !strings.Contains(r.stdout, `"ok":true`) || len(w.fromBox()) == 0 {
		t.Errorf("directly to the origin: %v", r)
	}
}

// TestNamespaceInbound: from elsewhere a workload in a namespace of its own answers
// on the ports of `listen` only.
func TestNamespaceInbound(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(`
timeouts: { drain: 1s }
workloads:
  server: { match: { cgroup: "/*/server" }, listen: [8080] }
`))
	b := h.newBox().plug()
	for _, port := range []string{"8080", "8081"} {
		c := b.inside("server", nobody, "python3", "-m", "http.server", "-d", "/srv", port)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	}
	b.open()
	eventually(t, 10*time.Second, "the listed port answers", func() bool {
		return h.sh("curl -sS -o /dev/null --max-time 2 http://"+boxV4+":8080/").code == 0
	})
	eventually(t, 10*time.Second, "the other answers its own namespace", func() bool {
		return b.sh("curl -sS -o /dev/null --max-time 2 http://127.0.0.1:8081/").code == 0
	})
	if r := h.sh("curl -sS -o /dev/null --max-time 2 http://" + boxV4 + ":8081/"); r.code == 0 {
		t.Error("a port that is not listed answered")
	}
	h.waitAudit("an attempt from outside was refused", func(e *audit.Event) bool {
		return e.Kind == audit.Refused && e.Direction == "inbound" && e.Reason == "inbound_denied"
	})
}

// TestNamespaceUnprovable: a namespace whose own administrator makes the probe
// impossible is refused, named, and open again once it can be proven.
func TestNamespaceUnprovable(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(boxPolicy))
	b := h.newBox().plug()
	b.occupy("box")
	// Something before our table takes the probe's second connection away.
	if r := b.sh(`nft 'table inet spoiler { chain output { type filter hook output priority -500; ip daddr 127.0.0.1 tcp flags syn drop; }; }'`); r.code != 0 {
		t.Fatal(r)
	}
	eventually(t, 40*time.Second, "status names it", func() bool {
		p := strings.Join(h.status().Problems, "\n")
		return strings.Contains(p, "box): self-probe: ") && strings.Contains(p, "everything in that network namespace is refused")
	})
	if s := h.status(); !s.EnforcementActive {
		t.Errorf("nothing is open that is not proven: %+v", s)
	}
	h.waitAudit("it is recorded", func(e *audit.Event) bool {
		return e.Kind == audit.Lifecycle && strings.Contains(e.Message, "box): self-probe: ")
	})
	if r := b.sh("nft delete table inet spoiler"); r.code != 0 {
		t.Fatal(r)
	}
	if r := h.run(b.inside("box", nobody, fetches("http://api.example.com/")...)); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("afterwards: %v", r)
	}
	eventually(t, 20*time.Second, "no problem is left", func() bool { return len(h.status().Problems) == 0 })
}

// TestNamespaceOfExec: a command of `exec` without a daemon may make namespaces,
// and what runs there is captured as the rest of it; nothing is left at its end.
func TestNamespaceOfExec(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.warmUp()
	argv := h.exec(h.config(boxPolicy), append([]string{"unshare", "-Un", "--"}, fetches("http://api.example.com/")...)...)
	before := h.snapshot()
	r := h.run(h.command(argv...))
	if !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("%v", r)
	}
	h.goneWithin(goneAfter, before, nil, 0)
}
