package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LocalAddresses lists what is local to the network namespace ns (nil: here):
// the addresses of its interfaces, and every prefix that a routing table has as
// local or anycast (127.0.0.0/8, and what `ip route add local` made), sorted and
// without repetitions. A packet to one of them does not leave the host.
func LocalAddresses(ns *os.File) ([]netip.Prefix, error) {
	var local []netip.Prefix
	err := Do(ns, func() error {
		addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
		if err != nil {
			return fmt.Errorf("list addresses: %w", err)
		}
		for _, a := range addrs {
			// On a point-to-point interface IPNet is the own address and Peer
			// the other end's.
			if addr, ok := netip.AddrFromSlice(a.IP); ok {
				addr = addr.Unmap()
				local = append(local, netip.PrefixFrom(addr, addr.BitLen()))
			}
		}
		for _, kind := range []int{unix.RTN_LOCAL, unix.RTN_ANYCAST} {
			prefixes, err := routes(kind)
			if err != nil {
				return err
			}
			local = append(local, prefixes...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("local addresses: %w", err)
	}
	slices.SortFunc(local, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	return slices.Compact(local), nil
}

// routes lists the destinations of one type (rtnetlink(7)) in all tables: the
// addresses of an interface below a VRF are in that VRF's table.
func routes(kind int) ([]netip.Prefix, error) {
	filter := &netlink.Route{Type: kind, Table: unix.RT_TABLE_UNSPEC}
	var prefixes []netip.Prefix
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := dump(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_TYPE|netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range list {
			if p, ok := prefix(r.Dst); ok {
				prefixes = append(prefixes, p)
			}
		}
	}
	return prefixes, nil
}

// prefix turns net's form into netip's. A nil network is a default route: a
// local one would make everything local, and is taken as nothing here.
func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if !ok || size == 0 {
		return netip.Prefix{}, false
	}
	if addr.Is4In6() && size == 32 {
		addr = addr.Unmap()
	}
	p := netip.PrefixFrom(addr, bits).Masked()
	return p, p.IsValid()
}

// dump repeats a netlink dump that something changed under: the kernel then
// marks it as incomplete (NLM_F_DUMP_INTR). What stays incomplete is an error
// and not an answer.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	const tries = 30
	var err error
	for range tries {
		var result []T
		if result, err = list(); err == nil {
			return result, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
			return nil, err
		}
	}
	return nil, err
}
