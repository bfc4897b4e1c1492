package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"sallyport/pkg/audit"
	"sallyport/pkg/balance"
	"sallyport/pkg/config"
	"sallyport/pkg/policy"
	"sallyport/pkg/upstream"
)

// detourGate is a gate behind an upstream proxy that knows where every name is.
type detourGate struct {
	*gate
	proxy *site

	mu    sync.Mutex
	asked []string
	where map[string]string
	held  map[netip.Addr]int
}

// newDetour starts a proxy; %s in the configuration is its address.
func newDetour(t *testing.T, yaml string) *detourGate {
	t.Helper()
	d := &detourGate{where: map[string]string{}, held: map[netip.Addr]int{}}
	d.gate = newGate(t, "", func(o *Options) { o.Standins = d })
	d.proxy = d.raw("proxy.test", "127.0.0.1:0", d.relay)
	c, err := config.Parse([]config.File{{Name: "test.yaml", Data: []byte(fmt.Sprintf(yaml, "http://proxy.test:"+fmt.Sprint(d.proxy.addr.Port())))}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	s := &Settings{Policy: p, Timeouts: c.Timeouts, Balance: balance.New(balance.Options{}).Apply(c), Proxies: map[*config.UpstreamProxy]*upstream.Proxy{}}
	for _, u := range c.UpstreamProxies() {
		s.Proxies[u] = upstream.NewProxy(upstream.ProxyOptions{Host: u.Host, Port: u.Port, Username: u.Username})
	}
	d.p.Apply(s)
	d.know("", netip.Addr{})
	return d
}

func (d *detourGate) relay(c *net.TCPConn) {
	in := bufio.NewReader(c)
	req, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	d.mu.Lock()
	d.asked = append(d.asked, req.RequestURI)
	at := d.where[req.RequestURI]
	d.mu.Unlock()
	out, err := net.Dial("tcp", at)
	if err != nil {
		io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	defer out.Close()
	io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	go func() { io.Copy(out, in); out.(*net.TCPConn).CloseWrite() }()
	io.Copy(c, out)
}

func (d *detourGate) wants() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.asked)
}

// stands makes addr one that stands for host.
func (d *detourGate) stands(addr, host string) {
	d.book.mu.Lock()
	defer d.book.mu.Unlock()
	d.book.names[netip.MustParseAddr(addr)] = host
}

// outside is a site that the proxy alone can find.
func (d *detourGate) outside(host string) *site {
	d.t.Helper()
	cert, err := d.internet.leaf(host, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	s := d.web("", "127.0.0.1:0", cert, nil)
	d.mu.Lock()
	d.where[host+":443"] = s.dst()
	d.mu.Unlock()
	return s
}

func (d *detourGate) Hold(workload string, addr netip.Addr) bool {
	if _, ok := d.book.Name(workload, addr); !ok {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held[addr]++
	return true
}

func (d *detourGate) Release(_ string, addr netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held[addr]--
}

// TestDetour: the name that was judged is the one that the proxy is asked for and
// that TLS verifies, and nobody else is asked.
func TestDetour(t *testing.T) {
	d := newDetour(t, `
upstream_proxy: { url: "%s", username: alice }
rules: [{ name: api, match: { hosts: [api.example.com] }, action: allow }]
`)
	site := d.outside("api.example.com")
	d.stands("198.18.0.1", "api.example.com")
	c := d.mustTLS(1, "198.18.0.1:443", "api.example.com")
	for i := range 2 {
		if r := get(t, c, "api.example.com", "/x"); r.err != nil || r.text != "hello api.example.com /x" {
			t.Fatalf("%d: %+v", i, r)
		}
	}
	e := d.event(audit.Exchange, 2)
	if e.Upstream.Target != "api.example.com:443" || e.Upstream.IP != d.proxy.addr.Addr() || e.Dst.Host != "api.example.com" || e.Dst.IP.String() != "198.18.0.1" {
		t.Errorf("%+v, %+v", e.Upstream, e.Dst)
	}
	if got := d.wants(); !slices.Equal(got, []string{"api.example.com:443"}) || site.conns.Load() != 1 {
		t.Errorf("the proxy was asked for %v", got)
	}
	if d.book.wasAsked("api.example.com") || !d.book.wasAsked("proxy.test") {
		t.Errorf("resolved: %v", d.book.asked)
	}
	// Another name at that address is judged and asked for as what it is.
	d.mustTLS(1, "198.18.0.1:443", "other.example.com")
	get(t, d.mustTLS(1, "198.18.0.1:443", "other.example.com"), "other.example.com", "/").mustRefuse(t, 403, "no_rule")
	c.Close()
	until(t, "the address is let go", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.held) == 1 && d.held[netip.MustParseAddr("198.18.0.1")] <= 2
	})
}

// TestDetourInTwoWays: a name is resolved only where a request leaves directly,
// or where a rule with cidrs needs to know.
func TestDetourInTwoWays(t *testing.T) {
	d := newDetour(t, `
upstream_proxy: { url: "%s" }
rules:
  - { name: proxied, match: { hosts: [mixed.example.com, fixed.example.com], paths: [/proxied] }, action: allow }
  - { name: fixed, match: { hosts: [fixed.example.com], cidrs: [127.0.0.0/8], paths: [/cidrs] }, action: allow, upstream_proxy: { url: "" } }
  - { name: direct, match: { hosts: [mixed.example.com], paths: [/direct] }, private: [127.0.0.0/8], action: allow, upstream_proxy: { url: "" } }
`)
	for i, host := range []string{"mixed.example.com", "fixed.example.com"} {
		outside := d.outside(host)
		inside := d.secure(host, nil)
		addr := fmt.Sprintf("198.18.0.%d", i+1)
		d.stands(addr, host)
		dst := fmt.Sprintf("%s:%d", addr, inside.addr.Port())
		d.mu.Lock()
		d.where[fmt.Sprintf("%s:%d", host, inside.addr.Port())] = outside.dst()
		d.mu.Unlock()
		c := d.mustTLS(1, dst, host)
		if r := get(t, c, fmt.Sprintf("%s:%d", host, inside.addr.Port()), "/proxied"); r.err != nil || r.StatusCode != 200 || outside.reqs.Load() != 1 {
			t.Fatalf("%+v", r)
		}
		if d.book.wasAsked(host) {
			t.Errorf("%s was resolved for the proxy", host)
		}
		path := map[string]string{"mixed.example.com": "/direct", "fixed.example.com": "/cidrs"}[host]
		if r := get(t, c, fmt.Sprintf("%s:%d", host, inside.addr.Port()), path); r.err != nil || r.StatusCode != 200 || inside.reqs.Load() != 1 {
			t.Errorf("%s: %+v", path, r)
		}
	}
}

// TestDetourAstray: what stands for nothing is refused, and nobody is contacted.
func TestDetourAstray(t *testing.T) {
	d := newDetour(t, `
upstream_proxy: { url: "%s", no_proxy: [corp.example] }
rules: [{ name: all, match: { hosts: ["*.example.com", "*.corp.example"] }, action: allow }, { name: addresses, match: { cidrs: [0.0.0.0/0, "::/0"] }, action: allow }]
`)
	d.outside("api.example.com")
	d.stands("198.18.0.1", "api.example.com")
	d.book.mu.Lock()
	d.book.addrs["rebound.corp.example"] = []netip.Addr{netip.MustParseAddr("198.18.0.1")}
	d.book.mu.Unlock()
	const denied = "address_denied"
	for _, dst := range []string{"198.18.0.2:443", "[2001:2::2]:443", "[::ffff:198.18.0.2]:443", "[64:ff9b::c612:2]:443"} {
		get(t, d.mustTLS(1, dst, "api.example.com"), "api.example.com", "/").mustRefuse(t, 403, denied)
	}
	get(t, d.mustTLS(1, "203.0.113.5:443", "rebound.corp.example"), "rebound.corp.example", "/").mustRefuse(t, 403, denied)
	get(t, d.dial(1, "198.18.0.1:80"), "198.18.0.1", "/").mustRefuse(t, 403, denied)
	get(t, d.dial(1, "10.0.0.1:80"), "10.0.0.1", "/").mustRefuse(t, 403, denied)
	ask(t, d.dial(1, "192.0.2.1:3128"), "GET http://198.18.0.1/ HTTP/1.1\r\nHost: 198.18.0.1\r\n\r\n").mustRefuse(t, 403, denied)
	ask(t, d.dial(1, "192.0.2.1:3128"), "CONNECT 198.18.0.2:443 HTTP/1.1\r\nHost: 198.18.0.2:443\r\n\r\n").mustRefuse(t, 403, denied)
	raw := d.dial(1, "198.18.0.2:5000")
	raw.Write([]byte{0, 1, 2, 3})
	if _, err := raw.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("bytes to nowhere: %v", err)
	}
	if e := d.event(audit.Refused, 1); e.Reason != denied || !strings.Contains(e.Message, "stands for no name") {
		t.Errorf("%+v", e)
	}
	if got := d.wants(); len(got) != 0 {
		t.Errorf("the proxy was asked for %v", got)
	}
	// An address that is dialled as such is asked for as such.
	get(t, d.dial(1, "203.0.113.5:80"), "203.0.113.5", "/").mustRefuse(t, 502, "upstream_unreachable")
	if got := d.wants(); !slices.Equal(got, []string{"203.0.113.5:80"}) {
		t.Errorf("the proxy was asked for %v", got)
	}
}

