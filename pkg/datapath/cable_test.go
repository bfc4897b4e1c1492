package datapath_test

import (
	"errors"
	"net/netip"
	"os"
	"strings"
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
			// With another number than its peer's the carrier is urgent, not once a
			// second's (linkwatch_urgent_event).
			LinkAttrs:     netlink.LinkAttrs{Name: "cable0", Index: 7},
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
	if err == nil {
		near, far := outside.End{Namespace: w.inside, Interface: "cable0"}, outside.End{Namespace: w.outside, Interface: "cable1"}
		err = errors.Join(outside.Acquaint(near, far, outside4, outside6), outside.Acquaint(far, near, inside4, inside6),
			outside.Ready(near, inside4, inside6), outside.Ready(far, outside4, outside6))
	}
	if err != nil {
		w.t.Fatalf("cable: %v", err)
	}
	w.wire = outside.Tap(w.t, w.outside, "cable1", netip.AddrPortFrom(outside4, canaryPort).String())
}

// canaryPort is one that no test uses: packets to it are the wire's own.
const canaryPort = 65535

// left gives the TCP and UDP packets that came out of the cable since the last call.
func (w *world) left() (packets []string) {
	w.t.Helper()
	for _, p := range w.wire.Packets(w.inside) {
		transport := strings.HasPrefix(p.Text, "tcp") || strings.HasPrefix(p.Text, "udp")
		// A routing header is as good as the transport.
		if transport || strings.Contains(p.Text, " by a routing header ") {
			packets = append(packets, p.Text)
		}
	}
	return packets
}

// sealed fails if anything came out of the cable since the last look.
func (w *world) sealed() {
	w.t.Helper()
	if left := w.left(); len(left) != 0 {
		w.t.Errorf("%d packets of the workload came out of the cable: %q", len(left), left)
	}
}
