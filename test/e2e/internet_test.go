package e2e

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sallyport/test/outside"
)

// An internet is the other end of the host's cable: a DNS server, and origins
// that speak HTTP and HTTPS under every name, and count who came.
type internet struct {
	t   *testing.T
	ns  *os.File
	ca  *outside.Authority
	web *http.Server

	mu       sync.Mutex
	names    map[string][]string // name → addresses; nothing else exists
	queries  []string            // what DNS was asked
	requests []seenRequest       // what HTTP was asked

	// connections counts every TCP connection that reached any origin listener.
	connections atomic.Int64
	// handler, when set, answers instead of the echo.
	handler atomic.Pointer[http.HandlerFunc]
}

// A seenRequest is what an origin received.
type seenRequest struct {
	Host, Method, Path string
	Header             http.Header
	BodySHA256         string
	Body               string
	TLS                bool
}

// newInternet makes the namespace and starts its servers; connect plugs it in.
func newInternet(t *testing.T, name string) *internet {
	t.Helper()
	n := &internet{t: t, ca: outside.NewAuthority(t), names: map[string][]string{
		"api.example.com":        {originV4, originV6},
		"other.example.com":      {"203.0.113.11"},
		"denied.example.com":     {"203.0.113.12"},
		"v4.example.com":         {originV4},
		"v6.example.com":         {originV6},
		"api.open-meteo.com":     {originV4},
		"api.github.com":         {originV4},
		"registry.example.com":   {"203.0.113.13"},
		"loopback.example.com":   {"127.0.0.1"},
		"metadata.example.com":   {"169.254.169.254"},
		"private.example.com":    {"10.0.0.1"},
		"linklocal.example.com":  {"169.254.0.9"},
		"cgnat.example.com":      {"100.64.0.1"},
		"multicast.example.com":  {"224.0.0.1"},
		"reserved.example.com":   {"240.0.0.1"},
		"zero.example.com":       {"0.0.0.0"},
		"mapped.example.com":     {"::ffff:127.0.0.1"},
		"ula.example.com":        {"fd00::1"},
		"nat64.example.com":      {"64:ff9b::7f00:1"},
		"hostitself.example.com": {hostV4},
	}}
	n.ns = outside.NewNamespace(t)
	inNetns(t, n.ns, func() {
		sh(t, "ip link set lo up")
	})
	return n
}

// connect lays the cable between the host and the internet, and starts the
// servers on the internet's end.
func (n *internet) connect(h *host) {
	t := n.t
	t.Helper()
	inNetns(t, n.ns, func() {
		sh(t, fmt.Sprintf(`ip link add ve0 type veth peer name eth0 netns %d`, h.pid))
		sh(t, `ip link set ve0 up`)
		for _, a := range []string{originV4, "203.0.113.11", "203.0.113.12", "203.0.113.13", "203.0.113.14", dnsV4} {
			sh(t, "ip addr add "+a+"/24 dev ve0")
		}
		sh(t, "ip -6 addr add "+originV6+"/64 dev ve0 nodad")
	})
	if r := h.sh(fmt.Sprintf(`ip link set eth0 up && ip addr add %s/24 dev eth0 && ip -6 addr add %s/64 dev eth0 nodad && ip route add default via %s && ip -6 route add default via %s`, hostV4, hostV6, originV4, originV6)); r.code != 0 {
		t.Fatalf("host network: %v", r)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", h.pid))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	near, far := outside.End{Namespace: ns, Interface: "eth0"}, outside.End{Namespace: n.ns, Interface: "ve0"}
	ready := errors.Join(
		outside.Ready(near, netip.MustParseAddr(hostV4), netip.MustParseAddr(hostV6)),
		outside.Ready(far, netip.MustParseAddr(originV4), netip.MustParseAddr(originV6)))
	if ready != nil {
		t.Fatalf("the cable is not ready: %v", ready)
	}
	inNetns(t, n.ns, n.serve)
}

// serve starts DNS, HTTP on 80 and HTTPS on 443 and 8443.
func (n *internet) serve() {
	t := n.t
	pc, err := net.ListenPacket("udp", dnsV4+":53")
	if err != nil {
		t.Fatal(err)
	}
	go n.serveDNS(pc)
	n.web = &http.Server{Handler: http.HandlerFunc(n.answer), ErrorLog: nil}
	clear := n.listen(":80")
	go n.web.Serve(clear)
	config := &tls.Config{GetCertificate: n.ca.Certificate, NextProtos: []string{"http/1.1"}}
	for _, a := range []string{":443", ":8443"} {
		go n.web.Serve(tls.NewListener(n.listen(a), config))
	}
	t.Cleanup(func() { pc.Close(); n.web.Close() })
}

// listen opens a listener that counts its connections. The caller is inside
// the internet's namespace.
func (n *internet) listen(addr string) net.Listener {
	n.t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { ln.Close() })
	return &countingListener{Listener: ln, n: &n.connections}
}