// TestDetourOpenedBefore: a connection that was opened for a silent client by
// one name is not used for another that it then gives, though the proxy's
// address is the same.
func TestDetourOpenedBefore(t *testing.T) {
	d := newDetour(t, `
upstream_proxy: { url: "%s" }
rules: [{ name: both, match: { hosts: [a.example.com, b.example.com] }, action: allow, handling: tunnel }]
`)
	first := d.raw("", "127.0.0.1:0", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	d.mu.Lock()
	d.where["a.example.com:443"] = first.dst()
	d.mu.Unlock()
	d.outside("b.example.com")
	d.stands("198.18.0.1", "a.example.com")
	raw := d.dial(1, "198.18.0.1:443")
	until(t, "a.example.com is opened", func() bool { return slices.Equal(d.wants(), []string{"a.example.com:443"}) })
	c := tls.Client(raw, &tls.Config{ServerName: "b.example.com", RootCAs: d.internet.pool()})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if got := d.wants(); !slices.Equal(got, []string{"a.example.com:443", "b.example.com:443"}) {
		t.Errorf("the proxy was asked for %v", got)
	}
	if e := d.event(audit.FlowOpen, 1); e.Upstream.Target != "b.example.com:443" {
		t.Errorf("%+v", e.Upstream)
	}
}
