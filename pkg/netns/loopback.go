package netns

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
)

// RaiseLoopback brings the loopback interface of ns up if it is down, as it is in
// a namespace that was just made: without it nothing can be listened on there. It
// reports whether it had to. It needs CAP_NET_ADMIN in the owner of ns.
func RaiseLoopback(ns *os.File) (raised bool, err error) {
	err = Do(ns, func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		if lo.Attrs().Flags&net.FlagUp != 0 {
			return nil
		}
		raised = true
		return h.LinkSetUp(lo)
	})
	if err != nil {
		return false, fmt.Errorf("bring the loopback interface up: %w", err)
	}
	return raised, nil
}

// Gateways lists the routers that ns sends to.
func Gateways(ns *os.File) ([]netip.Addr, error) {
	var found []netip.Addr
	err := Do(ns, func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			list, err := dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
			if err != nil {
				return err
			}
			for _, r := range list {
				if a, ok := netip.AddrFromSlice(r.Gw); ok {
					found = append(found, a.Unmap())
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list gateways: %w", err)
	}
	return found, nil
}
