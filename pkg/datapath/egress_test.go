package datapath_test

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
)

// Socket options and ancillary data that give a packet another interface, source
// or first hop. There is no nftables here: only egress stands in between.

func cableIndex(t testing.TB, w *world) (index uint32) {
	t.Helper()
	err := within(w.inside, func() error {
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

func TestEgressBypasses(t *testing.T) {
	w := newWorld(t)
	o := w.origin("0.0.0.0:443")
	o6 := w.origin("[2001:db8::1]:80")
	// An origin that would take a packet for our own listener's address, too: the far
	// end answers for loopback addresses that come out of the cable.
	cable := cableIndex(t, w)
	c := w.spawn(w.workload("a"))

	type option struct {
		name          string
		family        int
		level, option int
		value         []byte
	}
	options := []option{
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
	}
	dst := map[int]string{unix.AF_INET: "203.0.113.1:443", unix.AF_INET6: "[2001:db8::1]:80"}
	local := map[int]string{unix.AF_INET: "203.0.113.2:0", unix.AF_INET6: "[2001:db8::2]:0"}
	dns := map[int]string{unix.AF_INET: "203.0.113.1:53", unix.AF_INET6: "[2001:db8::1]:53"}
	for _, opt := range options {
		set := func(fd int) reply {
			return c.do(call{Op: "setsockopt", FD: fd, Level: opt.level, Option: opt.option, Value: opt.value})
		}
		for _, order := range []string{"before connect", "after connect"} {
			t.Run(opt.name+" tcp "+order, func(t *testing.T) {
				fd := c.tcp(opt.family)
				defer c.must(call{Op: "close", FD: fd})
				// With a loopback source the kernel itself refuses to send elsewhere.
				c.must(call{Op: "bind", FD: fd, Addr: local[opt.family]})
				var r reply
				if order == "before connect" {
					if r = set(fd); r.Errno == 0 {
						_ = c.do(call{Op: "connect", FD: fd, Addr: dst[opt.family]})
					}
				} else {
					c.must(call{Op: "connect", FD: fd, Addr: dst[opt.family]})
					r = set(fd)
				}
				t.Logf("setsockopt: %v", r.err())
				_ = c.do(call{Op: "send", FD: fd, Data: "tcp", Flags: unix.MSG_NOSIGNAL | unix.MSG_DONTWAIT})
				_ = c.do(call{Op: "sendto", FD: fd, Addr: dst[opt.family], Data: "tcp", Flags: unix.MSG_NOSIGNAL | unix.MSG_DONTWAIT | unix.MSG_FASTOPEN})
				_ = c.do(call{Op: "shutdown", FD: fd})
			})
			t.Run(opt.name+" dns "+order, func(t *testing.T) {
				fd := c.udp(opt.family)
				defer c.must(call{Op: "close", FD: fd})
				c.must(call{Op: "bind", FD: fd, Addr: local[opt.family]})
				if order == "before connect" {
					_ = set(fd)
					_ = c.do(call{Op: "sendto", FD: fd, Addr: dns[opt.family], Data: "dns"})
				}
				_ = c.do(call{Op: "connect", FD: fd, Addr: dns[opt.family]})
				if order == "after connect" {
					_ = set(fd)
				}
				_ = c.do(call{Op: "send", FD: fd, Data: "dns"})
				_ = c.do(call{Op: "sendto", FD: fd, Addr: dns[opt.family], Data: "dns"})
			})
		}
	}

	ancillary := []struct {
		name   string
		family int
		data   []byte
	}{
		{"IP_PKTINFO", unix.AF_INET, control(unix.IPPROTO_IP, unix.IP_PKTINFO, pktinfo4(cable, inside4))},
		{"IP_RETOPTS source route", unix.AF_INET, control(unix.IPPROTO_IP, unix.IP_RETOPTS, sourceRoute4(outside4))},
		{"IPV6_PKTINFO", unix.AF_INET6, control(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, pktinfo6(cable))},
		{"IPV6_RTHDR type 2", unix.AF_INET6, control(unix.IPPROTO_IPV6, unix.IPV6_RTHDR, routing2(outside6))},
		{"IPV6_RTHDR type 4", unix.AF_INET6, control(unix.IPPROTO_IPV6, unix.IPV6_RTHDR, segment(outside6))},
	}
	for _, a := range ancillary {
		t.Run(a.name+" ancillary", func(t *testing.T) {
			for _, connected := range []bool{false, true} {
				fd := c.udp(a.family)
				if connected {
					c.must(call{Op: "connect", FD: fd, Addr: dns[a.family]})
					t.Logf("send: %v", c.do(call{Op: "send", FD: fd, Data: "dns", Control: a.data}).err())
				} else {
					t.Logf("sendto: %v", c.do(call{Op: "sendto", FD: fd, Addr: dns[a.family], Data: "dns", Control: a.data}).err())
				}
				other := c.do(call{Op: "sendto", FD: fd, Addr: strings.Replace(dns[a.family], ":53", ":443", 1), Data: "udp", Control: a.data})
				if other.Errno == 0 {
					t.Error("other UDP was sent")
				}
				c.must(call{Op: "close", FD: fd})
			}
			fd := c.tcp(a.family)
			c.must(call{Op: "bind", FD: fd, Addr: local[a.family]})
			c.must(call{Op: "connect", FD: fd, Addr: dst[a.family]})
			_ = c.do(call{Op: "send", FD: fd, Data: "tcp", Control: a.data, Flags: unix.MSG_NOSIGNAL})
			c.must(call{Op: "close", FD: fd})
		})
	}
	if w.refused(datapath.EgressDenied) == 0 {
		t.Error("egress refused nothing: the tricks do not work here, so nothing was tested")
	}
	if n := o.connections.Load() + o6.connections.Load(); n != 0 || o.data()+o6.data() != "" {
		t.Errorf("the origins got %d connections and %q", n, o.data()+o6.data())
	}
	w.sealed()
}

// Each trick leads out when egress is not there: the test above could fail.
func TestEgressBypassesLeadOutWithoutEgress(t *testing.T) {
	w := newWorld(t)
	cable := cableIndex(t, w)
	group := w.workload("a")
	detachLink(t, w, group, "egress")
	c := w.spawn(group)
	fd := c.tcp(unix.AF_INET)
	c.must(call{Op: "bind", FD: fd, Addr: "203.0.113.2:0"})
	c.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"})
	c.must(call{Op: "setsockopt", FD: fd, Level: unix.SOL_SOCKET, Option: unix.SO_BINDTODEVICE, Value: []byte("cable0\x00")})
	c.must(call{Op: "send", FD: fd, Data: "tcp"})
	w.await("a TCP packet", func() bool { return w.leaked.Load() > 0 })
	c.must(call{Op: "close", FD: fd})
	before := w.leaked.Load()
	udp := c.udp(unix.AF_INET)
	c.must(call{Op: "sendto", FD: udp, Addr: "203.0.113.1:53", Data: "dns", Control: control(unix.IPPROTO_IP, unix.IP_PKTINFO, pktinfo4(cable, inside4))})
	w.await("a UDP packet", func() bool { return w.leaked.Load() > before })
}
