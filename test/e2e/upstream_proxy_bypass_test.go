package e2e

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
	"sallyport/pkg/policy/address"
)

// TestUpstreamProxyStandins: an address that stands for a name is good for that
// name and that workload only, by no way whatever for anything else, and not a
// packet to it leaves the host.
func TestUpstreamProxyStandins(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	c.tinyproxy("t")
	c.password("t")
	h := c.h
	h.putSock()
	greeting := func(conn net.Conn) { conn.Write([]byte("220 mail.example.com\r\n")); conn.Read(make([]byte, 1)) }
	h.net.serveTCP(2525, greeting)
	h.startDaemon(h.config(`
upstream_proxy: { url: "http://[` + corpProxyV6 + `]:8888", username: bob, password_file: ` + passwordFile + `, no_proxy: [corp.example] }
rules:
  - { name: kernel-tcp, match: { cidrs: [0.0.0.0/0, "::/0"], ports: [4443] }, action: allow, handling: direct }
  - { name: kernel-udp, match: { cidrs: [198.0.0.0/8, "2001::/16"], ports: [4444], protocols: [udp] }, action: allow, handling: direct }
  - { name: mail, match: { hosts: [api.example.com], ports: [2525], protocols: [tcp] }, action: allow, handling: tunnel }
  - { name: api, match: { hosts: [api.example.com], ports: [80, 443] }, action: allow }
  - { name: internal, match: { hosts: ["*.corp.example"] }, action: allow }
  - { name: wide, match: { cidrs: [0.0.0.0/0, "::/0"], ports: [80, 443, 5000] }, action: allow }
`))
	w := h.tap()
	resolve := func(service, family string) netip.Addr {
		t.Helper()
		r := h.run(h.inside(service, nobody, "getent", family, "api.example.com"))
		addr, err := netip.ParseAddr(strings.Fields(r.stdout + " x")[0])
		if err != nil || !address.IsSynthetic(addr) {
			t.Fatalf("%s: %v", service, r)
		}
		return addr
	}
	a4, a6, b4 := resolve("a.service", "ahostsv4"), resolve("a.service", "ahostsv6"), resolve("b.service", "ahostsv4")
	if again := resolve("a.service", "ahostsv4"); again != a4 || a4 == b4 {
		t.Fatalf("%s, then %s; %s for another workload", a4, again, b4)
	}
	curl := func(service, want string, args ...string) {
		t.Helper()
		r := h.run(h.inside(service, nobody, append([]string{"curl", "-sSk", "-m", "10"}, args...)...))
		if !strings.Contains(r.stdout+r.stderr, want) {
			t.Errorf("%s %v: no %q: %v", service, args, want, r)
		}
	}
	own, foreign := a4.String(), b4.String()
	ok, denied := `"ok":true`, `"reason":"address_denied"`
	url := "https://api.example.com/"
	// What works: the name by its own address, also as the target of CONNECT, and
	// a server that speaks first.
	curl("a.service", ok, "--resolve", "api.example.com:443:"+own, url)
	curl("a.service", ok, "--resolve", "api.example.com:443:["+a6.String()+"]", url)
	curl("a.service", ok, "-x", "http://192.0.2.9:3128", "--connect-to", "::"+own+":443", url)
	if got := h.sock("a.service", nobody, "socket inet stream 0", "patience 20000", "connect "+own+" 2525", "recv"); !strings.Contains(strings.Join(got, "\n"), "220 mail.example.com") {
		t.Errorf("a server that speaks first: %q", got)
	}
	// What does not: the address of another workload, one that stands for
	// nothing, and each embedded in another.
	for _, addr := range []string{foreign, "198.18.77.77", "198.19.255.255"} {
		curl("a.service", denied, "--resolve", "api.example.com:443:"+addr, url)
		curl("a.service", denied, "--resolve", "api.example.com:80:[::ffff:"+addr+"]", "http://api.example.com/")
		curl("a.service", "403", "-x", "http://192.0.2.9:3128", "--connect-to", "::"+addr+":443", url)
		curl("a.service", denied, "http://"+addr+"/")
		curl("a.service", denied, "-x", "http://192.0.2.9:3128", "http://"+addr+"/")
	}
	curl("a.service", denied, "--resolve", "api.example.com:443:[2001:2::7777]", url)
	curl("a.service", denied, "--resolve", "api.example.com:443:[64:ff9b::c612:4d4d]", url)
	curl("a.service", denied, "http://"+own+"/") // the address is not the name
	// A name of the company whose answer points there.
	curl("a.service", "Could not resolve", "https://rebound.corp.example/")
	for _, tt := range [][]string{
		// Captured and reset before anything is said, although a rule by address
		// covers everything.
		{"socket inet stream 0", "patience 20000", "connect 198.18.77.77 5000", "sendhex 00ff00ff", "recv"},
		{"socket inet stream 0", "patience 20000", "connect " + foreign + " 5000", "sendhex 00ff00ff", "recv"},
		{"socket inet6 stream 0", "patience 20000", "connect 2001:2::7777 5000", "sendhex 00ff00ff", "recv"},
		{"socket inet6 stream 0", "patience 20000", "connect ::ffff:198.18.77.77 5000", "sendhex 00ff00ff", "recv"},
		// The kernel's own rules leave the space alone.
		{"socket inet stream 0", "patience 20000", "connect " + own + " 4443", "sendhex 00ff00ff", "recv"},
		{"socket inet6 stream 0", "patience 20000", "connect " + a6.String() + " 4443", "sendhex 00ff00ff", "recv"},
	} {
		got := strings.Join(h.sock("a.service", nobody, tt...), "\n")
		if !strings.Contains(got, "recv ECONNRESET") && !strings.Contains(got, "connect E") {
			t.Errorf("%v: %s", tt, got)
		}
	}
	for _, tt := range [][]string{
		{"socket inet dgram 0", "sendto " + own + " 4444 x"},
		{"socket inet6 dgram 0", "sendto " + a6.String() + " 4444 x"},
		{"socket inet6 dgram 0", "sendto ::ffff:" + own + " 4444 x"},
		{"socket inet dgram 0", "connect " + own + " 443", "send x"},
	} {
		if got := strings.Join(h.sock("a.service", nobody, tt...), "\n"); !strings.Contains(got, "EPERM") {
			t.Errorf("%v: %s", tt, got)
		}
	}
	e := h.waitAudit("the refusal of a foreign address", func(e *audit.Event) bool {
		return e.Kind == audit.Refused && e.Dst.IP == b4 && e.Dst.Port == 5000
	})
	if e.Reason != "address_denied" || !strings.Contains(e.Message, "stands for no name") {
		t.Errorf("%+v", e)
	}
	c.onlyCompanyNames()
	for _, line := range w.packets() {
		if strings.Contains(line, "198.18.") || strings.Contains(line, "198.19.") || strings.Contains(line, "2001:2:") || strings.Contains(line, "64:ff9b") {
			t.Errorf("left the host: %s", line)
		}
	}
}

