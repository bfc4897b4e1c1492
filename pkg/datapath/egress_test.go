package datapath_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
	"sallyport/test/outside"
)

// Socket options and ancillary data that give a packet another interface, source
// or first hop. There is no nftables here: only egress stands in between.

func cableIndex(t testing.TB, w *world) (index uint32) {
	t.Helper()
	err := outside.In(w.inside, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		ifr, err := unix.NewIfreq("cable0")
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
			return err
		}
		index = ifr.Uint32()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func le32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func pktinfo4(index uint32, src netip.Addr) []byte {
	b := le32(index)
	b = append(b, src.AsSlice()...)
	return append(b, 0, 0, 0, 0)
}

func pktinfo6(index uint32) []byte {
	return append(make([]byte, 16), le32(index)...)
}

// routing2 is a type 2 routing header (RFC 6275, 6.4), segment a segment routing
// header (RFC 8754, 2) whose first hop is via.
func routing2(via netip.Addr) []byte {
	return append([]byte{0, 2, 2, 1, 0, 0, 0, 0}, via.AsSlice()...)
}

func segment(via netip.Addr) []byte {
	b := []byte{0, 4, 4, 1, 1, 0, 0, 0}
	b = append(b, make([]byte, 16)...) // the last segment: the kernel writes the target
	return append(b, via.AsSlice()...)
}

// sourceRoute4 is loose source routing over one hop (RFC 791, 3.1).
func sourceRoute4(via netip.Addr) []byte {
	return append(append([]byte{131, 7, 4}, via.AsSlice()...), 0)
}

func control(level, kind int, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(len(data))))
	binary.NativeEndian.PutUint32(b[8:], uint32(level))
	binary.NativeEndian.PutUint32(b[12:], uint32(kind))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

// A trick tries to send around the redirection, by TCP, by DNS and by other UDP.
type trick struct {
	name string
	run  func(c *child)
}

var (
	farTCP = map[int]string{unix.AF_INET: "203.0.113.1:443", unix.AF_INET6: "[2001:db8::1]:443"}
	farDNS = map[int]string{unix.AF_INET: "203.0.113.1:53", unix.AF_INET6: "[2001:db8::1]:53"}
	// With a loopback source the kernel itself refuses to send elsewhere.
	near = map[int]string{unix.AF_INET: "203.0.113.2:0", unix.AF_INET6: "[2001:db8::2]:0"}
)

