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
	late := 0
	for range times {
		var us int64
		var refused int
		r := h.run(h.inside("window", 0, "unshare", "--net", "--", "bash", "-c", "sleep 0.25; "+connects))
		if _, err := fmt.Sscan(r.stdout, &us, &refused); err != nil {
			t.Fatalf("%v: %v", err, r)
		}
		if refused > 0 {
			late++
		}
	}
	t.Logf("%d of %d that connected 250 ms after the namespace was made were refused at first", late, times)
	if late == times {
		t.Error("every program was refused at first, although it waited")
	}
	if slowest > patience(2*time.Second) {
		t.Errorf("a new namespace was refused for %s", slowest)
	}
}

// TestNamespaceLocks: inside a namespace that has a way of its own to the internet
// nothing leaves but by us, with both locks and under each alone, and a flushed
// table comes back.
func TestNamespaceLocks(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putSock()
	d := h.startDaemon(h.config(boxPolicy))
	b := h.newBox().plug()
	// Without us it leads out: what is counted as refused below is refused by us.
	before := h.net.connections.Load()
	if r := b.sh("curl -4sS --max-time 5 http://" + originV4 + "/"); r.code != 0 || h.net.connections.Load() != before+1 {
		t.Fatalf("the box has no way to the internet: %v", r)
	}
	b.occupy("box")
	w := h.tap()
	tries := []string{"socket inet stream 6", "connect " + originV4 + " 7443", "send hello"}
	leaves := func(what string) {
		t.Helper()
		for _, uid := range []int{nobody, 0} {
			h.run(b.inside("box", uid, append([]string{sockPath}, tries...)...))
			h.run(b.inside("box", uid, sockPath, "socket inet dgram 17", "connect "+originV4+" 4433", "send hello"))
			h.run(b.inside("box", uid, sockPath, "socket inet stream 6", "device eth0", "connect "+originV4+" 7443", "send hello"))
		}
		if lines := w.fromBox(); len(lines) > 0 {
			t.Errorf("%s: on the wire: %v", what, lines)
		}
	}
	leaves("both locks")
	if r := h.run(b.inside("box", nobody, fetches("http://api.example.com/")...)); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("by us: %v", r)
	}

	// The daemon sleeps: it must not mend what is tested.
	h.kill(d.pid, unix.SIGSTOP)
	if r := b.sh("nft flush ruleset"); r.code != 0 {
		t.Fatal(r)
	}
	leaves("BPF alone")
	h.kill(d.pid, unix.SIGCONT)
	b.open()
	h.waitEnforced()
	repaired := func(e *audit.Event) bool {
		return e.Kind == audit.Lifecycle && strings.Contains(e.Message, "repaired: guard in a network namespace")
	}
	h.waitAudit("the table inside was repaired", repaired)

	h.kill(d.pid, unix.SIGSTOP)
	h.detach("*")
	leaves("the guard alone")
	h.kill(d.pid, unix.SIGCONT)
	h.waitLocks()
	if r := h.run(b.inside("box", nobody, fetches("http://api.example.com/")...)); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("after both came back: %v", r)
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

// TestNamespaceComeAndGo: namespaces that come and go leave nothing behind.
func TestNamespaceComeAndGo(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.startDaemon(h.config(boxPolicy))
	comes := func(cgroup string) {
		t.Helper()
		if r := h.run(h.inside(cgroup, nobody, append([]string{"unshare", "-Urn", "--"}, fetches("http://api.example.com/")...)...)); !strings.Contains(r.stdout, `"ok":true`) {
			t.Errorf("%s: %v", cgroup, r)
		}
	}
	gone := func() bool {
		return h.scrape(`sallyport_resource_entries{resource="network_namespaces"}`) == 0 &&
			h.scrape(`sallyport_resource_entries{resource="bpf_listeners"}`) == 1
	}
	for i := range 4 {
		comes(fmt.Sprintf("before-%d", i))
	}
	eventually(t, 20*time.Second, "the first are gone", gone)
	keeper, worker := d.pid, h.role("worker")
	fds := [2]int{countFDs(t, keeper), countFDs(t, worker)}
	const times = 200
	for i := range times {
		comes(fmt.Sprintf("come-%d", i%4))
	}
	eventually(t, 20*time.Second, "all are gone", gone)
	eventually(t, 30*time.Second, "no descriptor is left", func() bool {
		return countFDs(t, keeper) <= fds[0]+4 && countFDs(t, worker) <= fds[1]+4
	})
	if s := h.status(); len(s.Problems) > 0 || !s.EnforcementActive {
		t.Errorf("%+v", s)
	}
}

