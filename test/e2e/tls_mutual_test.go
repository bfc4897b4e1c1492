package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"strings"
	"testing"

	"sallyport/pkg/audit"
)

// putPair writes a client certificate of the internet's own authority.
func (h *host) putPair(path, name string, mode os.FileMode) {
	h.t.Helper()
	m := sign(h.t, h.net.root(), nil, site(name, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }))
	key, err := x509.MarshalPKCS8PrivateKey(m.key)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write(path+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.cert.Raw})))
	h.write(path+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	if err := os.Chmod(h.path(path+".key"), mode); err != nil {
		h.t.Fatal(err)
	}
}

// mutual serves HTTPS on a port of the internet to clients with a certificate;
// it answers with the name in it. Each version of TLS refuses at another time.
func (n *internet) mutual(port string, version uint16, protocols ...string) {
	n.t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(n.ca.Cert)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("client " + r.TLS.PeerCertificates[0].Subject.CommonName))
	})}
	inNetns(n.t, n.ns, func() {
		ln := n.listen(":" + port)
		server.TLSConfig = &tls.Config{
			GetCertificate: n.ca.Certificate, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MaxVersion: version, NextProtos: protocols,
		}
		if len(protocols) == 1 {
			server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){} // no HTTP/2
		}
		go server.ServeTLS(ln, "", "")
	})
	n.t.Cleanup(func() { server.Close() })
}

// TestUpstreamTLS: rules show their own certificates to upstreams that ask, one
// connection never serves two of them, and a rule without one is told what to do.
func TestUpstreamTLS(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.net.mutual("9443", tls.VersionTLS13, "http/1.1")
	h.net.mutual("9444", tls.VersionTLS12, "http/1.1")
	h.net.mutual("9445", tls.VersionTLS13, "h2", "http/1.1")
	h.net.mutual("9446", tls.VersionTLS12, "h2", "http/1.1")
	h.putPair("/etc/sallyport/a", "alice", 0o600)
	h.putPair("/etc/sallyport/b", "bob", 0o640)
	policy := h.config(`
rules:
  - {name: alice, match: {hosts: [api.example.com], paths: [/a/**]}, action: allow, upstream_tls: {cert: /etc/sallyport/a.pem, key: /etc/sallyport/a.key}}
  - {name: bob, match: {hosts: [api.example.com], paths: [/b/**]}, action: allow, upstream_tls: {cert: /etc/sallyport/b.pem, key: /etc/sallyport/b.key}}
  - {name: nobody, match: {hosts: [api.example.com]}, action: allow}`)
	for _, port := range []string{"9443", "9444", "9445", "9446"} {
		at := "https://api.example.com:" + port
		// One connection of curl's, three of ours.
		r := h.run(h.command(h.exec(policy, "curl", "-sS", "-w", answerEnd, at+"/a/1", at+"/b/1", at+"/a/2", at+"/none", at+"/b/2")...))
		answers := answersOf(r.stdout)
		if len(answers) != 5 {
			t.Fatalf("curl: %v", r)
		}
		for i, want := range []string{"client site alice", "client site bob", "client site alice", "", "client site bob"} {
			if want != "" && (answers[i] != curlAnswer{want, "200"}) {
				t.Errorf("port %s, request %d: %+v, want %q", port, i, answers[i], want)
			}
		}
		if a := answers[3]; a.status != "502" || !strings.Contains(a.body, `"reason":"upstream_tls"`) || !strings.Contains(a.body, "give the rule an upstream_tls") {
			t.Errorf("port %s without a certificate: %+v", port, a)
		}
	}
	e := h.waitAudit("bob's exchange", func(e *audit.Event) bool { return e.Rule == "bob" && e.HTTP.Path == "/b/2" })
	if e.Verdict != "allow" || e.HTTP.Status != 200 {
		t.Errorf("%+v", e)
	}
}

// TestUpstreamTLSFiles: what is wrong with a file is said with the place of the
// block that names it, at start and at a reload, which then changes nothing.
func TestUpstreamTLSFiles(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.net.mutual("9443", tls.VersionTLS13, "http/1.1")
	h.putPair("/etc/sallyport/good", "carol", 0o600)
	h.putPair("/etc/sallyport/other", "dave", 0o600)
	h.putPair("/etc/sallyport/open", "eve", 0o644)
	with := func(cert, key string) string {
		return h.config("rules:\n  - name: mutual\n    match: {hosts: [api.example.com]}\n    action: allow\n    upstream_tls: {cert: /etc/sallyport/" + cert + ", key: /etc/sallyport/" + key + "}\n")
	}
	bad := []struct{ cert, key, want string }{
		{"none.pem", "good.key", "/etc/sallyport/none.pem: no such file"},
		{"good.pem", "open.key", "has mode 0644: others could read or change the key"},
		{"good.pem", "other.key", "private key does not match"},
		{"good.key", "good.key", "/etc/sallyport/good.key"},
	}
	for _, tt := range bad {
		r := h.run(h.command(h.exec(with(tt.cert, tt.key), "true")...))
		if r.code == 0 || !strings.Contains(r.stderr, "/srv/policy.yaml:10:19: upstream_tls: ") || !strings.Contains(r.stderr, tt.want) {
			t.Errorf("%s with %s: %v, want an error with its place and %q", tt.cert, tt.key, r, tt.want)
		}
	}
	h.startDaemon(with("good.pem", "good.key"))
	get := func() string {
		return h.run(h.sallyport("exec", "--", "curl", "-sS", "https://api.example.com:9443/")).stdout
	}
	if got := get(); got != "client site carol" {
		t.Errorf("%q", got)
	}
	for _, tt := range bad {
		h.write("/srv/daemon/policy.yaml", with(tt.cert, tt.key))
		r := h.run(h.sallyport("reload"))
		if r.code == 0 || !strings.Contains(r.stderr+r.stdout, "/srv/daemon/policy.yaml:10:19: upstream_tls: ") || !strings.Contains(r.stderr+r.stdout, tt.want) {
			t.Errorf("reload of %s with %s: %v", tt.cert, tt.key, r)
		}
		if got := get(); got != "client site carol" {
			t.Errorf("after a reload that failed: %q", got)
		}
	}
	// A new file under the same name holds from the reload on.
	h.putPair("/etc/sallyport/good", "carol again", 0o600)
	h.write("/srv/daemon/policy.yaml", with("good.pem", "good.key"))
	if r := h.run(h.sallyport("reload")); r.code != 0 {
		t.Fatalf("reload: %v", r)
	}
	if got := get(); got != "client site carol again" {
		t.Errorf("after a reload: %q", got)
	}
}
