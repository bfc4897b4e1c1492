package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/policy"
	"sallyport/test/port"
)

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// fromHere answers for a host that has an address of each kind.
func fromHere(to netip.Addr) (netip.Addr, bool) {
	switch {
	case to.Is4() && to.IsLoopback(), to == netip.IPv6Loopback():
		return to, true
	case to.Is4():
		return netip.MustParseAddr("192.0.2.250"), true
	case to.IsLinkLocalUnicast():
		return netip.MustParseAddr("fe80::250"), true
	default:
		return netip.MustParseAddr("2001:db8::250"), true
	}
}

// without takes a family from a host.
func without(f family) sourceOf {
	return func(to netip.Addr) (netip.Addr, bool) {
		if familyOf(to) == f {
			return netip.Addr{}, false
		}
		return fromHere(to)
	}
}

// TestOrder covers RFC 8305 section 4 with RFC 6724 section 6 below it.
func TestOrder(t *testing.T) {
	for _, tt := range []struct {
		name   string
		r      Route
		lost   family
		source sourceOf
		want   []netip.Addr
	}{
		{"families in turn", Route{Addrs: addrs("2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2")}, 0, fromHere, addrs("2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2")},
		{"IPv6 first, however they came", Route{Addrs: addrs("192.0.2.1", "192.0.2.2", "2001:db8::1")}, 0, fromHere, addrs("2001:db8::1", "192.0.2.1", "192.0.2.2")},
		{"within a family as they came", Route{Addrs: addrs("192.0.2.9", "192.0.2.1", "192.0.2.5")}, 0, fromHere, addrs("192.0.2.9", "192.0.2.1", "192.0.2.5")},
		{"no way by IPv6", Route{Addrs: addrs("2001:db8::1", "192.0.2.1", "192.0.2.2")}, 0, without(ipv6), addrs("192.0.2.1", "2001:db8::1", "192.0.2.2")},
		{"no way by IPv4", Route{Addrs: addrs("192.0.2.1", "2001:db8::1")}, 0, without(ipv4), addrs("2001:db8::1", "192.0.2.1")},
		{"own first", Route{Addrs: addrs("2001:db8::1", "2001:db8::2", "192.0.2.1"), Own: netip.MustParseAddr("192.0.2.1")}, 0, fromHere, addrs("192.0.2.1", "2001:db8::1", "2001:db8::2")},
		{"foreign own is not dialled", Route{Addrs: addrs("192.0.2.1"), Own: netip.MustParseAddr("192.0.2.9")}, 0, fromHere, addrs("192.0.2.1")},
		{"own of a family that was lost", Route{Addrs: addrs("2001:db8::1", "2001:db8::2", "192.0.2.1"), Own: netip.MustParseAddr("2001:db8::2")}, ipv6, fromHere, addrs("192.0.2.1", "2001:db8::2", "2001:db8::1")},
		{"own of the family that works", Route{Addrs: addrs("2001:db8::1", "192.0.2.1", "192.0.2.2"), Own: netip.MustParseAddr("192.0.2.2")}, ipv6, fromHere, addrs("192.0.2.2", "2001:db8::1", "192.0.2.1")},
		{"all of the family that was lost", Route{Addrs: addrs("2001:db8::1", "2001:db8::2")}, ipv6, fromHere, addrs("2001:db8::1", "2001:db8::2")},
		{"repeats", Route{Addrs: addrs("192.0.2.1", "192.0.2.1"), Own: netip.MustParseAddr("192.0.2.1")}, 0, fromHere, addrs("192.0.2.1")},
		{"none", Route{}, 0, fromHere, addrs()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			given := slices.Clone(tt.r.Addrs)
			if got := order(tt.r, tt.lost, tt.source); !slices.Equal(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
			if !slices.Equal(given, tt.r.Addrs) {
				t.Error("the route was changed; others hold it")
			}
		})
	}
	var many Route
	for i := range 200 {
		many.Addrs = append(many.Addrs, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	if n := len(order(many, 0, fromHere)); n != maxAddrs {
		t.Errorf("%d addresses of 200 are tried, want %d", n, maxAddrs)
	}
}

// TestSelection covers the rules of RFC 6724 section 6 that decide between
// families; its examples are those of section 10.2 as far as they do not need
// rule 9.
func TestSelection(t *testing.T) {
	from := func(pairs ...string) sourceOf {
		return func(to netip.Addr) (netip.Addr, bool) {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == to.String() {
					return netip.MustParseAddr(pairs[i+1]), true
				}
			}
			return netip.Addr{}, false
		}
	}
	for _, tt := range []struct {
		name     string
		in, want string
		source   sourceOf
	}{
		{"rule 1: what cannot be reached comes last", "2001:db8:1::1 198.51.100.121", "198.51.100.121 2001:db8:1::1", from("198.51.100.121", "198.51.100.117")},
		{"rule 2: matching scope", "2001:db8:1::1 198.51.100.121", "198.51.100.121 2001:db8:1::1", from("2001:db8:1::1", "fe80::1", "198.51.100.121", "198.51.100.117")},
		{"rule 2: matching scope, the other way", "198.51.100.121 2001:db8:1::1", "2001:db8:1::1 198.51.100.121", from("2001:db8:1::1", "2001:db8:1::2", "198.51.100.121", "169.254.13.78")},
		{"rule 5: matching label", "2002:c633:6401::1 198.51.100.121", "198.51.100.121 2002:c633:6401::1", from("2002:c633:6401::1", "2001:db8::1", "198.51.100.121", "198.51.100.117")},
		{"rule 6: higher precedence", "10.1.2.3 2001:db8:1::1", "2001:db8:1::1 10.1.2.3", from("2001:db8:1::1", "2001:db8:1::2", "10.1.2.3", "10.1.2.4")},
		{"rule 6: unique local after IPv4", "fd00::1 198.51.100.121", "198.51.100.121 fd00::1", from("fd00::1", "fd00::2", "198.51.100.121", "198.51.100.117")},
		{"rule 6: Teredo after IPv4", "2001::1 198.51.100.121", "198.51.100.121 2001::1", from("2001::1", "2001::2", "198.51.100.121", "198.51.100.117")},
		{"rule 8: smaller scope", "2001:db8:1::1 fe80::1 198.51.100.1", "fe80::1 2001:db8:1::1 198.51.100.1", from("2001:db8:1::1", "2001:db8:1::2", "fe80::1", "fe80::2", "198.51.100.1", "198.51.100.2")},
		{"one family is left as it came", "2001::1 2001:db8::1", "2001::1 2001:db8::1", from()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := addrs(strings.Fields(tt.in)...)
			sortBySelection(got, tt.source)
			if want := addrs(strings.Fields(tt.want)...); !slices.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}

// The kernel is asked without a packet being sent, and says where there is no
// way.
func TestKernelSource(t *testing.T) {
	if from, ok := kernelSource(netip.MustParseAddr("127.0.0.9")); !ok || !from.IsLoopback() || !from.Is4() {
		t.Errorf("%v, %v", from, ok)
	}
	// Reserved, and refused by the kernel as a destination (RFC 1112 section 4).
	if from, ok := kernelSource(netip.MustParseAddr("255.255.255.255")); ok {
		t.Errorf("a way to the broadcast address: %v", from)
	}
}

// TestLostFamily: a host whose one family is silent costs one stagger, once.
func TestLostFamily(t *testing.T) {
	needIPv6(t)
	places := port.Hold(t, "127.0.0.4", "::1")
	silent := full(t, places[0])
	l := places[1].Listen()
	defer l.Close()
	r := Route{Addrs: addrs("127.0.0.4", "::1"), Own: netip.MustParseAddr("127.0.0.4")}
	var p *Pool
	var h *Host
	var c *Conn
	inTime(t, 4*stagger, func() {
		if c != nil {
			c.Close()
		}
		p = newPool(t, Options{})
		h = p.Host(Key{Workload: "w", Scheme: Clear, Host: "dual.example", Port: silent.Port()})
		begin := time.Now()
		c = mustDial(t, h, r, nil)
		if took := time.Since(begin); c.Addr() != netip.IPv6Loopback() || c.Attempts() != 2 || took < stagger {
			t.Errorf("%s after %d attempts in %v", c.Addr(), c.Attempts(), took)
		}
	})
	c.Release()
	if got := h.Idle(r, nil, nil); got != c {
		t.Error("the connection to the family that works is not reused")
	}
	attempts := 0
	inTime(t, stagger, func() {
		d := mustDial(t, h, r, nil)
		defer d.Close()
		attempts = d.Attempts()
		if d.Addr() != netip.IPv6Loopback() {
			t.Errorf("again: %s after %d attempts", d.Addr(), attempts)
		}
	})
	// The last try is the one that was in time.
	if attempts != 1 {
		t.Errorf("again: %d attempts", attempts)
	}
	for _, tt := range []struct {
		name string
		r    Route
		want bool
	}{
		{"own works", Route{Addrs: addrs("127.0.0.4", "::1"), Own: netip.IPv6Loopback()}, true},
		{"not among the permitted", Route{Addrs: addrs("127.0.0.4", "::2"), Own: netip.MustParseAddr("127.0.0.4")}, false},
		{"own is the only one", Route{Addrs: addrs("127.0.0.4"), Own: netip.MustParseAddr("127.0.0.4")}, false},
	} {
		if got := h.Permits(tt.r, netip.IPv6Loopback()); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	// Whoever comes to that host profits, whatever it offers.
	k := h.Key()
	k.Workload, k.ALPN = "v", "h2"
	if got := p.Host(k); !got.Permits(r, netip.IPv6Loopback()) {
		t.Error("another workload finds out for itself")
	}
	// It is tried again when the memory ends.
	h.lost.set(ipv4, time.Since(p.start)-lostTime)
	if h.Permits(r, netip.IPv6Loopback()) {
		t.Error("a lost family is remembered for ever")
	}
	c.Close()
}

// inTime has f done within a time in one of several tries: on a busy machine one may
// take any time.
func inTime(t *testing.T, most time.Duration, f func()) {
	t.Helper()
	least := time.Duration(1<<63 - 1)
	for try := 0; try < 10 && least >= most && !t.Failed(); try++ {
		begin := time.Now()
		f()
		least = min(least, time.Since(begin))
	}
	if least >= most {
		t.Errorf("took %v, want less than %v", least, most)
	}
}

func needIPv6(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	l.Close()
}

// A family whose TCP comes up while its TLS does not is lost as well.
func TestFamilyWithoutTLS(t *testing.T) {
	ca := newAuthority(t, "root")
	needIPv6(t)
	places := port.Hold(t, "127.0.0.1", "::1")
	mute := places[0].Listen()
	defer mute.Close()
	serveOn(t, places[1].Listen(), &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil, nil)}})
	p := newPool(t, Options{Trust: Trust{Roots: ca.pool()}, ConnectTimeout: 4 * time.Second})
	h := p.Host(Key{Workload: "w", Host: "api.example.com", Name: "api.example.com", Port: places[0].Port()})
	r := Route{Addrs: addrs("127.0.0.1", "::1"), Own: netip.MustParseAddr("127.0.0.1")}
	c := mustDial(t, h, r, nil)
	if c.Addr() != netip.IPv6Loopback() || h.lost.get(time.Since(p.start)) != ipv4 {
		t.Errorf("connected to %s, lost family %d", c.Addr(), h.lost.get(time.Since(p.start)))
	}
	c.Close()
}

func TestDialTriesEveryAddress(t *testing.T) {
	// Nobody listens on that port at .1 and .2.
	s := serveOn(t, port.Hold(t, "127.0.0.1", "127.0.0.2", "127.0.0.3")[2].Listen(), nil)
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

// full has a place listen with a queue that is full: a SYN to it gets no answer,
// like one to a host that is gone.
func full(t *testing.T, at *port.Place) netip.AddrPort {
	t.Helper()
	l := at.Listen()
	t.Cleanup(func() { l.Close() })
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	queued := func() (full bool) {
		err := raw.Control(func(fd uintptr) {
			// Of a listener these are the length of its queue and the most that it may be.
			if info, ierr := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); ierr != nil {
				t.Error(ierr)
			} else {
				full = info.Unacked > info.Sacked
			}
		})
		if err != nil {
			t.Error(err)
		}
		return full
	}
	if err := raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), 0) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); !queued(); {
		if time.Now().After(end) {
			t.Fatal("the queue of the listener does not fill")
		}
		if c, err := net.DialTimeout("tcp", at.String(), time.Second); err == nil {
			t.Cleanup(func() { c.Close() })
		}
	}
	return at.AddrPort
}

