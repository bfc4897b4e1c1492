package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// TestUpstreamProxyFaults: what the proxy answered, or did not, reaches the
// workload and the audit; a reload takes a new password.
func TestUpstreamProxyFaults(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	squid := c.squid("right")
	c.password("wrong")
	h := c.h
	answers := map[int]string{
		9101: "SSH-2.0-OpenSSH_9.9\r\n", 9102: "", 9103: "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n<html>",
		9104: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 64<<10), 9105: "HTTP/1.1 407 Who\r\nProxy-Authenticate: Negotiate\r\n\r\n",
		9106: "HTTP/1.1 200 OK\r\n\r\nthis is no TLS at all, and never was",
	}
	var rules strings.Builder
	rules.WriteString("rules:\n  - { name: api, match: { hosts: [api.example.com] }, action: allow }\n")
	for port, answer := range answers {
		h.net.serveTCP(port, func(conn net.Conn) {
			io.ReadAtLeast(conn, make([]byte, 256), 30)
			io.WriteString(conn, answer)
			io.Copy(io.Discard, conn)
		})
		limit := "20s"
		if answer == "" {
			limit = "700ms"
		}
		fmt.Fprintf(&rules, "  - { name: r%d, match: { hosts: [h%d.example.com] }, action: allow, timeouts: { connect: %s }, upstream_proxy: { url: 'http://%s:%d' } }\n", port, port, limit, originV4, port)
	}
	rules.WriteString("  - { name: nowhere, match: { hosts: [nowhere.example.com] }, action: allow, upstream_proxy: { url: 'http://unknown.corp.example' } }\n")
	rules.WriteString("  - { name: loop, match: { hosts: [loop.example.com] }, action: allow, upstream_proxy: { url: 'http://127.0.0.1:15001' } }\n")
	h.ownAccounts()
	h.startDaemon(c.corpConfig(rules.String()))
	fetch := func(url string, want ...string) (took time.Duration) {
		t.Helper()
		start := time.Now()
		r := h.run(h.command(as(alice, h.execBy("curl", "-sS", "-m", "60", "-w", " status %{http_code}", url)...)...))
		for _, w := range want {
			if !strings.Contains(r.stdout+r.stderr, w) {
				t.Errorf("%s: no %q: %v", url, w, r)
			}
		}
		if strings.Contains(r.stdout+r.stderr, "wrong") || strings.Contains(r.stdout, "right") {
			t.Errorf("%s: the password is told: %v", url, r)
		}
		// Nothing here may wait for the end of a limit of 20 s.
		if took = time.Since(start); took > patience(15*time.Second) {
			t.Errorf("%s took %v", url, took)
		}
		return took
	}
	const unreachable = `"reason":"upstream_unreachable"`
	fetch("https://api.example.com/", unreachable, "status 502", "407 Proxy Authentication Required", "does not accept the username and password")
	fetch("http://api.example.com/", unreachable, "status 502", "407")
	e := h.waitAudit("the refusal", func(e *audit.Event) bool { return e.Kind == audit.Exchange && e.HTTP.Status == 502 })
	if e.Reason != "upstream_unreachable" || e.Upstream.Target != "api.example.com:443" || e.Upstream.IP.String() != corpProxy && e.Upstream.IP.String() != corpProxyV6 || !strings.Contains(e.Message, "407") {
		t.Errorf("%+v", e)
	}
	c.password("right")
	if r := h.run(h.sallyport("reload", "--config", daemonConfig)); r.code != 0 {
		t.Fatalf("reload: %v", r)
	}
	fetch("https://api.example.com/after", `"path":"/after"`)
	fetch("https://h9101.example.com/", unreachable, "502", "no HTTP")
	best(t, "the end of 700 ms", 5*time.Second, func() time.Duration {
		return fetch("https://h9102.example.com/", `"reason":"upstream_timeout"`, "status 504", "did not answer CONNECT h9102.example.com:443 in time")
	})
	fetch("https://h9103.example.com/", unreachable, "503 Service Unavailable")
	fetch("http://h9103.example.com/", unreachable, "503 Service Unavailable")
	fetch("https://h9104.example.com/", unreachable, "a head of more than")
	fetch("https://h9105.example.com/", unreachable, "wants Negotiate")
	fetch("https://h9106.example.com/", `"reason":"upstream_tls"`, "status 502")
	fetch("https://nowhere.example.com/", unreachable, "unknown.corp.example cannot be resolved")
	fetch("https://loop.example.com/", unreachable, "is sallyport itself")
	syscall.Kill(-squid.Process.Pid, syscall.SIGKILL)
	squid.Wait()
	fetch("https://api.example.com/down", unreachable, "is not reached", "connection refused")
	// A password that nobody may have: the reload changes nothing and says why.
	if r := h.sh("chmod 644 " + passwordFile); r.code != 0 {
		t.Fatal(r)
	}
	if r := h.run(h.sallyport("reload", "--config", daemonConfig)); r.code == 0 || !strings.Contains(r.stdout+r.stderr, "password_file") {
		t.Errorf("reload with a password that anybody can read: %v", r)
	}
	c.onlyCompanyNames()
}