// TestNamespaceGivenUp: a namespace that lives on without tagged processes has
// nothing of ours in it, and is not kept alive by us.
func TestNamespaceGivenUp(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(boxPolicy))
	b := h.newBox()
	c := b.occupy("box")
	c.Process.Kill()
	c.Wait()
	b.shut()
	// A file bound over its handle would tell; its cable does as well.
	b = h.newBox().plug()
	c = b.occupy("box")
	c.Process.Kill()
	c.Wait()
	b.end()
	eventually(t, 10*time.Second, "the namespace has ended with its processes", func() bool {
		return h.sh("ip link show box0").code != 0
	})
}

// TestNamespaceTeardown: what a killed daemon left in a namespace that outlives its
// workload goes with teardown.
func TestNamespaceTeardown(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.startDaemon(h.config(boxPolicy))
	b := h.newBox()
	c := b.occupy("box")
	d.cmd.Process.Kill()
	<-d.ended
	c.Process.Kill()
	c.Wait()
	if !b.tabled() {
		t.Fatal("the table went with the keeper")
	}
	if r := h.run(h.sallyport("teardown", "--stop", "--config", "/srv/daemon/policy.yaml")); r.code != 0 {
		t.Fatal(r)
	}
	if b.tabled() || b.listening() {
		t.Error("teardown left something in the namespace")
	}
}

// TestNamespaceMaker: a workload that makes namespaces without end has its share of
// the places; the others are refused, said, and another workload still gets one.
func TestNamespaceMaker(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(boxPolicy))
	const share = 120
	maker := h.inside("maker", nobody, "bash", "-c", fmt.Sprintf("for i in $(seq %d); do unshare -Urn sleep 300 & done; wait", share+20))
	if err := maker.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.sh("echo 1 > " + h.below("maker") + "/cgroup.kill"); maker.Wait() })
	entries := func() float64 { return h.scrape(`sallyport_resource_entries{resource="network_namespaces"}`) }
	eventually(t, 60*time.Second, "the maker has its share", func() bool { return entries() == share })
	eventually(t, 10*time.Second, "status names it", func() bool {
		return strings.Contains(strings.Join(h.status().Problems, "\n"), "maker): the workload has its 120 of the 240 places")
	})
	if s := h.status(); !s.EnforcementActive {
		t.Errorf("%+v", s)
	}
	started := time.Now()
	if r := h.run(h.inside("another", nobody, append([]string{"unshare", "-Urn", "--"}, fetches("http://api.example.com/")...)...)); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("another workload: %v", r)
	}
	t.Logf("another workload was served after %s", time.Since(started))
	before := h.scrape(`sallyport_bpf_refused_total{reason="no_listener"}`)
	if r := h.run(h.inside("maker", nobody, "unshare", "-Urn", "--", "curl", "-4sS", "--max-time", "5", "http://"+originV4+"/")); r.code == 0 {
		t.Errorf("one more of the maker: %v", r)
	}
	eventually(t, 5*time.Second, "the refusal is counted", func() bool {
		return h.scrape(`sallyport_bpf_refused_total{reason="no_listener"}`) > before
	})
	eventually(t, 5*time.Second, "the maker has no more than its share", func() bool { return entries() == share })
	h.sh("echo 1 > " + h.below("maker") + "/cgroup.kill")
	eventually(t, 20*time.Second, "all places are free", func() bool { return entries() == 0 })
	eventually(t, 10*time.Second, "status has no problem any more", func() bool { return len(h.status().Problems) == 0 })
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

// TestNamespaceOriginalDNS: with `original` the server that the workload asked is
// asked inside its namespace: names that only the engine knows are resolved. A
// server that the workload chose or runs itself is not asked. That holds under one
// lock as well.
func TestNamespaceOriginalDNS(t *testing.T) {
	for _, locks := range []string{"both", "nft"} {
		t.Run(locks, func(t *testing.T) { originalDNS(t, locks) })
	}
}