// serveTCP runs a handler for every connection to a port of the internet.
func (n *internet) serveTCP(port int, handle func(net.Conn)) {
	n.t.Helper()
	inNetns(n.t, n.ns, func() {
		ln := n.listen(":" + strconv.Itoa(port))
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() { defer c.Close(); handle(c) }()
			}
		}()
	})
}

type countingListener struct {
	net.Listener
	n *atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}

// answer records the request and echoes what it saw.
func (n *internet) answer(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	var head strings.Builder
	size, _ := io.Copy(io.MultiWriter(sum, &limited{&head, 1 << 16}), r.Body)
	seen := seenRequest{Host: r.Host, Method: r.Method, Path: r.RequestURI, Header: r.Header.Clone(), BodySHA256: hex.EncodeToString(sum.Sum(nil)), Body: head.String(), TLS: r.TLS != nil}
	n.mu.Lock()
	n.requests = append(n.requests, seen)
	n.mu.Unlock()
	if f := n.handler.Load(); f != nil {
		(*f)(w, r)
		return
	}
	if s, ok := strings.CutPrefix(r.URL.Path, "/bytes/"); ok {
		count, _ := strconv.ParseInt(s, 10, 64)
		w.Header().Set("Content-Length", s)
		io.CopyN(w, pattern{}, count)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"host": r.Host, "method": r.Method, "path": r.RequestURI, "body_sha256": seen.BodySHA256, "body_bytes": size, "ok": true})
}

// setHandler replaces the echo for the rest of the test.
func (n *internet) setHandler(f http.HandlerFunc) { n.handler.Store(&f) }

// seen gives the requests that origins received so far.
func (n *internet) seen() []seenRequest {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]seenRequest(nil), n.requests...)
}

// asked gives the DNS questions that left the host so far.
func (n *internet) asked() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.queries...)
}

// setName points a name at addresses; without any it does not exist.
func (n *internet) setName(name string, addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[name] = addrs
}

// serveDNS answers A and AAAA from the table, everything else with nothing.
func (n *internet) serveDNS(pc net.PacketConn) {
	buf := make([]byte, 4096)
	for {
		size, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		answer := outside.Answer(buf[:size], func(name string) ([]string, bool) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.queries = append(n.queries, name)
			addresses, known := n.names[name]
			return addresses, known
		})
		if answer != nil {
			pc.WriteTo(answer, from)
		}
	}
}

// pattern is an endless stream that both ends can compute.
type pattern struct{}

func (pattern) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(i*31 + 7)
	}
	return len(p), nil
}

// limited writes at most n bytes and swallows the rest.
type limited struct {
	w io.Writer
	n int
}

func (l *limited) Write(p []byte) (int, error) {
	if k := min(l.n, len(p)); k > 0 {
		l.w.Write(p[:k])
		l.n -= k
	}
	return len(p), nil
}

// inNetns runs f on a thread inside the namespace and waits for it.
func inNetns(t *testing.T, ns *os.File, f func()) {
	t.Helper()
	if err := outside.In(ns, func() error { f(); return nil }); err != nil {
		t.Fatalf("enter network namespace: %v", err)
	}
}

// sh runs a shell line on this thread's namespaces.
func sh(t *testing.T, line string) {
	t.Helper()
	if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", line, err, out)
	}
}