// TestUpstreamProxyRules: a rule's own proxy, or none, goes before the file's; a
// name that leaves in two ways is resolved only where it leaves directly.
func TestUpstreamProxyRules(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	c.squid("s")
	c.tinyproxy("t")
	c.password("s")
	h := c.h
	h.write("/etc/sallyport/tiny-password", "")
	if r := h.sh("chmod 600 /etc/sallyport/tiny-password && echo t > /etc/sallyport/tiny-password"); r.code != 0 {
		t.Fatal(r)
	}
	// This one is known to the company too, at another address than outside.
	c.start("dnsmasq", corpDNS+":54", "dnsmasq", "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user=root", "--pid-file=", "--port=54",
		"--listen-address="+corpDNS, "--log-queries", "--log-facility="+c.path("dns54.log"),
		"--host-record=proxy.corp.example,"+corpProxy, "--host-record=mixed.example.com,203.0.113.11", "--host-record=bare.example.com,203.0.113.12")
	h.net.setName("mixed.example.com", originV4)
	h.ownAccounts()
	h.startDaemon(c.corpConfig(`
dns: { upstreams: ["` + corpDNS + `:54"] }
rules:
  - { name: tiny, match: { hosts: [v4.example.com] }, action: allow, upstream_proxy: { url: "http://[` + corpProxyV6 + `]:8888", username: bob, password_file: /etc/sallyport/tiny-password } }
  - { name: encrypted, match: { hosts: [other.example.com] }, action: allow, upstream_proxy: { url: "https://proxy.corp.example:3129", username: alice, password_file: ` + passwordFile + ` } }
  - { name: misnamed, match: { hosts: [registry.example.com] }, action: allow, upstream_proxy: { url: "https://` + corpProxy + `:3129" } }
  - { name: bare, match: { hosts: [bare.example.com] }, action: allow, upstream_proxy: { url: "" } }
  - { name: mixed-proxied, match: { hosts: [mixed.example.com], paths: [/proxied] }, action: allow }
  - { name: mixed-direct, match: { hosts: [mixed.example.com], cidrs: [203.0.113.0/24], paths: [/direct] }, action: allow, upstream_proxy: { url: "" } }
  - { name: api, match: { hosts: [api.example.com] }, action: allow }
  - { name: address, match: { cidrs: [203.0.113.13, 10.0.0.0/8] }, action: allow }
`))
	for _, tt := range []struct{ url, rule, ip, target string }{
		{"https://mixed.example.com/proxied", "mixed-proxied", corpProxy, "mixed.example.com:443"},
		{"https://v4.example.com/tiny", "tiny", corpProxyV6, "v4.example.com:443"},
		{"https://bare.example.com/bare", "bare", "203.0.113.12", "bare.example.com:443"},
		{"https://api.example.com/file", "api", corpProxy, "api.example.com:443"},
		{"https://other.example.com/encrypted", "encrypted", corpProxy, "other.example.com:443"},
		{"http://other.example.com/clear", "encrypted", corpProxy, "other.example.com:80"},
		// An address is judged as such and asked of the proxy as such.
		{"http://203.0.113.13/address", "address", corpProxy, "203.0.113.13:80"},
	} {
		r := h.run(h.command(as(alice, h.execBy("curl", "-sS", "-m", "10", tt.url)...)...))
		path := tt.url[strings.LastIndexByte(tt.url, '/'):]
		if !strings.Contains(r.stdout, `"path":"`+path+`"`) {
			t.Errorf("%s: %v", tt.url, r)
			continue
		}
		e := h.waitAudit(tt.url, func(e *audit.Event) bool { return e.Kind == audit.Exchange && e.HTTP.Path == path })
		if e.Rule != tt.rule || e.Upstream.IP.String() != tt.ip || e.Upstream.Target != tt.target {
			t.Errorf("%s: rule %q, %+v", tt.url, e.Rule, e.Upstream)
		}
	}
	// A program with variables of its own: the proxy that they name is known, and
	// what is asked of it is judged by its target.
	for url, want := range map[string]string{"https://api.example.com/variable": `"path":"/variable"`, "http://api.example.com/variable": `"path":"/variable"`, "https://denied.example.com/": "403"} {
		r := h.run(h.command(as(alice, h.execBy("env", "https_proxy=http://w:p@proxy.corp.example:3128", "http_proxy=http://proxy.corp.example:3128", "curl", "-sS", "-m", "10", url)...)...))
		if !strings.Contains(r.stdout+r.stderr, want) {
			t.Errorf("%s by variable: %v", url, r)
		}
	}
	if r := h.run(h.command(as(alice, h.execBy("curl", "-sS", "-m", "10", "http://proxy.corp.example:3128/")...)...)); !strings.Contains(r.stdout, `"reason":"no_rule"`) {
		t.Errorf("the proxy itself: %v", r)
	}
	misnamed := h.run(h.command(as(alice, h.execBy("curl", "-sS", "-m", "10", "https://registry.example.com/")...)...))
	if !strings.Contains(misnamed.stdout, `"reason":"upstream_tls"`) || !strings.Contains(misnamed.stdout, "the upstream proxy https://"+corpProxy+":3129: the upstream's certificate is not for "+corpProxy) {
		t.Errorf("%v", misnamed)
	}
	if log := c.read("dns54.log"); strings.Contains(log, "mixed.example.com") || strings.Contains(log, "v4.example.com") {
		t.Errorf("asked before it was needed:\n%s", log)
	}
	r := h.run(h.command(as(alice, h.execBy("curl", "-sS", "-m", "10", "https://mixed.example.com/direct")...)...))
	if !strings.Contains(r.stdout, `"path":"/direct"`) {
		t.Errorf("%v", r)
	}
	e := h.waitAudit("the direct one", func(e *audit.Event) bool { return e.Kind == audit.Exchange && e.HTTP.Path == "/direct" })
	if e.Rule != "mixed-direct" || e.Upstream.IP.String() != "203.0.113.11" {
		t.Errorf("rule %q, %+v", e.Rule, e.Upstream)
	}
	r = h.run(h.sallyport("policy", "explain", "--config", daemonConfig, "--workload", "curl", "https://v4.example.com/"))
	if !strings.Contains(r.stdout, "http://["+corpProxyV6+"]:8888") {
		t.Errorf("explain does not tell the proxy: %v", r)
	}
}
