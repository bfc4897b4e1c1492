package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/pkg/policy"
	"sallyport/test/port"
)

// relay is an upstream proxy on loopback. It opens what is asked for at to,
// whatever the name, and keeps what it was asked.
type relay struct {
	addr netip.AddrPort
	to   string
	// answer, if set, is sent instead of doing anything; "" waits.
	answer *string

	mu    sync.Mutex
	heads []*http.Request
}

func newRelay(t testing.TB, addr string, cfg *tls.Config, to string, answer *string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("no address %s here: %v", addr, err)
	}
	r := &relay{addr: netip.MustParseAddrPort(l.Addr().String()), to: to, answer: answer}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { c.Close() })
			all.Go(func() {
				defer stop()
				defer c.Close()
				if cfg != nil {
					r.serve(ctx, tls.Server(c, cfg))
					return
				}
				r.serve(ctx, c)
			})
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); all.Wait() })
	return r
}

func (r *relay) serve(ctx context.Context, c net.Conn) {
	in := bufio.NewReader(c)
	req, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	r.mu.Lock()
	r.heads = append(r.heads, req)
	r.mu.Unlock()
	if r.answer != nil {
		io.WriteString(c, *r.answer)
		io.Copy(io.Discard, in)
		return
	}
	out, err := net.Dial("tcp", r.to)
	if err != nil {
		return
	}
	defer out.Close()
	defer context.AfterFunc(ctx, func() { out.Close() })()
	io.WriteString(c, "HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
	go func() { io.Copy(out, in); out.(*net.TCPConn).CloseWrite() }()
	io.Copy(c, out)
}

func (r *relay) asked() []*http.Request { r.mu.Lock(); defer r.mu.Unlock(); return r.heads }

func (r *relay) proxy(user, password string) *Proxy {
	return NewProxy(ProxyOptions{Host: r.addr.Addr().String(), Port: r.addr.Port(), Username: user, Password: password})
}

func (r *relay) route() Route {
	return Route{Addrs: []netip.Addr{r.addr.Addr()}, Timeout: 30 * time.Second}
}

// TestThroughProxy: TLS is with the target, by the name that was asked for; the
// address is the proxy's.
func TestThroughProxy(t *testing.T) {
	a := newAuthority(t, "root")
	leaf := a.issue(t, nil, nil)
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0"} {
		for _, outer := range []bool{false, true} {
			target := serve(t, "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{leaf}})
			var cfg *tls.Config
			if outer {
				cfg = &tls.Config{Certificates: []tls.Certificate{a.issue(t, nil, named(strings.Trim(strings.TrimSuffix(listen, ":0"), "[]")))}}
			}
			r := newRelay(t, listen, cfg, target.addr.String(), nil)
			p := newPool(t, Options{Trust: Trust{Roots: a.pool()}})
			px := NewProxy(ProxyOptions{TLS: outer, Host: r.addr.Addr().String(), Port: r.addr.Port(), Username: "alice", Password: "p:w ü"})
			h := p.Host(Key{Workload: "w", Scheme: TLS, Host: "api.example.com", Port: 443, Name: "api.example.com", Proxy: px})
			var leg Leg
			c, err := h.Dial(t.Context(), r.route(), &leg)
			if err != nil {
				t.Fatalf("%s, TLS %v: %v", listen, outer, err)
			}
			if c.Addr() != r.addr.Addr() || c.TLSVersion() != tls.VersionTLS13 || c.Bare() {
				t.Errorf("addr %v, version %x, bare %v", c.Addr(), c.TLSVersion(), c.Bare())
			}
			req := r.asked()[0]
			want := "Basic " + base64.StdEncoding.EncodeToString([]byte("alice:p:w ü"))
			if req.Method != "CONNECT" || req.Host != "api.example.com:443" || req.RequestURI != "api.example.com:443" || req.Header.Get("Proxy-Authorization") != want || len(req.Header) != 1 {
				t.Errorf("asked %s %s %v", req.Method, req.RequestURI, req.Header)
			}
			far := target.next(t)
			far.Write([]byte("hello"))
			b := make([]byte, 5)
			if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
				t.Errorf("read %q, %v", b, err)
			}
			// Kept, and found alive through whatever layers there are. What the
			// layers still had to say (tickets) may have cost the first attempt.
			c.Release()
			again := h.Idle(r.route(), &leg, nil)
			if again != c {
				t.Errorf("not used again")
			} else {
				again.Close()
			}
		}
	}
}