func TestDialStaggersPastSilence(t *testing.T) {
	places := port.Hold(t, "127.0.0.4", "127.0.0.5")
	silent := full(t, places[0])
	l := places[1].Listen()
	defer l.Close()
	inTime(t, 4*stagger, func() {
		begin := time.Now()
		c, addr, n, err := dial(context.Background(), newDialer(), addrs("127.0.0.4", "127.0.0.5"), silent.Port())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if took := time.Since(begin); addr.String() != "127.0.0.5" || n != 2 || took < stagger {
			t.Errorf("%s after %d attempts in %v", addr, n, took)
		}
	})
}

func TestConnectTimeoutIsTyped(t *testing.T) {
	places := port.Hold(t, "127.0.0.4", "127.0.0.6")
	silent := full(t, places[0])
	p := newPool(t, Options{ConnectTimeout: 100 * time.Millisecond})
	h := p.Host(Key{Scheme: Clear, Host: "silent.example", Port: silent.Port()})
	_, err := h.Dial(context.Background(), Route{Addrs: addrs("127.0.0.4")}, nil)
	var e *Error
	if !errors.As(err, &e) || e.Reason != policy.UpstreamTimeout || e.Attempts != 1 {
		t.Errorf("%#v", err)
	}
	// Who refuses has time for it.
	h = newPool(t, Options{}).Host(h.Key())
	_, err = h.Dial(context.Background(), Route{Addrs: addrs("127.0.0.6")}, nil)
	if !errors.As(err, &e) || e.Reason != policy.UpstreamUnreachable {
		t.Errorf("%#v", err)
	}
	if _, err = h.Dial(context.Background(), Route{}, nil); !errors.As(err, &e) || e.Attempts != 0 {
		t.Errorf("%#v", err)
	}
}
