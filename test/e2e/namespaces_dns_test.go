package e2e

import (
	"os"
	"strings"
	"testing"
	"time"
)

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
	r := h.run(h.inside("rooted", nobody, "unshare", "-Urn", "bash", "-c", rooted))
	answers := r.stdout
	if locks == "nft" {
		// Nobody guards a namespace there until it is found.
		for before, found := "203.0.113.14\n", true; found; {
			answers, found = strings.CutPrefix(answers, before)
		}
	}
	if strings.Contains(answers, "203.0.113.14") || !strings.Contains(answers, "rcode 3") {
		t.Errorf("a workload that is root in its namespace forged an answer: %v", r)
	}
}