// TestProxyClear: in clear what the target says first is not taken for the
// proxy's answer, and stays readable from the socket itself.
func TestProxyClear(t *testing.T) {
	a := newAuthority(t, "root")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "220 ready\r\n")
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	for _, outer := range []bool{false, true} {
		var cfg *tls.Config
		if outer {
			cfg = &tls.Config{Certificates: []tls.Certificate{a.issue(t, nil, nil)}}
		}
		r := newRelay(t, "127.0.0.1:0", cfg, l.Addr().String(), nil)
		p := newPool(t, Options{Trust: Trust{Roots: a.pool()}})
		px := NewProxy(ProxyOptions{TLS: outer, Host: "127.0.0.1", Port: r.addr.Port()})
		c, err := p.Host(Key{Scheme: Clear, Host: "2001:db8::1", Port: 25, Proxy: px}).Dial(t.Context(), r.route(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if req := r.asked()[0]; req.Host != "[2001:db8::1]:25" || len(req.Header) != 0 {
			t.Errorf("asked for %q %v", req.Host, req.Header)
		}
		if c.Bare() == outer {
			t.Errorf("bare %v", c.Bare())
		}
		b := make([]byte, 11)
		if c.Bare() {
			_, err = io.ReadFull(c.Socket(), b)
		} else {
			_, err = io.ReadFull(c, b)
		}
		if err != nil || string(b) != "220 ready\r\n" {
			t.Errorf("read %q, %v", b, err)
		}
		if _, err := c.Write([]byte("bye")); err != nil || c.CloseWrite() != nil {
			t.Errorf("write: %v", err)
		}
		if b, err := io.ReadAll(c); err != nil || string(b) != "bye" {
			t.Errorf("read %q, %v", b, err)
		}
	}
}

// TestProxyAnswers: what the proxy answered is told, and nothing is tried that
// could not help.
func TestProxyAnswers(t *testing.T) {
	for _, tt := range []struct {
		name, answer, user string
		reason             policy.Reason
		want               []string
	}{
		{"407 without credentials", "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n\r\n", "", policy.UpstreamUnreachable, []string{"407 Proxy Authentication Required", "CONNECT api.example.com:443", "give upstream_proxy a username"}},
		{"407 with", "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n", "alice", policy.UpstreamUnreachable, []string{"407 No", "does not accept the username"}},
		{"407 of others", "HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Negotiate\r\n\r\n", "alice", policy.UpstreamUnreachable, []string{"wants NTLM or Negotiate"}},
		{"403", "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n", "", policy.UpstreamUnreachable, []string{"403 Forbidden"}},
		{"503", "HTTP/1.1 503 Service Unavailable\r\n\r\n", "", policy.UpstreamUnreachable, []string{"503 Service Unavailable"}},
		{"3xx", "HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n", "", policy.UpstreamUnreachable, []string{"302 Found"}},
		{"garbage", "garbage\r\n\r\n", "", policy.UpstreamUnreachable, []string{"no HTTP"}},
		{"silence", "", "", policy.UpstreamTimeout, []string{"did not answer CONNECT api.example.com:443 in time"}},
		{"half a head", "HTTP/1.1 200 OK\r\n", "", policy.UpstreamTimeout, []string{"in time"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRelay(t, "127.0.0.1:0", nil, "", &tt.answer)
			p := newPool(t, Options{})
			route := r.route()
			if tt.reason == policy.UpstreamTimeout {
				route.Timeout = 200 * time.Millisecond
			}
			_, err := p.Host(Key{Scheme: TLS, Host: "api.example.com", Port: 443, Name: "api.example.com", Proxy: r.proxy(tt.user, "secret")}).Dial(t.Context(), route, nil)
			var e *Error
			if !errors.As(err, &e) || e.Reason != tt.reason || e.Addr != r.addr.Addr() || e.Attempts != 1 {
				t.Fatalf("%+v", err)
			}
			for _, want := range append(tt.want, r.addr.String()) {
				if !strings.Contains(e.Text, want) {
					t.Errorf("%q does not say %q", e.Text, want)
				}
			}
			if strings.Contains(e.Text, "secret") {
				t.Errorf("the password is told: %q", e.Text)
			}
		})
	}
	t.Run("down", func(t *testing.T) {
		at := port.Refusing(t, "127.0.0.1")
		px := NewProxy(ProxyOptions{Host: "proxy.corp", Port: at.Port()})
		_, err := newPool(t, Options{}).Host(Key{Scheme: TLS, Host: "api.example.com", Port: 443, Proxy: px}).Dial(t.Context(), Route{Addrs: []netip.Addr{at.Addr()}}, nil)
		var e *Error
		if !errors.As(err, &e) || e.Reason != policy.UpstreamUnreachable || !strings.Contains(e.Text, "the upstream proxy "+px.String()+" is not reached: connecting to "+at.String()+": connection refused") {
			t.Errorf("%v", err)
		}
	})
	t.Run("closes", func(t *testing.T) {
		l, _ := net.Listen("tcp", "127.0.0.1:0")
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				io.ReadAtLeast(c, make([]byte, 100), 40)
				c.Close()
			}
		}()
		at := netip.MustParseAddrPort(l.Addr().String())
		px := NewProxy(ProxyOptions{Host: "proxy.corp", Port: at.Port()})
		_, err := newPool(t, Options{}).Host(Key{Scheme: TLS, Host: "api.example.com", Port: 443, Proxy: px}).Dial(t.Context(), Route{Addrs: []netip.Addr{at.Addr()}}, nil)
		var e *Error
		if !errors.As(err, &e) || e.Reason != policy.UpstreamUnreachable || !strings.Contains(e.Text, "without an answer") && !strings.Contains(e.Text, "reset") {
			t.Errorf("%v", err)
		}
	})
}

