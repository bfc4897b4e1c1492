// Package port gives tests ports of their own: one that is held nobody else on the host
// can take, one that is free no other test that asks here is given meanwhile. A port
// that was free a moment ago, which a listener gave that was closed, is any other
// test's next one.
package port

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// A Place is an address and port that is taken without anybody listening there:
// connecting to it is refused.
type Place struct {
	netip.AddrPort
	t  testing.TB
	fd int
}

// Hold takes one port, the same at each of the addresses, until the test ends.
func Hold(t testing.TB, addresses ...string) []*Place {
	t.Helper()
	var err error
	// A port that is free at the first address may be taken at another.
	for range 100 {
		var all []*Place
		if all, err = hold(t, addresses); err == nil {
			t.Cleanup(func() { release(all) })
			return all
		}
	}
	t.Fatal(err)
	return nil
}

// Refusing is Hold for one address.
func Refusing(t testing.TB, address string) *Place {
	t.Helper()
	return Hold(t, address)[0]
}

func hold(t testing.TB, addresses []string) (all []*Place, err error) {
	number := uint16(0)
	for _, text := range addresses {
		a, err := netip.ParseAddr(text)
		if err != nil {
			release(all)
			return nil, err
		}
		p, err := take(netip.AddrPortFrom(a, number))
		if err != nil {
			release(all)
			return nil, fmt.Errorf("taking a port at %s: %w", text, err)
		}
		p.t = t
		all = append(all, p)
		number = p.Port()
	}
	return all, nil
}

func release(all []*Place) {
	for _, p := range all {
		if p.fd >= 0 {
			unix.Close(p.fd)
			p.fd = -1
		}
	}
}

// take binds. Without SO_REUSEADDR nobody else can, whatever they set.
func take(at netip.AddrPort) (*Place, error) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()})
	if at.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, sa); err != nil {
		unix.Close(fd)
		return nil, err
	}
	own, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	number := 0
	switch own := own.(type) {
	case *unix.SockaddrInet4:
		number = own.Port
	case *unix.SockaddrInet6:
		number = own.Port
	}
	return &Place{AddrPort: netip.AddrPortFrom(at.Addr(), uint16(number)), fd: fd}, nil
}

// Listen has the place accept connections. Whoever calls it closes the listener.
func (p *Place) Listen() net.Listener {
	p.t.Helper()
	if err := unix.Listen(p.fd, unix.SOMAXCONN); err != nil {
		p.t.Fatal(err)
	}
	f := os.NewFile(uintptr(p.fd), p.String())
	p.fd = -1
	// It listens with a copy.
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		p.t.Fatal(err)
	}
	return l
}

// fixed are sallyport's own ports and those that tests of pkg/datapath bind.
var fixed = []uint16{15001, 15053, 20404, 21414}

// Free gives a port of 127.0.0.1 for a program that has to bind it itself, this test's
// until it ends. It lies below the range from which the kernel gives ports to those who
// name none, so that none of them gets it before.
func Free(t testing.TB) uint16 {
	t.Helper()
	// Below lie most of the ports that servers have unasked, here and in tests.
	const least = 10000
	var first, last int
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(b), &first, &last)
	}
	if err != nil || first < least+1000 {
		// Too few are left below: any that is free.
		first = 1 << 16
	}
	for range 1000 {
		number := uint16(least + rand.IntN(first-least))
		if slices.Contains(fixed, number) {
			continue
		}
		if err = claim(t, number); err == nil {
			return number
		}
	}
	t.Fatal(err)
	return 0
}

// claim makes a port that nobody has this test's. The name is taken before the port is
// tried, for a try could be in the way of the program that another test starts there.
// It is of the network namespace, as the port is, and goes with the process at the
// latest (unix(7), abstract).
func claim(t testing.TB, number uint16) error {
	name, err := net.Listen("unix", fmt.Sprintf("@sallyport-test-port-%d", number))
	if err != nil {
		return err
	}
	if err := unused(number); err != nil {
		return errors.Join(err, name.Close())
	}
	t.Cleanup(func() { name.Close() })
	return nil
}

// unused reports whether nobody has the port, for TCP or UDP.
func unused(number uint16) error {
	at := fmt.Sprintf("127.0.0.1:%d", number)
	l, err := net.Listen("tcp4", at)
	if err != nil {
		return err
	}
	c, err := net.ListenPacket("udp4", at)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	return errors.Join(c.Close(), l.Close())
}
