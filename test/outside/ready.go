package outside

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Ready waits until an end of a cable whose other end is plugged in too carries
// packets, and its own addresses, to itself. The kernel takes the carrier up, and the
// local routes of IPv6 addresses, from a queue of work that waits for whoever else
// changes any network namespace of the host (linkwatch_event, addrconf_dad_work): until
// then packets are lost, and TCP repeats a SYN only after a second.
func Ready(e End, own ...netip.Addr) error {
	deadline := time.Now().Add(time.Minute)
	for {
		err := In(e.Namespace, func() error { return carries(e.Interface, own) })
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

func carries(name string, own []netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if state := link.Attrs().OperState; state != netlink.OperUp {
		return fmt.Errorf("%s is %s", name, state)
	}
	for _, a := range own {
		routes, err := netlink.RouteGet(a.AsSlice())
		if err == nil && (len(routes) == 0 || routes[0].Type != unix.RTN_LOCAL) {
			err = errors.New("is no local address yet")
		}
		if err != nil {
			return fmt.Errorf("%s on %s: %w", a, name, err)
		}
	}
	return nil
}
