package upstream

import (
	"crypto/tls"
	"testing"
	"time"
)

// A readingCodec reads on its own, as one of HTTP/2 does.
type readingCodec struct {
	conn   *Conn
	usable bool
	done   chan struct{}
	closed int
}

func startCodec(c *Conn) *readingCodec {
	r := &readingCodec{conn: c, usable: true, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		c.Read(make([]byte, 1))
	}()
	return r
}

func (r *readingCodec) Usable() bool { return r.usable }

func (r *readingCodec) Close() error {
	r.closed++
	err := r.conn.Close()
	<-r.done
	return err
}

func TestPoolLeavesReadingToTheCodec(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(p *Pool, h *Host, s *server, codec *readingCodec)
		// kept says that the connection is still there afterwards.
		kept bool
	}{
		{"goes on", func(*Pool, *Host, *server, *readingCodec) {}, true},
		{"codec is over when taken", func(_ *Pool, h *Host, s *server, codec *readingCodec) {
			codec.usable = false
			h.Idle(route(s), nil, nil)
		}, false},
		{"codec is over when swept", func(p *Pool, _ *Host, _ *server, codec *readingCodec) {
			codec.usable = false
			p.sweep()
		}, false},
		{"swept after the idle time", func(p *Pool, h *Host, _ *server, _ *readingCodec) {
			h.expire(time.Since(p.start)+time.Second, p.trust.Load())
		}, false},
		{"pool is closed", func(p *Pool, _ *Host, _ *server, _ *readingCodec) { p.Close() }, false},
		{"trust changed", func(p *Pool, h *Host, s *server, _ *readingCodec) {
			p.SetTrust(Trust{})
			h.Idle(route(s), nil, nil)
		}, false},
		{"no room", func(p *Pool, h *Host, s *server, codec *readingCodec) {
			p.opt.MaxIdle = 0
			c := h.Idle(route(s), nil, nil)
			c.Release()
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, "127.0.0.1:0", nil)
			p := newPool(t, Options{})
			h := p.Host(clearKey("w", s))
			c := mustDial(t, h, route(s), nil)
			codec := startCodec(c)
			c.Codec = codec
			c.Release()
			tt.end(p, h, s, codec)
			got := h.Idle(route(s), nil, nil)
			switch {
			case tt.kept && (got != c || codec.closed != 0):
				t.Errorf("got %p, closed %d times; want %p open", got, codec.closed, c)
			case !tt.kept && (got != nil || codec.closed != 1):
				t.Errorf("got %p, codec closed %d times; want none, once", got, codec.closed)
			case !tt.kept && p.Resources()[0].Entries != 0:
				t.Errorf("%d entries", p.Resources()[0].Entries)
			}
			if got != nil {
				codec.Close()
			}
		})
	}
}

func TestProtocolIsRemembered(t *testing.T) {
	ca := newAuthority(t, "root")
	for _, tt := range []struct {
		name, offered string
		speaks        []string
		want          string
	}{
		{"both, upstream prefers h2", "http/1.1,h2", []string{"h2", "http/1.1"}, "h2"},
		{"both, upstream knows http/1.1 only", "h2,http/1.1", []string{"http/1.1"}, "http/1.1"},
		{"h2 only", "h2", []string{"h2", "http/1.1"}, "h2"},
		{"upstream without ALPN", "h2,http/1.1", nil, ""},
		{"none offered", "", []string{"h2", "http/1.1"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil, nil)}, NextProtos: tt.speaks})
			p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}})
			h := p.Host(Key{Workload: "w", Host: "api.example.com", Name: "api.example.com", Port: s.addr.Port(), ALPN: tt.offered})
			if got, known := h.Spoke(); known {
				t.Errorf("%q is known before anyone asked", got)
			}
			c := mustDial(t, h, route(s), nil)
			defer c.Close()
			got, known := h.Spoke()
			if c.Protocol() != tt.want || got != tt.want || !known {
				t.Errorf("agreed on %q, remembered %q (%v), want %q", c.Protocol(), got, known, tt.want)
			}
			if offered := c.tls.ConnectionState().NegotiatedProtocol; offered != tt.want {
				t.Errorf("the connection speaks %q", offered)
			}
			h.shut()
			p.mu.Lock()
			delete(p.hosts, h.key)
			p.mu.Unlock()
			h = p.Host(h.key)
			if got, known = h.Spoke(); got != tt.want || !known {
				t.Errorf("forgotten with its connections: %q, %v", got, known)
			}
			h.spoke.Load().at -= spokeTime
			if got, known := h.Spoke(); known {
				t.Errorf("%q is known for longer than %v", got, spokeTime)
			}
		})
	}
}
