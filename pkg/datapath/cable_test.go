package datapath_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"

	"sallyport/test/outside"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func netnsCookie(t testing.TB, ns *os.File) (cookie uint64) {
	t.Helper()
	err := outside.In(ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return cookie
}

// cable joins the namespaces by a veth pair.
func (w *world) cable() {
	err := outside.In(w.inside, func() error {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("0"), 0); err != nil {
			return err
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0); err != nil {
			return err
		}
		if err := outside.Plug("lo"); err != nil {
			return err
		}
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: "cable0"},
			PeerName:      "cable1",
			PeerNamespace: netlink.NsFd(w.outside.Fd()),
		})
	})
	if err == nil {
		err = outside.In(w.outside, func() error {
			if err := outside.Plug("lo"); err != nil {
				return err
			}
			return outside.Plug("cable1", outside4.String()+"/24", outside6.String()+"/64", "198.51.100.1/24", "2001:db8:1::1/64")
		})
	}
	if err == nil {
		err = outside.In(w.inside, func() error {
			if err := outside.Plug("cable0", inside4.String()+"/24", inside6.String()+"/64"); err != nil {
				return err
			}
			for _, gw := range []netip.Addr{outside4, outside6} {
				if err := netlink.RouteAdd(&netlink.Route{Gw: gw.AsSlice()}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		w.t.Fatalf("cable: %v", err)
	}
}

// sniff counts the TCP and UDP packets that come out of the cable.
func (w *world) sniff() {
	var fd int
	err := outside.In(w.outside, func() (err error) {
		link, err := netlink.LinkByName("cable1")
		if err != nil {
			return err
		}
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index})
	})
	if err != nil {
		w.t.Fatalf("sniffer: %v", err)
	}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for !stop.Load() {
			n, from, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				continue
			}
			ll, ok := from.(*unix.SockaddrLinklayer)
			if !ok || ll.Pkttype == unix.PACKET_OUTGOING || n < 28 {
				continue
			}
			proto, header := buf[9], 20
			if buf[0]>>4 == 6 {
				// A routing header is as good as the transport.
				proto, header = buf[6], 40
				if proto == unix.IPPROTO_ROUTING {
					proto, header = unix.IPPROTO_TCP, n
				}
			}
			// A bare RST is the kernel's answer for a socket that is gone. To a packet
			// for one of the host's own global IPv6 addresses it answers through that
			// address's interface, also from loopback (net/ipv6/tcp_ipv6.c).
			if proto == unix.IPPROTO_TCP && n == header+20 && buf[header+13]&4 != 0 {
				continue
			}
			if proto == unix.IPPROTO_TCP || proto == unix.IPPROTO_UDP {
				w.leaked.Add(1)
				w.mu.Lock()
				w.leaks = append(w.leaks, fmt.Sprintf("%x", buf[:min(n, 80)]))
				w.mu.Unlock()
			}
		}
	}()
	w.t.Cleanup(func() { stop.Store(true); <-done; unix.Close(fd) })
}

// sealed fails if anything came out of the cable.
func (w *world) sealed() {
	w.t.Helper()
	if n := w.leaked.Load(); n != 0 {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.t.Errorf("%d packets of the workload came out of the cable: %v", n, w.leaks)
	}
}