func tricks(cable uint32) (all []trick) {
	for _, opt := range []struct {
		name          string
		family        int
		level, option int
		value         []byte
	}{
		{"IP_PKTINFO", unix.AF_INET, unix.IPPROTO_IP, unix.IP_PKTINFO, pktinfo4(cable, inside4)},
		{"IP_UNICAST_IF", unix.AF_INET, unix.IPPROTO_IP, unix.IP_UNICAST_IF, be32(cable)},
		{"IP_OPTIONS source route", unix.AF_INET, unix.IPPROTO_IP, unix.IP_OPTIONS, sourceRoute4(outside4)},
		{"SO_BINDTODEVICE", unix.AF_INET, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, []byte("cable0\x00")},
		{"SO_BINDTOIFINDEX", unix.AF_INET, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, le32(cable)},
		{"SO_DONTROUTE", unix.AF_INET, unix.SOL_SOCKET, unix.SO_DONTROUTE, le32(1)},
		{"IPV6_PKTINFO", unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, pktinfo6(cable)},
		{"IPV6_UNICAST_IF", unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_IF, be32(cable)},
		{"IPV6_RTHDR type 2", unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_RTHDR, routing2(outside6)},
		{"IPV6_RTHDR type 4", unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_RTHDR, segment(outside6)},
		{"SO_BINDTODEVICE ipv6", unix.AF_INET6, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, []byte("cable0\x00")},
	} {
		set := func(c *child, fd int) {
			_ = c.do(call{Op: "setsockopt", FD: fd, Level: opt.level, Option: opt.option, Value: opt.value})
		}
		for _, early := range []bool{true, false} {
			order := " after connect"
			if early {
				order = " before connect"
			}
			all = append(all, trick{opt.name + order + ", tcp", func(c *child) {
				fd := c.tcp(opt.family)
				defer c.abort(fd)
				c.must(call{Op: "bind", FD: fd, Addr: near[opt.family]})
				if early {
					c.hurry(fd)
					set(c, fd)
					_ = c.do(call{Op: "connect", FD: fd, Addr: farTCP[opt.family]})
				} else {
					c.must(call{Op: "connect", FD: fd, Addr: farTCP[opt.family]})
					set(c, fd)
				}
				const flags = unix.MSG_NOSIGNAL | unix.MSG_DONTWAIT
				_ = c.do(call{Op: "send", FD: fd, Data: "tcp", Flags: flags})
				_ = c.do(call{Op: "sendto", FD: fd, Addr: farTCP[opt.family], Data: "tcp", Flags: flags | unix.MSG_FASTOPEN})
				_ = c.do(call{Op: "shutdown", FD: fd})
			}}, trick{opt.name + order + ", dns", func(c *child) {
				fd := c.udp(opt.family)
				defer c.must(call{Op: "close", FD: fd})
				c.must(call{Op: "bind", FD: fd, Addr: near[opt.family]})
				if early {
					set(c, fd)
					_ = c.do(call{Op: "sendto", FD: fd, Addr: farDNS[opt.family], Data: "dns"})
				}
				_ = c.do(call{Op: "connect", FD: fd, Addr: farDNS[opt.family]})
				if !early {
					set(c, fd)
				}
				_ = c.do(call{Op: "send", FD: fd, Data: "dns"})
				_ = c.do(call{Op: "sendto", FD: fd, Addr: farDNS[opt.family], Data: "dns"})
			}})
		}
	}
	for _, a := range []struct {
		name   string
		family int
		data   []byte
	}{
		{"IP_PKTINFO", unix.AF_INET, control(unix.IPPROTO_IP, unix.IP_PKTINFO, pktinfo4(cable, inside4))},
		{"IP_RETOPTS source route", unix.AF_INET, control(unix.IPPROTO_IP, unix.IP_RETOPTS, sourceRoute4(outside4))},
		{"IPV6_PKTINFO", unix.AF_INET6, control(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, pktinfo6(cable))},
		{"IPV6_RTHDR type 2", unix.AF_INET6, control(unix.IPPROTO_IPV6, unix.IPV6_RTHDR, routing2(outside6))},
		{"IPV6_RTHDR type 4", unix.AF_INET6, control(unix.IPPROTO_IPV6, unix.IPV6_RTHDR, segment(outside6))},
	} {
		all = append(all, trick{a.name + " ancillary, dns", func(c *child) {
			for _, connected := range []bool{false, true} {
				fd := c.udp(a.family)
				c.must(call{Op: "bind", FD: fd, Addr: near[a.family]})
				if connected {
					c.must(call{Op: "connect", FD: fd, Addr: farDNS[a.family]})
					_ = c.do(call{Op: "send", FD: fd, Data: "dns", Control: a.data})
				}
				_ = c.do(call{Op: "sendto", FD: fd, Addr: farDNS[a.family], Data: "dns", Control: a.data})
				_ = c.do(call{Op: "sendto", FD: fd, Addr: farTCP[a.family], Data: "udp", Control: a.data})
				c.must(call{Op: "close", FD: fd})
			}
		}}, trick{a.name + " ancillary, tcp", func(c *child) {
			fd := c.tcp(a.family)
			c.must(call{Op: "bind", FD: fd, Addr: near[a.family]})
			c.must(call{Op: "connect", FD: fd, Addr: farTCP[a.family]})
			_ = c.do(call{Op: "send", FD: fd, Data: "tcp", Control: a.data, Flags: unix.MSG_NOSIGNAL})
			c.abort(fd)
		}})
	}
	return all
}

func TestEgressBypasses(t *testing.T) {
	w := newWorld(t)
	o := w.origin(":443") // both families
	c := w.spawn(w.workload("a"))
	for _, k := range tricks(cableIndex(t, w)) {
		k.run(c)
		if left := w.left(); len(left) != 0 {
			t.Errorf("%s: %d packets came out of the cable: %q", k.name, len(left), left)
		}
	}
	if w.refused(datapath.EgressDenied) == 0 {
		t.Error("egress refused nothing")
	}
	if n := o.connections.Load(); n != 0 || o.data() != "" {
		t.Errorf("the origin got %d connections and %q", n, o.data())
	}
	w.sealed()
}

// The tricks are real: with egress detached many of them lead out.
func TestEgressBypassesLeadOutWithoutEgress(t *testing.T) {
	w := newWorld(t)
	group := w.workload("a")
	detachLink(t, w, group, "egress")
	c := w.spawn(group)
	leads := make(map[string]bool)
	for _, k := range tricks(cableIndex(t, w)) {
		k.run(c)
		leads[k.name] = len(w.left()) != 0
		t.Logf("%-50s leads out: %v", k.name, leads[k.name])
	}
	for _, must := range []string{
		"IP_UNICAST_IF before connect, dns",
		"SO_BINDTODEVICE before connect, tcp",
		"SO_BINDTODEVICE after connect, tcp",
		"SO_BINDTODEVICE after connect, dns",
		"SO_BINDTODEVICE ipv6 after connect, tcp",
		"IP_OPTIONS source route before connect, tcp",
		"IPV6_UNICAST_IF before connect, dns",
		"IP_PKTINFO ancillary, dns",
		"IPV6_PKTINFO ancillary, dns",
	} {
		if !leads[must] {
			t.Errorf("%s: leads nowhere without egress, so the test of it proves nothing", must)
		}
	}
}
