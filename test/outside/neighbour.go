package outside

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
)

// An End is one end of a cable: an interface and its namespace.
type End struct {
	Namespace *os.File
	Interface string
}

// Acquaint tells an end for good which hardware address the other end's addresses have.
// What leaves then leaves at once and in order, without ARP or neighbour discovery.
func Acquaint(near, far End, addresses ...netip.Addr) error {
	var hardware net.HardwareAddr
	err := In(far.Namespace, func() error {
		link, err := netlink.LinkByName(far.Interface)
		if err != nil {
			return fmt.Errorf("%s: %w", far.Interface, err)
		}
		hardware = link.Attrs().HardwareAddr
		return nil
	})
	if err != nil {
		return err
	}
	return In(near.Namespace, func() error {
		link, err := netlink.LinkByName(near.Interface)
		if err != nil {
			return fmt.Errorf("%s: %w", near.Interface, err)
		}
		for _, a := range addresses {
			err := netlink.NeighSet(&netlink.Neigh{
				LinkIndex:    link.Attrs().Index,
				State:        netlink.NUD_PERMANENT,
				IP:           a.AsSlice(),
				HardwareAddr: hardware,
			})
			if err != nil {
				return fmt.Errorf("neighbour %s on %s: %w", a, near.Interface, err)
			}
		}
		return nil
	})
}
