package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// Addresses of a company's network: a name server that knows the company's names
// and nothing else, and the only proxies that reach the internet.
const (
	corpDNS      = "203.0.113.54"
	corpProxy    = "203.0.113.14"
	corpProxyV6  = "2001:db8:113::14"
	squidPort    = "3128"
	tinyPort     = "8888"
	passwordFile = "/etc/sallyport/proxy-password"
)

// A company is the network in which a host stands.
type company struct {
	h   *host
	dir string
}

// newCompany starts the name server. The host asks nobody else.
func newCompany(t *testing.T) *company {
	t.Helper()
	h := newHost(t)
	dir, err := os.MkdirTemp("", "company")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	// The servers give up their privileges.
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	c := &company{h, dir}
	inNetns(t, h.net.ns, func() {
		sh(t, "ip addr add "+corpDNS+"/24 dev ve0")
		sh(t, "ip -6 addr add "+corpProxyV6+"/64 dev ve0 nodad")
	})
	h.write("/etc/resolv.conf", "nameserver "+corpDNS+"\n")
	c.start("dnsmasq", corpDNS+":53", "dnsmasq", "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user=root", "--pid-file=",
		"--listen-address="+corpDNS, "--log-queries", "--log-facility="+c.path("dns.log"),
		"--host-record=proxy.corp.example,"+corpProxy+","+corpProxyV6, "--host-record=git.corp.example,203.0.113.13",
		"--host-record=db.corp.example,10.0.0.1", "--host-record=rebound.corp.example,198.18.0.1")
	return c
}

func (c *company) path(name string) string { return filepath.Join(c.dir, name) }

func (c *company) write(name, content string) {
	c.h.t.Helper()
	if err := os.WriteFile(c.path(name), []byte(content), 0o644); err != nil {
		c.h.t.Fatal(err)
	}
}

func (c *company) read(name string) string {
	b, _ := os.ReadFile(c.path(name))
	return string(b)
}

// logs waits until a server has written something down, which it may do later than it
// has answered.
func (c *company) logs(name, text string) {
	c.h.t.Helper()
	for start := time.Now(); !strings.Contains(c.read(name), text); time.Sleep(10 * time.Millisecond) {
		if late(start, 10*time.Second) {
			c.h.t.Errorf("%s has no %q:\n%s", name, text, c.read(name))
			return
		}
	}
}

// start runs a server of the network until the test ends, and waits until it
// listens.
func (c *company) start(name, addr string, argv ...string) *exec.Cmd {
	t := c.h.t
	t.Helper()
	cmd := exec.Command("unshare", append([]string{"-m", "--", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, c.path("resolv.conf")}, argv...)...)
	// What the proxies ask is answered by the internet's own name server.
	c.write("resolv.conf", "nameserver "+dnsV4+"\n")
	out := &syncBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	// squid has a process of its own that writes its log.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	inNetns(t, c.h.net.ns, func() {
		if err := cmd.Start(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	if cmd.Process == nil {
		t.FailNow()
	}
	t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); cmd.Wait() })
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		var err error
		inNetns(t, c.h.net.ns, func() {
			var conn net.Conn
			if conn, err = net.DialTimeout("tcp", addr, time.Second); err == nil {
				conn.Close()
			}
		})
		if err == nil {
			return cmd
		}
		if late(start, 15*time.Second) {
			t.Fatalf("%s does not listen: %v\n%s", name, err, out)
		}
	}
}

// squid starts squid with one user, on both families.
func (c *company) squid(password string) *exec.Cmd {
	c.h.t.Helper()
	hash, err := exec.Command("openssl", "passwd", "-apr1", password).Output()
	if err != nil {
		c.h.t.Fatal(err)
	}
	c.write("passwd", "alice:"+string(hash))
	c.certificate("proxy.corp.example")
	c.write("squid.conf", strings.NewReplacer("DIR", c.dir).Replace(`
http_port `+corpProxy+`:3128
http_port [`+corpProxyV6+`]:3128
https_port `+corpProxy+`:3129 tls-cert=DIR/proxy.pem tls-key=DIR/proxy.key
auth_param basic program /usr/lib/squid/basic_ncsa_auth DIR/passwd
auth_param basic children 1 startup=1
auth_param basic credentialsttl 1 second
acl authed proxy_auth REQUIRED
acl forbidden dstdomain denied.example.com
http_access deny forbidden
http_access allow authed
http_access deny all
dns_nameservers `+dnsV4+`
access_log stdio:DIR/squid.log
cache_log DIR/cache.log
pid_filename none
cache deny all
cache_mem 1 MB
via off
visible_hostname proxy.corp.example
shutdown_lifetime 0 seconds
connect_timeout 20 seconds
dns_timeout 20 seconds
`))
	return c.start("squid", corpProxy+":"+squidPort, "squid", "-N", "-f", c.path("squid.conf"))
}

