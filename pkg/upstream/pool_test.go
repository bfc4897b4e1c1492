package upstream

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

func clearKey(w string, s *server) Key {
	return Key{Workload: w, Scheme: Clear, Host: "h.example", Port: s.addr.Port()}
}

func mustDial(t testing.TB, h *Host, r Route, l *Leg) *Conn {
	t.Helper()
	c, err := h.Dial(context.Background(), r, l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPoolReuses(t *testing.T) {
	s := serve(t, "127.0.0.1:0", nil)
	p := newPool(t, Options{})
	h := p.Host(clearKey("w", s))
	c := mustDial(t, h, route(s), nil)
	c.Release()
	if r := p.Resources()[0]; r.Entries != 1 || r.Capacity != 1024 {
		t.Errorf("%+v", r)
	}
	got := h.Idle(route(s), nil, nil)
	if got != c || !got.Reused() || got.Attempts() != 0 {
		t.Fatalf("got %p, want %p", got, c)
	}
	if h.Idle(route(s), nil, nil) != nil {
		t.Error("one connection was given twice")
	}
	got.Close()
	if r := p.Resources()[0]; r.Entries != 0 {
		t.Errorf("%+v", r)
	}
}

func TestPoolKeepsKeysApart(t *testing.T) {
	s := serve(t, "127.0.0.1:0", nil)
	p := newPool(t, Options{})
	base := clearKey("w", s)
	c := mustDial(t, p.Host(base), route(s), nil)
	c.Release()
	for name, change := range map[string]func(*Key){
		"workload": func(k *Key) { k.Workload = "v" },
		"scheme":   func(k *Key) { k.Scheme = TLS },
		"host":     func(k *Key) { k.Host = "g.example" },
		"port":     func(k *Key) { k.Port++ },
		"name":     func(k *Key) { k.Name = "g.example" },
	} {
		k := base
		change(&k)
		if p.Host(k).Idle(route(s), nil, nil) != nil {
			t.Errorf("a connection was shared across %s", name)
		}
	}
}

func TestPoolRespectsAddresses(t *testing.T) {
	s := serve(t, "127.0.0.1:0", nil)
	p := newPool(t, Options{})
	h := p.Host(clearKey("w", s))
	c := mustDial(t, h, route(s), nil)
	c.Release()
	if h.Idle(Route{Addrs: addrs("127.0.0.2")}, nil, c) != nil {
		t.Error("a connection to an address that is not permitted was reused")
	}
	if h.Idle(Route{Addrs: addrs("127.0.0.1", "127.0.0.2"), Own: addrs("127.0.0.2")[0]}, nil, c) != nil {
		t.Error("the workload's own address was passed over")
	}
	if h.Idle(Route{Addrs: addrs("127.0.0.1"), Own: addrs("127.0.0.2")[0]}, nil, c) != c {
		t.Error("a permitted connection was not reused after being passed over")
	}
	c.Close()
}

func TestPoolDropsDead(t *testing.T) {
	ca := newAuthority(t, "root")
	secure := &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil, nil)}}
	for _, tt := range []struct {
		name string
		cfg  *tls.Config
		far  func(net.Conn)
	}{
		{"closed in clear", nil, func(c net.Conn) { c.Close() }},
		{"reset in clear", nil, func(c net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Close() }},
		{"talks unasked in clear", nil, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\n\r\n") }},
		{"closed under TLS", secure, func(c net.Conn) { c.Close() }},
		{"talks unasked under TLS", secure, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, "127.0.0.1:0", tt.cfg)
			p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}})
			k := clearKey("w", s)
			if tt.cfg != nil {
				k = Key{Host: "api.example.com", Port: s.addr.Port(), Name: "api.example.com"}
			}
			h := p.Host(k)
			c := mustDial(t, h, route(s), nil)
			far := s.next(t)
			io.WriteString(far, "x")
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			c.Release()
			if got := h.Idle(route(s), nil, nil); got != c {
				t.Fatal("a living connection was not reused")
			}
			c.Release()
			tt.far(far)
			until(t, "the death is noticed", func() bool {
				got := h.Idle(route(s), nil, nil)
				if got != nil {
					got.Release()
				}
				return got == nil
			})
			if n := p.Resources()[0].Entries; n != 0 {
				t.Errorf("%d entries", n)
			}
		})
	}
}

// Bytes that the TLS layer has decrypted already are invisible to the socket.
func TestPoolSeesWhatTLSHolds(t *testing.T) {
	ca := newAuthority(t, "root")
	s := serve(t, "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil, nil)}})
	p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}})
	h := p.Host(Key{Host: "api.example.com", Port: s.addr.Port(), Name: "api.example.com"})
	c := mustDial(t, h, route(s), nil)
	io.WriteString(s.next(t), "xy")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	c.Release()
	if h.Idle(route(s), nil, nil) != nil {
		t.Error("a connection with an unread byte was reused")
	}
}