// TestUpstreamProxyReload: what a program was told before a reload leads where
// the configuration of now says, in both directions.
func TestUpstreamProxyReload(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	c.tinyproxy("t")
	c.password("t")
	h := c.h
	conf := func(noProxy, url string) string {
		return h.config(`
dns: { upstreams: [` + dnsV4 + `] }
upstream_proxy: ` + map[bool]string{true: `{ url: "" }`, false: `{ url: "` + url + `", username: bob, password_file: ` + passwordFile + `, no_proxy: [` + noProxy + `] }`}[url == ""] + `
rules:
  - { name: api, match: { hosts: [v4.example.com], ports: [443] }, action: allow }
`)
	}
	const url = "http://[" + corpProxyV6 + "]:8888"
	h.startDaemon(conf("corp.example", url))
	reload := func(text string) {
		t.Helper()
		h.write(daemonConfig, text)
		if r := h.run(h.sallyport("reload", "--config", daemonConfig)); r.code != 0 {
			t.Fatalf("reload: %v", r)
		}
	}
	resolve := func() string {
		t.Helper()
		r := h.run(h.inside("a.service", nobody, "getent", "ahostsv4", "v4.example.com"))
		return strings.Fields(r.stdout + " x")[0]
	}
	get := func(path, addr, want string) {
		t.Helper()
		r := h.run(h.inside("a.service", nobody, "curl", "-sSk", "-m", "10", "--resolve", "v4.example.com:443:"+addr, "https://v4.example.com"+path))
		if !strings.Contains(r.stdout, `"ok":true`) {
			t.Errorf("%s: %v", path, r)
			return
		}
		e := h.waitAudit(path, func(e *audit.Event) bool { return e.Kind == audit.Exchange && e.HTTP.Path == path })
		if e.Upstream.IP.String() != want || e.Upstream.Target != "v4.example.com:443" {
			t.Errorf("%s went to %+v, want %s", path, e.Upstream, want)
		}
	}
	standin := resolve()
	get("/proxied", standin, corpProxyV6)
	reload(conf("v4.example.com", url))
	if got := resolve(); got != originV4 {
		t.Errorf("a name of no_proxy is told as %s", got)
	}
	get("/now-direct", standin, originV4)
	get("/direct", originV4, originV4)
	reload(conf("corp.example", url))
	get("/proxied-again", originV4, corpProxyV6)
	if got := resolve(); got != standin {
		t.Errorf("told as %s, then as %s", standin, got)
	}
	reload(conf("", ""))
	get("/without-proxies", standin, originV4)
	// A restart forgets what was told: the program must ask again.
	reload(conf("corp.example", url))
	before := h.workerPID()
	h.kill(before, unix.SIGKILL)
	eventually(t, 15*time.Second, "another worker", func() bool { pid := h.role("worker"); return pid != 0 && pid != before })
	r := h.run(h.inside("a.service", nobody, "curl", "-sSk", "-m", "10", "--retry", "20", "--retry-delay", "1", "--retry-connrefused", "--resolve", "v4.example.com:443:"+standin, "https://v4.example.com/stale"))
	if !strings.Contains(r.stdout, "stands for no name that this workload was told lately") {
		t.Errorf("%v", r)
	}
	get("/fresh", resolve(), corpProxyV6)
}