// TestProxyCertificate: the proxy is verified as any upstream is, and the
// target's certificate is not the proxy's.
func TestProxyCertificate(t *testing.T) {
	a, other := newAuthority(t, "root"), newAuthority(t, "other")
	good := &tls.Config{Certificates: []tls.Certificate{a.issue(t, nil, nil)}}
	bad := &tls.Config{Certificates: []tls.Certificate{other.issue(t, nil, nil)}}
	for _, tt := range []struct {
		name          string
		outer, target *tls.Config
		host          string
		fault         Fault
		proxys        bool
	}{
		{"the proxy's authority", bad, good, "api.example.com", UnknownAuthority, true},
		{"the proxy's name", &tls.Config{Certificates: []tls.Certificate{a.issue(t, nil, named("other.example"))}}, good, "api.example.com", WrongName, true},
		{"the target's authority", good, bad, "api.example.com", UnknownAuthority, false},
		{"the target's name", good, good, "www.example.org", WrongName, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := serve(t, "127.0.0.1:0", tt.target)
			r := newRelay(t, "127.0.0.1:0", tt.outer, target.addr.String(), nil)
			px := NewProxy(ProxyOptions{TLS: true, Host: "127.0.0.1", Port: r.addr.Port()})
			_, err := newPool(t, Options{Trust: Trust{Roots: a.pool()}}).Host(Key{Scheme: TLS, Host: tt.host, Port: 443, Name: tt.host, Proxy: px}).Dial(t.Context(), r.route(), nil)
			var e *Error
			if !errors.As(err, &e) || e.Reason != policy.UpstreamTLS || e.Fault != tt.fault || strings.HasPrefix(e.Text, "the upstream proxy") != tt.proxys {
				t.Errorf("%+v", err)
			}
		})
	}
}

// TestProxiesAreApart: connections by a proxy, by another, with other
// credentials and by none never stand in for each other.
func TestProxiesAreApart(t *testing.T) {
	a := newAuthority(t, "root")
	target := serve(t, "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{a.issue(t, nil, nil)}})
	r := newRelay(t, "127.0.0.1:0", nil, target.addr.String(), nil)
	p := newPool(t, Options{Trust: Trust{Roots: a.pool()}})
	key := Key{Scheme: TLS, Host: "api.example.com", Port: target.addr.Port(), Name: "api.example.com"}
	alice := r.proxy("alice", "a")
	keyed := func(px *Proxy) Key { k := key; k.Proxy = px; return k }
	c, err := p.Host(keyed(alice)).Dial(t.Context(), r.route(), nil)
	if err != nil {
		t.Fatal(err)
	}
	// The tickets come before it: unread they would cost the connection.
	io.WriteString(target.next(t), "x")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	c.Release()
	for name, px := range map[string]*Proxy{"none": nil, "another password": r.proxy("alice", "b"), "another user": r.proxy("bob", "a")} {
		if p.Host(keyed(px)).Idle(r.route(), nil, nil) != nil {
			t.Errorf("%s gets the connection of alice", name)
		}
		if px != nil && (alice.Same(px) || sessionKey(keyed(alice), 1) == sessionKey(keyed(px), 1)) {
			t.Errorf("%s is alice", name)
		}
	}
	if !alice.Same(r.proxy("alice", "a")) || sessionKey(keyed(alice), 1) == sessionKey(key, 1) || (*Proxy)(nil).Same(alice) {
		t.Error("alice is not herself, or is nobody")
	}
	if p.Host(keyed(alice)).Idle(r.route(), nil, nil) != c {
		t.Error("alice does not get her own connection")
	}
	c.Close()
	if s := alice.String(); strings.Contains(s, "alice") || s != "http://"+r.addr.String() {
		t.Errorf("shown as %q", s)
	}
}
