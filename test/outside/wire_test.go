package outside

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestWire: what was sent before the look is in what it gives, from whichever
// processor, and nothing of it is in the next.
func TestWire(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	near, far := NewNamespace(t), NewNamespace(t)
	err := In(far, func() error {
		cable := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "near0", PeerNamespace: netlink.NsFd(near.Fd())}
		cable.Name = "far0"
		if err := netlink.LinkAdd(cable); err != nil {
			return err
		}
		return Plug("far0", "192.0.2.2/24")
	})
	if err == nil {
		err = In(near, func() error { return Plug("near0", "192.0.2.1/24") })
	}
	if err == nil {
		err = Acquaint(End{near, "near0"}, End{far, "far0"}, netip.MustParseAddr("192.0.2.2"))
	}
	if err != nil {
		t.Fatal(err)
	}
	w := Tap(t, far, "far0", "192.0.2.2:9")
	for round := range 200 {
		var want []string
		err := In(near, func() error {
			return onEachCPU(func() error {
				c, err := net.Dial("udp4", fmt.Sprintf("192.0.2.2:%d", 1000+round))
				if err != nil {
					return err
				}
				defer c.Close()
				want = append(want, fmt.Sprintf("udp %s > 192.0.2.2:%d", c.LocalAddr(), 1000+round))
				_, err = c.Write([]byte("x"))
				return err
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range w.Packets(near) {
			got = append(got, p.Text)
		}
		slices.Sort(got)
		slices.Sort(want)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("round %d: %q, want %q", round, got, want)
		}
	}
}