func originalDNS(t *testing.T, locks string) {
	t.Parallel()
	if _, err := os.Stat("/usr/sbin/dnsmasq"); err != nil {
		t.Fatal("dnsmasq is needed: apt-get install dnsmasq-base")
	}
	h := newHost(t)
	h.locks = locks
	h.startDaemon(h.config(`
timeouts: { drain: 1s }
dns: { upstreams: [original] }
rules:
  - { name: engine, match: { hosts: [db.engine.internal, api.example.com, www.example.com], protocols: [http] }, private: [127.0.0.0/8], action: allow }
`))
	b := h.newBox().plug()
	h.write("/srv/ask.py", askDNS)
	engine := b.outside("dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.11", "--pid-file=",
		"--address=/db.engine.internal/"+originV4, "--address=/www.example.com/"+originV4)
	if err := engine.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.Process.Kill(); engine.Wait() })
	b.occupy("box")
	ask := func(b *box, server, name string) string {
		t.Helper()
		return strings.TrimSpace(h.run(b.inside("box", nobody, "python3", "/srv/ask.py", server, name)).stdout)
	}
	eventually(t, 10*time.Second, "the engine's name is resolved", func() bool { return ask(b, "127.0.0.11", "db.engine.internal") == originV4 })
	if r := h.run(b.inside("box", nobody, "curl", "-4sS", "--max-time", "10", "--resolve", "db.engine.internal:80:"+originV4, "http://db.engine.internal/")); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("the proxy does not know the engine's name: %v", r)
	}
	if got := ask(b, "127.0.0.11", "unlisted.engine.internal"); got != "rcode 3" {
		t.Errorf("a name that no rule lists: %q", got)
	}
	// A server somewhere on the internet, whom the workload may have an
	// understanding with: the host's own server answers instead.
	if got := ask(b, "203.0.113.11", "api.example.com"); got != originV4 {
		t.Errorf("a server of the workload's choice: %q", got)
	}
	// One that the workload runs itself: its answers do not leave it.
	own := b.inside("forger", 0, "dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.12", "--pid-file=", "--address=/www.example.com/203.0.113.14")
	if err := own.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { own.Process.Kill(); own.Wait() })
	eventually(t, 5*time.Second, "it listens", func() bool { return strings.Contains(b.sh("ss -Hlun").stdout, "127.0.0.12:53") })
	if got := ask(b, "127.0.0.12", "www.example.com"); strings.Contains(got, "203.0.113.14") {
		t.Errorf("a server of the workload's own gave %q", got)
	}
	// In a namespace where the workload is root nobody's answers are.
	rooted := `ip link set lo up; dnsmasq --no-daemon --no-resolv --no-hosts --bind-interfaces --listen-address=127.0.0.11 --pid-file= --user=root --address=/www.example.com/203.0.113.14 2>/dev/null &
for i in $(seq 40); do python3 /srv/ask.py 127.0.0.11 www.example.com; sleep 0.1; done; kill %1`
	if r := h.run(h.inside("rooted", nobody, "unshare", "-Urn", "bash", "-c", rooted)); strings.Contains(r.stdout, "203.0.113.14") {
		t.Errorf("a workload that is root in its namespace forged an answer: %v", r)
	}
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

// TestNamespaceOneLock: where the guard captures alone, it does so inside
// namespaces of workloads too; DNS as well.
func TestNamespaceOneLock(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putSock()
	h.locks = "nft"
	h.startDaemon(h.config(boxPolicy))
	h.write("/srv/ask.py", askDNS)
	b := h.newBox().plug()
	b.occupy("box")
	w := h.tap()
	if r := h.run(b.inside("box", nobody, fetches("http://api.example.com/")...)); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("by us: %v", r)
	}
	if r := h.run(b.inside("box", nobody, "python3", "/srv/ask.py", dnsV4, "api.example.com")); !strings.Contains(r.stdout, originV4) {
		t.Errorf("DNS: %v", r)
	}
	h.run(b.inside("box", nobody, sockPath, "socket inet stream 6", "connect "+originV4+" 7443", "send hello"))
	h.run(b.inside("box", nobody, sockPath, "socket inet dgram 17", "connect "+originV4+" 4433", "send hello"))
	if lines := w.fromBox(); len(lines) > 0 {
		t.Errorf("on the wire: %v", lines)
	}
	for _, e := range h.auditOf(audit.Exchange) {
		if !strings.HasSuffix(e.Workload.Cgroup, "/box") || e.Dst.IP.String() != originV4 {
			t.Errorf("%+v %+v", e.Workload, e.Dst)
		}
	}
	// Without a route there is nothing that could be redirected: refused, as without
	// us.
	if r := h.run(h.inside("bare", nobody, "unshare", "-Urn", "--", "curl", "-4sS", "--max-time", "5", "http://"+originV4+"/")); r.code == 0 {
		t.Errorf("without a network: %v", r)
	}
}