func TestPoolBounds(t *testing.T) {
	s := serve(t, "127.0.0.1:0", nil)
	p := newPool(t, Options{MaxIdle: 3, MaxIdlePerHost: 2, MaxHosts: 2})
	a, b := p.Host(clearKey("a", s)), p.Host(clearKey("b", s))
	var all []*Conn
	for range 3 {
		all = append(all, mustDial(t, a, route(s), nil), mustDial(t, b, route(s), nil))
	}
	for _, c := range all {
		c.Release()
	}
	if a.idle.Load() > 2 || b.idle.Load() > 2 || p.idle.Load() != 3 {
		t.Errorf("idle: a %d, b %d, all %d", a.idle.Load(), b.idle.Load(), p.idle.Load())
	}
	p.Host(clearKey("c", s))
	if n := p.Resources()[1].Entries; n != 2 {
		t.Errorf("%d hosts, want 2", n)
	}
	if !a.Gone() && !b.Gone() {
		t.Error("no host was forgotten")
	}
	gone := a
	if b.Gone() {
		gone = b
	}
	c := mustDial(t, gone, route(s), nil)
	c.Release()
	if gone.idle.Load() != 0 {
		t.Error("a forgotten host keeps connections")
	}
}

func TestPoolExpires(t *testing.T) {
	s := serve(t, "127.0.0.1:0", nil)
	p := newPool(t, Options{IdleTimeout: 40 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	h := p.Host(clearKey("w", s))
	c := mustDial(t, h, route(s), nil)
	far := s.next(t)
	c.Release()
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the far end read %v, want EOF", err)
	}
	until(t, "the host is forgotten", func() bool { return p.Resources()[1].Entries == 0 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSetTrustRetiresConnections(t *testing.T) {
	ca := newAuthority(t, "root")
	s := serve(t, "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil, nil)}})
	p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}})
	h := p.Host(Key{Host: "api.example.com", Port: s.addr.Port(), Name: "api.example.com"})
	idle, busy := mustDial(t, h, route(s), nil), mustDial(t, h, route(s), nil)
	idle.Release()
	p.SetTrust(Trust{Roots: newAuthority(t, "other").pool()})
	if h.Idle(route(s), nil, nil) != nil {
		t.Error("an idle connection of former trust was reused")
	}
	busy.Release()
	if h.Idle(route(s), nil, nil) != nil {
		t.Error("a released connection of former trust was kept")
	}
	if _, err := h.Dial(context.Background(), route(s), nil); err == nil {
		t.Error("the new roots are not used")
	}
}

// Two flows use one connection in turn: each pays for what it moved.
func TestLegs(t *testing.T) {
	s := serve(t, "127.0.0.1:0", nil)
	p := newPool(t, Options{})
	h := p.Host(clearKey("w", s))
	var a, b Leg
	c := mustDial(t, h, route(s), &a)
	far := s.next(t)
	go io.Copy(far, far)
	move := func(n int) {
		t.Helper()
		c.Write(make([]byte, n))
		if _, err := io.ReadFull(c, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	move(100)
	c.Release()
	if h.Idle(route(s), &b, nil) != c {
		t.Fatal("not reused")
	}
	move(1000)
	for range 2 {
		if x := a.Totals(); x.BytesSent != 100 || x.BytesReceived != 100 {
			t.Errorf("a: %+v", x)
		}
		if x := b.Totals(); x.BytesSent != 1000 || x.BytesReceived != 1000 || x.Segments == 0 || x.RTT == 0 {
			t.Errorf("b: %+v", x)
		}
	}
	c.Release()
	h.Idle(route(s), &a, nil)
	move(10)
	c.Close()
	if x, y := a.Totals(), b.Totals(); x.BytesSent != 110 || y.BytesSent != 1000 {
		t.Errorf("a %+v, b %+v", x, y)
	}
}

func TestPoolConcurrently(t *testing.T) {
	s := serve(t, "127.0.0.1:0", nil)
	go func() {
		for range s.seen {
		}
	}()
	p := newPool(t, Options{MaxIdlePerHost: 4, IdleTimeout: 20 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(ctx) })
	var users sync.WaitGroup
	for range 8 {
		users.Go(func() {
			var l Leg
			var last *Conn
			for range 200 {
				h := p.Host(clearKey("w", s))
				c := h.Idle(route(s), &l, last)
				if c == nil {
					var err error
					if c, err = h.Dial(ctx, route(s), &l); err != nil {
						t.Error(err)
						return
					}
				}
				last = c
				c.Release()
			}
			l.Totals()
		})
	}
	users.Wait()
	cancel()
	wg.Wait()
	if n := p.idle.Load(); n != 0 {
		t.Errorf("%d idle connections after close", n)
	}
}

func BenchmarkIdleAndRelease(b *testing.B) {
	s := serve(b, "127.0.0.1:0", nil)
	p := newPool(b, Options{})
	h := p.Host(clearKey("w", s))
	var l Leg
	r := route(s)
	c := mustDial(b, h, r, &l)
	c.Release()
	b.ReportAllocs()
	for b.Loop() {
		if c = h.Idle(r, &l, c); c == nil {
			b.Fatal("lost")
		}
		c.Release()
	}
}

// TestInterruptIsForGood: a deadline that is set just after does not make who was
// woken wait again.
func TestInterruptIsForGood(t *testing.T) {
	t.Parallel()
	s := serve(t, "127.0.0.1:0", nil)
	p := newPool(t, Options{})
	h := p.Host(clearKey("w", s))
	for range 100 {
		c := mustDial(t, h, route(s), nil)
		s.next(t)
		read := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		time.Sleep(time.Millisecond)
		c.Interrupt()
		c.SetReadDeadline(time.Now().Add(time.Hour))
		select {
		case err := <-read:
			if err == nil {
				t.Fatal("read something")
			}
		case <-time.After(10 * time.Second):
			t.Fatal("still reads")
		}
		if _, err := c.Write([]byte("x")); err == nil {
			t.Fatal("wrote after it")
		}
		c.Close()
	}
}
