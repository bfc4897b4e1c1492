package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport/pkg/policy"
)

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestOrder(t *testing.T) {
	for _, tt := range []struct {
		name string
		r    Route
		want []netip.Addr
	}{
		{"families in turn", Route{Addrs: addrs("2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2")}, addrs("2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2")},
		{"own first", Route{Addrs: addrs("2001:db8::1", "2001:db8::2", "192.0.2.1"), Own: netip.MustParseAddr("192.0.2.1")}, addrs("192.0.2.1", "2001:db8::1", "2001:db8::2")},
		{"foreign own is not dialled", Route{Addrs: addrs("192.0.2.1"), Own: netip.MustParseAddr("192.0.2.9")}, addrs("192.0.2.1")},
		{"repeats", Route{Addrs: addrs("192.0.2.1", "192.0.2.1"), Own: netip.MustParseAddr("192.0.2.1")}, addrs("192.0.2.1")},
		{"none", Route{}, addrs()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, order(tt.r), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Transformer("empty", func(a []netip.Addr) []netip.Addr {
				if len(a) == 0 {
					return nil
				}
				return a
			})); d != "" {
				t.Error(d)
			}
		})
	}
	var many Route
	for i := range 200 {
		many.Addrs = append(many.Addrs, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	if n := len(order(many)); n != maxAddrs {
		t.Errorf("%d addresses of 200 are tried, want %d", n, maxAddrs)
	}
}

func TestDialTriesEveryAddress(t *testing.T) {
	s := serve(t, "127.0.0.3:0", nil)
	// Nobody listens on that port at .1 and .2.
	all := addrs("127.0.0.1", "127.0.0.2", "127.0.0.3")
	c, addr, n, err := dial(context.Background(), newDialer(), all, s.addr.Port())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if addr != s.addr.Addr() || n != 3 {
		t.Errorf("connected to %s after %d attempts, want %s after 3", addr, n, s.addr.Addr())
	}
	_, _, n, err = dial(context.Background(), newDialer(), all[:2], s.addr.Port())
	if !errors.Is(err, syscall.ECONNREFUSED) || n != 2 {
		t.Errorf("%d attempts, %v; want 2 refused", n, err)
	}
}

// full gives a listener whose queue is full: a SYN to it gets no answer, like
// one to a host that is gone.
func full(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 4}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, _ := syscall.Getsockname(fd)
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 4}), uint16(sa.(*syscall.SockaddrInet4).Port))
	for range 8 {
		c, err := net.DialTimeout("tcp", at.String(), 100*time.Millisecond)
		if err != nil {
			return at
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the queue of the listener does not fill")
	return at
}

func TestDialStaggersPastSilence(t *testing.T) {
	silent := full(t)
	l, err := net.Listen("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.5"), silent.Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	begin := time.Now()
	c, addr, n, err := dial(context.Background(), newDialer(), addrs("127.0.0.4", "127.0.0.5"), silent.Port())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if took := time.Since(begin); addr.String() != "127.0.0.5" || n != 2 || took < stagger || took > 4*stagger {
		t.Errorf("%s after %d attempts in %v", addr, n, took)
	}
}

func TestConnectTimeoutIsTyped(t *testing.T) {
	silent := full(t)
	p := newPool(t, Options{ConnectTimeout: 100 * time.Millisecond})
	h := p.Host(Key{Scheme: Clear, Host: "silent.example", Port: silent.Port()})
	_, err := h.Dial(context.Background(), Route{Addrs: addrs("127.0.0.4")}, nil)
	var e *Error
	if !errors.As(err, &e) || e.Reason != policy.UpstreamTimeout || e.Attempts != 1 {
		t.Errorf("%#v", err)
	}
	_, err = h.Dial(context.Background(), Route{Addrs: addrs("127.0.0.6")}, nil)
	if !errors.As(err, &e) || e.Reason != policy.UpstreamUnreachable {
		t.Errorf("%#v", err)
	}
	if _, err = h.Dial(context.Background(), Route{}, nil); !errors.As(err, &e) || e.Attempts != 0 {
		t.Errorf("%#v", err)
	}
}
