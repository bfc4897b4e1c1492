package guard

import (
	"net/netip"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/pkg/netns"
)

func addrPorts(list ...string) (out []netip.AddrPort) {
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func TestListenersOnly(t *testing.T) {
	w := newWorld(t)
	dir, id := newCgroup(t, "a")
	ours := start(t, w.host, "")
	for _, l := range []string{"tcp 127.0.0.1:15001", "tcp [::1]:15001", "tcp 127.0.0.1:15002", "tcp 127.0.0.2:15001", "tcp 203.0.113.1:15001"} {
		ours.must("listen %s", l)
	}
	for _, l := range []string{"udp 127.0.0.1:15053", "udp [::1]:15053", "udp 127.0.0.1:15001"} {
		ours.must("packets %s", l)
	}
	start(t, w.outside, "").must("listen tcp :15001")
	tagged := start(t, w.host, dir)
	g := newGuard(t, w.host)
	apply(t, g, State{
		Listeners: addrPorts("127.0.0.1:15001", "[::1]:15001"),
		Resolvers: addrPorts("[::ffff:127.0.0.1]:15053", "[::1]:15053"),
		Tagged:    []Cgroup{{id, level("a")}},
	})
	for _, ok := range []string{
		"tcp4 127.0.0.1:15001", "tcp6 [::1]:15001", "udp4 127.0.0.1:15053", "udp6 [::1]:15053",
	} {
		tagged.must("exchange %s", ok)
	}
	tagged.must("mapped [::ffff:127.0.0.1]:15001")
	tagged.mustNot("mapped [::ffff:127.0.0.1]:15002")
	for _, refused := range []string{
		"tcp4 127.0.0.1:15002", "tcp4 127.0.0.2:15001", "tcp4 203.0.113.1:15001", "tcp4 203.0.113.2:15001",
		"udp4 127.0.0.1:15001", "tcp4 127.0.0.1:15053",
	} {
		tagged.mustNot("exchange %s", refused)
	}

	t.Run("large segments", func(t *testing.T) {
		// Two full segments of lo are more than 64 KiB: IPv6 carries them with a
		// jumbo option (RFC 2675).
		tagged.must("bulk tcp4 127.0.0.1:15001")
		tagged.must("bulk tcp6 [::1]:15001")
	})
	t.Run("source route", func(t *testing.T) {
		// Loose source route by way of the listener: RFC 791 section 3.1.
		tap := newTap(t, w.outside)
		const route = "830704cb00710200" // by way of 203.0.113.2
		tagged.mustNot("option %d %d %s tcp4 127.0.0.1:15001", unix.IPPROTO_IP, unix.IP_OPTIONS, route)
		// Any option will do: no-operations carry no route and are refused too.
		tagged.mustNot("option %d %d 01010101 tcp4 127.0.0.1:15001", unix.IPPROTO_IP, unix.IP_OPTIONS)
		tap.settle(t, w.host)
		if frames := tap.seen(traffic); len(frames) > 0 {
			t.Errorf("%d frames came out", len(frames))
		}
		start(t, w.host, "").must("option %d %d 01010101 tcp4 127.0.0.1:15001", unix.IPPROTO_IP, unix.IP_OPTIONS)
	})
	t.Run("extension header", func(t *testing.T) {
		// A destination options header of 8 bytes with padding, RFC 8200 section 4.6.
		const pad = "0000010400000000"
		tagged.mustNot("option %d %d %s tcp6 [::1]:15001", unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, pad)
		start(t, w.host, "").must("option %d %d %s tcp6 [::1]:15001", unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, pad)
		// A hop-by-hop header of 8 bytes that is not the jumbo option.
		tagged.mustNot("option %d %d %s tcp6 [::1]:15001", unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, pad)
		start(t, w.host, "").must("option %d %d %s tcp6 [::1]:15001", unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, pad)
	})
	t.Run("another interface", func(t *testing.T) {
		const eth0 = "6574683000" // "eth0" as bytes
		tagged.mustNot("option %d %d %s tcp4 127.0.0.1:15001", unix.SOL_SOCKET, unix.SO_BINDTODEVICE, eth0)
		tagged.mustNot("option %d %d %s tcp6 [::1]:15001", unix.SOL_SOCKET, unix.SO_BINDTODEVICE, eth0)
	})
}

// closed reports whether a namespace has no IPv4 connection of a port that says
// anything yet: at most the kernel remembers one that is over (TIME_WAIT).
func closed(t *testing.T, ns *os.File, port uint16) bool {
	t.Helper()
	sockets, err := netns.AllSockets(ns)
	if err != nil {
		t.Fatal(err)
	}
	return !slices.ContainsFunc(sockets, func(s netns.Socket) bool {
		return !s.Listening() && s.State != unix.BPF_TCP_TIME_WAIT && (s.Local.Port() == port || s.Remote.Port() == port)
	})
}

func TestOtherTables(t *testing.T) {
	setup := func(t *testing.T) (w world, tagged *peer, tp *tap, g *Guard) {
		w = newWorld(t)
		shell(t, w.host, "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet")
		dir, id := newCgroup(t, "a")
		start(t, w.host, "").must("listen tcp 127.0.0.1:15001")
		start(t, w.outside, "").must("listen tcp :7")
		tagged, tp, g = start(t, w.host, dir), newTap(t, w.outside), newGuard(t, w.host)
		apply(t, g, State{Listeners: addrPorts("127.0.0.1:15001"), Tagged: []Cgroup{{id, level("a")}}})
		tagged.must("exchange tcp4 127.0.0.1:15001")
		waitFor(t, "the end of the exchange", func() bool { return closed(t, w.host, 15001) })
		return w, tagged, tp, g
	}
	quiet := func(t *testing.T, w world, tp *tap) {
		t.Helper()
		tp.settle(t, w.host)
		if frames := tp.seen(traffic); len(frames) > 0 {
			t.Errorf("%d frames came out, the first: %x", len(frames), frames[0])
		}
	}
	t.Run("destination NAT away from the listener", func(t *testing.T) {
		w, tagged, tp, _ := setup(t)
		nft(t, w.host, `table ip other { chain o { type nat hook output priority -100; ip daddr 127.0.0.1 tcp dport 15001 dnat to 203.0.113.2:7
			}
			chain p { type nat hook postrouting priority 100; oif "eth0" masquerade
			}
		}`)
		start(t, w.host, "").must("exchange tcp4 127.0.0.1:15001") // proves that the NAT works
		waitFor(t, "the end of that exchange", func() bool { return closed(t, w.host, 15001) })
		tp.settle(t, w.host)
		seen := len(tp.seen(traffic))
		tagged.mustNot("exchange tcp4 127.0.0.1:15001")
		tp.settle(t, w.host)
		if n := len(tp.seen(traffic)); n > seen {
			t.Errorf("%d frames came out", n-seen)
		}
	})
	t.Run("destination NAT to the listener", func(t *testing.T) {
		w, tagged, tp, _ := setup(t)
		nft(t, w.host, `table ip other { chain o { type nat hook output priority -100; ip daddr 203.0.113.2 tcp dport 7 redirect to :15001
			}
		}`)
		// nftables sees the interface of before the redirect: closed.
		tagged.mustNot("exchange tcp4 203.0.113.2:7")
		quiet(t, w, tp)
	})
	t.Run("payload rewritten late", func(t *testing.T) {
		w, tagged, tp, _ := setup(t)
		nft(t, w.host, `table ip other { chain o { type route hook output priority 1000; ip daddr 127.0.0.1 tcp dport 15001 ip daddr set 203.0.113.2
			}
		}`)
		tagged.mustNot("exchange tcp4 127.0.0.1:15001")
		quiet(t, w, tp)
	})
	t.Run("rerouted by mark", func(t *testing.T) {
		w, tagged, tp, g := setup(t)
		// Whoever moves the local table behind a rule for a mark can send
		// loopback addresses out.
		shell(t, w.host, `
			ip rule add fwmark 7 lookup 100 pref 5
			ip route add default via 203.0.113.2 dev eth0 table 100
			ip rule add pref 10 lookup local
			ip rule del pref 0`)
		nft(t, w.host, `table ip other { chain o { type route hook output priority -150; ip daddr 127.0.0.1 tcp dport 15001 meta mark set 7
			}
		}`)
		tagged.mustNot("exchange tcp4 127.0.0.1:15001")
		quiet(t, w, tp)
		c, err := g.Counters()
		if err != nil {
			t.Fatal(err)
		}
		if c.Rerouted == 0 {
			t.Error("nothing counted as rerouted: the test does not reach postrouting")
		}
	})
}

func TestDirect(t *testing.T) {
	w := newWorld(t)
	a, idA := newCgroup(t, "a")
	b, idB := newCgroup(t, "b")
	outside := start(t, w.outside, "")
	for _, port := range []int{79, 80, 81, 90, 91, 443} {
		outside.must("listen tcp :%d", port)
		outside.must("packets udp :%d", port)
	}
	taggedA, taggedB := start(t, w.host, a), start(t, w.host, b)
	g := newGuard(t, w.host)
	state := State{
		Tagged: []Cgroup{{idA, level("a")}, {idB, level("b")}},
		Direct: []Direct{
			{idA, netip.MustParsePrefix("203.0.113.2/32"), 80, 90, TCP},
			{idA, netip.MustParsePrefix("203.0.112.0/20"), 443, 443, UDP},
			{idA, netip.MustParsePrefix("2001:db8::/64"), 80, 80, TCP},
			{0, netip.MustParsePrefix("::ffff:203.0.113.0/120"), 443, 443, TCP},
			{0, netip.MustParsePrefix("2001:db8::2/128"), 81, 81, UDP},
		},
	}
	apply(t, g, state)
	for _, tc := range []struct {
		who  *peer
		name string
		to   string
		ok   bool
	}{
		{taggedA, "a", "tcp4 203.0.113.2:79", false},
		{taggedA, "a", "tcp4 203.0.113.2:80", true},
		{taggedA, "a", "tcp4 203.0.113.2:90", true},
		{taggedA, "a", "tcp4 203.0.113.2:91", false},
		{taggedA, "a", "udp4 203.0.113.2:80", false},
		{taggedA, "a", "udp4 203.0.113.2:443", true},
		{taggedA, "a", "tcp6 [2001:db8::2]:80", true},
		{taggedA, "a", "tcp6 [2001:db8::2]:81", false},
		{taggedA, "a", "tcp4 203.0.113.2:443", true},
		{taggedA, "a", "udp6 [2001:db8::2]:81", true},
		{taggedB, "b", "tcp4 203.0.113.2:80", false},
		{taggedB, "b", "udp4 203.0.113.2:443", false},
		{taggedB, "b", "tcp6 [2001:db8::2]:80", false},
		{taggedB, "b", "tcp4 203.0.113.2:443", true},
		{taggedB, "b", "udp6 [2001:db8::2]:81", true},
	} {
		t.Run(tc.name+" "+tc.to, func(t *testing.T) {
			if tc.ok {
				tc.who.must("exchange %s", tc.to)
			} else {
				tc.who.mustNot("exchange %s", tc.to)
			}
		})
	}
	taggedB.must("mapped [::ffff:203.0.113.2]:443")
	taggedB.mustNot("mapped [::ffff:203.0.113.2]:80")
	t.Run("taken back", func(t *testing.T) {
		state.Direct = nil
		apply(t, g, state)
		taggedA.mustNot("exchange tcp4 203.0.113.2:80")
	})
}

func TestLevels(t *testing.T) {
	w := newWorld(t)
	outer, outerID := newCgroup(t, "slice")
	inner, innerID := newCgroup(t, "slice/service")
	deep, _ := newCgroup(t, "slice/service/child")
	start(t, w.outside, "").must("listen tcp :7")
	inOuter, inInner, inDeep := start(t, w.host, outer), start(t, w.host, inner), start(t, w.host, deep)
	there := Direct{Prefix: netip.PrefixFrom(there4, 32), First: 7, Last: 7, Protocol: TCP}
	g := newGuard(t, w.host)
	const to = "exchange tcp4 203.0.113.2:7"

	apply(t, g, State{Tagged: []Cgroup{{innerID, level("slice/service")}}})
	inOuter.must(to)
	inInner.mustNot(to)
	inDeep.mustNot(to) // what is below a tagged cgroup is tagged

	both := []Cgroup{{innerID, level("slice/service")}, {outerID, level("slice")}}
	apply(t, g, State{Tagged: both})
	inOuter.mustNot(to)
	inDeep.mustNot(to)

	there.Cgroup = innerID
	apply(t, g, State{Tagged: both, Direct: []Direct{there}})
	inOuter.mustNot(to)
	inInner.must(to)

	there.Cgroup = outerID
	apply(t, g, State{Tagged: both, Direct: []Direct{there}})
	inOuter.must(to)
	inInner.mustNot(to) // the deeper cgroup decides
	inDeep.mustNot(to)

	apply(t, g, State{Tagged: []Cgroup{{outerID, level("slice")}}, Direct: []Direct{there}})
	inDeep.must(to)

	apply(t, g, State{})
	inOuter.must(to)
	inInner.must(to)
}

func TestCgroupMadeAnew(t *testing.T) {
	w := newWorld(t)
	start(t, w.outside, "").must("listen tcp :7")
	g := newGuard(t, w.host)
	dir, id := newCgroup(t, "a")
	apply(t, g, State{Tagged: []Cgroup{{id, level("a")}}})
	if err := unix.Rmdir(dir); err != nil {
		t.Fatal(err)
	}
	again, newID := newCgroup(t, "a")
	if newID == id {
		t.Fatalf("the new cgroup has the old id %d: the test shows nothing", id)
	}
	tagged := start(t, w.host, again)
	tagged.must("exchange tcp4 203.0.113.2:7")
	apply(t, g, State{Tagged: []Cgroup{{newID, level("a")}}})
	tagged.mustNot("exchange tcp4 203.0.113.2:7")
}