// certificate writes a certificate of the internet's authority, with its key.
func (c *company) certificate(name string) {
	c.h.t.Helper()
	cert, err := c.h.net.ca.Issue(name, time.Now().Add(time.Hour))
	if err != nil {
		c.h.t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		c.h.t.Fatal(err)
	}
	c.write("proxy.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})))
	c.write("proxy.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
}

// serveHTTP2 starts an origin that speaks HTTP/2.
func (c *company) serveHTTP2(port string) {
	t := c.h.t
	t.Helper()
	inNetns(t, c.h.net.ns, func() {
		ln := tls.NewListener(c.h.net.listen(":"+port), &tls.Config{GetCertificate: c.h.net.ca.Certificate, NextProtos: []string{"h2", "http/1.1"}})
		srv := &http.Server{Handler: http.HandlerFunc(c.h.net.answer)}
		go srv.Serve(ln)
		t.Cleanup(func() { srv.Close() })
	})
}

// tinyproxy starts tinyproxy with one user, on the IPv6 address only.
func (c *company) tinyproxy(password string) *exec.Cmd {
	c.h.t.Helper()
	c.write("tinyproxy.conf", fmt.Sprintf("Port %s\nListen %s\nTimeout 60\nMaxClients 20\nLogFile %q\nLogLevel Connect\nBasicAuth bob %s\n", tinyPort, corpProxyV6, c.path("tiny.log"), password))
	return c.start("tinyproxy", "["+corpProxyV6+"]:"+tinyPort, "tinyproxy", "-d", "-c", c.path("tinyproxy.conf"))
}

// password puts a password where the configuration says.
func (c *company) password(text string) {
	c.h.t.Helper()
	c.h.write(passwordFile, "")
	if err := os.Chmod(c.h.path(passwordFile), 0o600); err != nil {
		c.h.t.Fatal(err)
	}
	c.h.write(passwordFile, text+"\n")
}

// onlyCompanyNames checks what the company's name server was asked.
func (c *company) onlyCompanyNames() {
	c.h.t.Helper()
	asked := 0
	for line := range strings.Lines(c.read("dns.log")) {
		if !strings.Contains(line, ": query[") {
			continue
		}
		asked++
		if !strings.Contains(line, "corp.example from ") {
			c.h.t.Errorf("the name server was asked: %s", line)
		}
	}
	if asked == 0 {
		c.h.t.Error("the name server was asked nothing: the test looks at the wrong place")
	}
}

// corpConfig is what an operator of that network writes.
func (c *company) corpConfig(rules string) string {
	return c.h.config(`
upstream_proxy:
  url: http://proxy.corp.example:3128
  username: alice
  password_file: ` + passwordFile + `
  no_proxy: [corp.example]
` + rules)
}

const corpRules = `
rules:
  - name: api
    match: { hosts: [api.example.com], paths: ["/v1/**"] }
    action: allow
  - name: tunnelled
    match: { hosts: [other.example.com] }
    action: allow
    handling: tunnel
  - name: forbidden-there
    match: { hosts: [denied.example.com] }
    action: allow
  - name: internal
    match: { hosts: ["*.corp.example"] }
    action: allow
`

// TestUpstreamProxySquid: real clients reach names that nobody here resolves,
// inspected and tunnelled, and the company's own names without the proxy.
func TestUpstreamProxySquid(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	c.squid("correct horse")
	c.password("correct horse")
	h := c.h
	h.ownAccounts()
	c.serveHTTP2("9443")
	h.startDaemon(c.corpConfig(corpRules))
	w := h.tap()
	python := `import requests,sys; r=requests.get(sys.argv[1]); print(r.status_code, r.json()["path"])`
	node := `fetch(process.argv[1]).then(async r=>console.log(r.status,(await r.json()).path)).catch(e=>{console.log(e);process.exit(1)})`
	for _, tt := range []struct {
		name string
		argv []string
		want string
	}{
		{"curl", []string{"curl", "-sS", "-H", "Proxy-Authorization: Basic d29ya2xvYWQ=", "https://api.example.com/v1/curl"}, `"path":"/v1/curl"`},
		{"curl-http", []string{"curl", "-sS", "http://api.example.com/v1/clear"}, `"path":"/v1/clear"`},
		{"curl-ipv6", []string{"curl", "-6sS", "https://api.example.com/v1/six"}, `"path":"/v1/six"`},
		{"curl-port", []string{"curl", "-sS", "https://api.example.com:8443/v1/port"}, `"path":"/v1/port"`},
		{"http2", []string{"curl", "-sS", "-w", " HTTP/%{http_version}", "https://api.example.com:9443/v1/h2"}, " HTTP/2"},
		{"curl-refused", []string{"curl", "-sS", "https://api.example.com/v2"}, `"reason":"no_rule"`},
		{"python", []string{"python3", "-c", python, "https://api.example.com/v1/python"}, "200 /v1/python"},
		{"node", []string{"node", "-e", node, "https://api.example.com/v1/node"}, "200 /v1/node"},
		{"tunnel", []string{"curl", "-sS", "--cacert", "/usr/local/share/ca-certificates/internet.crt", "https://other.example.com/tunnelled"}, `"path":"/tunnelled"`},
		// By a proxy variable, the name in CONNECT and in the request line.
		{"variable", []string{"curl", "-sS", "-x", "http://192.0.2.1:3128", "https://api.example.com/v1/connect"}, `"path":"/v1/connect"`},
		{"absolute", []string{"curl", "-sS", "-x", "http://192.0.2.1:3128", "--proxy-user", "a:b", "http://api.example.com/v1/absolute"}, `"path":"/v1/absolute"`},
		{"internal", []string{"curl", "-sS", "https://git.corp.example/repo"}, `"path":"/repo"`},
		{"internal-class", []string{"curl", "-sS", "https://db.corp.example/"}, `"reason":"address_denied"`},
		{"forbidden", []string{"curl", "-sS", "https://denied.example.com/"}, "403 Forbidden"},
		{"unlisted", []string{"curl", "-sS", "https://registry.example.com/"}, "Could not resolve"},
	} {
		r := h.run(h.command(as(alice, h.execBy(tt.argv...)...)...))
		if !strings.Contains(r.stdout+r.stderr, tt.want) {
			t.Errorf("%s: %v", tt.name, r)
		}
	}
	for _, e := range h.auditOf(audit.Exchange) {
		proxied := strings.HasPrefix(e.HTTP.Path, "/v1/")
		if proxied && (e.Upstream.IP.String() != corpProxy && e.Upstream.IP.String() != corpProxyV6 || !strings.HasPrefix(e.Upstream.Target, "api.example.com:") || e.Dst.Host != "api.example.com") {
			t.Errorf("%s went to %+v, %+v", e.HTTP.Path, e.Upstream, e.Dst)
		}
		if e.HTTP.Path == "/repo" && e.Upstream.IP.String() != "203.0.113.13" {
			t.Errorf("an internal name went to %+v", e.Upstream)
		}
	}
	e := h.waitAudit("what the proxy refused", func(e *audit.Event) bool { return e.HTTP.Host == "denied.example.com" && e.Kind == audit.Exchange })
	if e.Reason != "upstream_unreachable" || e.HTTP.Status != 502 || !strings.Contains(e.Message, "answered CONNECT denied.example.com:443 with 403 Forbidden") {
		t.Errorf("%+v", e)
	}
	h.waitAudit("the tunnel", func(e *audit.Event) bool {
		return e.Kind == audit.FlowOpen && e.Upstream.Target == "other.example.com:443" && (e.Upstream.IP.String() == corpProxy || e.Upstream.IP.String() == corpProxyV6) && e.TLS.Handling == "tunnel"
	})
	for _, r := range h.net.seen() {
		for name, values := range r.Header {
			if strings.HasPrefix(name, "Proxy-") {
				t.Errorf("%s got %s: %v", r.Path, name, values)
			}
		}
	}
	// It writes a CONNECT down when that ends; those of api.example.com wait in the
	// pool for the next request.
	c.logs("squid.log", "CONNECT other.example.com:443 alice")
	c.onlyCompanyNames()
	// Nothing else left the host, by whatever way.
	for _, line := range w.packets() {
		_, dst, _ := strings.Cut(line, "> ")
		if !slices.Contains([]string{corpDNS + ":53", corpProxy + ":3128", "[" + corpProxyV6 + "]:3128", corpProxyV6 + ":3128", "203.0.113.13:443"}, dst) {
			t.Errorf("left the host: %s", line)
		}
	}
	if strings.Contains(h.run(h.sallyport("config", "show", "/srv/daemon/policy.yaml")).stdout, "horse") {
		t.Error("the password is shown")
	}
	if n := h.scrape(`sallyport_resource_entries{resource="dns_standins"}`); n < 2 {
		t.Errorf("%v addresses stand for names", n)
	}
}

// TestUpstreamProxyExec: the same without a daemon, and only by IPv6.
func TestUpstreamProxyExec(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	c.tinyproxy("tiny")
	c.password("tiny")
	h := c.h
	policy := h.config(`
mode: observe
upstream_proxy: { url: "http://[` + corpProxyV6 + `]:8888", username: bob, password_file: ` + passwordFile + `, no_proxy: [.corp.example] }
`)
	r := h.run(h.command(h.exec(policy, "curl", "-sS", "https://api.example.com/by-exec", "http://api.example.com/clear", "https://git.corp.example/internal")...))
	for _, path := range []string{"/by-exec", "/clear", "/internal"} {
		if !strings.Contains(r.stdout, `"path":"`+path+`"`) {
			t.Errorf("%s: %v", path, r)
		}
	}
	e := h.waitAudit("the exchange", func(e *audit.Event) bool { return e.Kind == audit.Exchange && e.HTTP.Path == "/by-exec" })
	if e.Verdict != "would_deny" || e.Upstream.IP.String() != corpProxyV6 || e.Upstream.Target != "api.example.com:443" {
		t.Errorf("%+v", e)
	}
	c.logs("tiny.log", "CONNECT api.example.com:443 HTTP/1.1")
	c.onlyCompanyNames()
}