// TestNamespaceOneLockAlone: where the guard is the only lock, a namespace that comes
// while no worker serves is shut as soon as it is seen, and left as it was found
// when nothing tagged is there any more.
func TestNamespaceOneLockAlone(t *testing.T) {
	t.Parallel()
	s := prepareServices(t)
	s.keeper.argv = append(s.keeper.argv, "--locks", "nft")
	s.keeper.start()
	s.keeper.waitReady(20 * time.Second)
	b := s.h.newBox().plug()
	enter := []string{"nsenter", "-t", strconv.Itoa(b.pid), "-n", "--"}
	ask := append(enter, "curl", "-4sS", "--max-time", "3", "http://"+originV4+"/")
	// By itself it gets out.
	if r := s.h.run(b.outside(ask[len(enter):]...)); !strings.Contains(r.stdout, `"ok":true`) {
		t.Fatalf("untagged: %v", r)
	}
	eventually(t, 20*time.Second, "the listeners are closed", func() bool {
		return s.get("/fails", "--resolve", "api.example.com:80:"+originV4, "-m", "1").code == 7
	})
	before := s.h.net.connections.Load()
	// From here on it is tagged: refused from the moment that the table is there.
	c := s.command(append(enter, "sleep", "600")...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	eventually(t, 5*time.Second, "the namespace is shut", b.tabled)
	for range 3 {
		if r := s.inside(ask...); r.code == 0 {
			t.Errorf("without a worker: %v", r)
		}
		s.h.run(b.outside("nft", "flush ruleset"))
		eventually(t, 5*time.Second, "a table that was flushed comes back", b.tabled)
	}
	if n := s.h.net.connections.Load() - before; n != 0 {
		t.Errorf("%d connections reached the origin", n)
	}
	if b.listening() {
		t.Error("somebody listens for nobody")
	}
	c.Process.Kill()
	c.Wait()
	eventually(t, 10*time.Second, "nothing of ours is left in an empty namespace", func() bool { return !b.tabled() })
	// With a worker it is opened as any other.
	s.worker.start()
	s.worker.waitReady(20 * time.Second)
	if r := s.inside(append(enter, fetches("http://api.example.com/")...)...); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("with a worker: %v", r)
	}
}

// TestNamespaceManyCgroups: a workload that makes more cgroups than are looked at
// takes nothing from another, whose namespace is found and served, and is named.
func TestNamespaceManyCgroups(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(boxPolicy))
	const many = 4500 // more than all that are looked at
	dir := filepath.Join(cgroupRoot(), h.slice, "hostile")
	for i := range many {
		if err := os.MkdirAll(filepath.Join(dir, strconv.Itoa(i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for i := range many {
			os.Remove(filepath.Join(dir, strconv.Itoa(i)))
		}
		os.Remove(dir)
	})
	b := h.newBox()
	c := b.inside("quiet", nobody, "sleep", "600")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	eventually(t, 30*time.Second, "the namespace of another workload is open", b.listening)
	if r := h.run(b.inside("quiet", nobody, fetches("http://api.example.com/")...)); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("another workload: %v", r)
	}
	eventually(t, 10*time.Second, "status names who made them", func() bool {
		return strings.Contains(strings.Join(h.status().Problems, "\n"), "/hostile has more than its share of the")
	})
	h.waitAudit("who made them", func(e *audit.Event) bool {
		return e.Kind == audit.Lifecycle && strings.Contains(e.Message, "/hostile has more than its share")
	})
}
