package address

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func ownNone(netip.Addr) bool { return false }

func ownIs(addrs ...string) func(netip.Addr) bool {
	return func(a netip.Addr) bool {
		for _, s := range addrs {
			if a == netip.MustParseAddr(s) {
				return true
			}
		}
		return false
	}
}

func TestOf(t *testing.T) {
	tests := []struct {
		addr string
		want Classes
	}{
		{"8.8.8.8", 0},
		{"2606:4700::1", 0},
		// Documentation ranges are ordinary, and so is what no class names.
		{"192.0.2.1", 0}, {"198.51.100.1", 0}, {"203.0.113.1", 0}, {"2001:db8::1", 0}, {"198.18.0.1", 0},
		{"127.0.0.1", Loopback}, {"127.255.255.255", Loopback}, {"::1", Loopback},
		{"0.0.0.0", Unspecified}, {"0.1.2.3", Unspecified}, {"::", Unspecified},
		{"10.0.0.1", Private}, {"172.16.0.1", Private}, {"172.31.255.255", Private}, {"172.32.0.1", 0},
		{"192.168.1.1", Private}, {"fd12::1", Private}, {"fc00::1", Private}, {"fec0::1", Private},
		{"169.254.1.1", LinkLocal}, {"fe80::1", LinkLocal}, {"fe80::1%eth0", LinkLocal}, {"febf::1", LinkLocal},
		{"100.64.0.1", CGNAT}, {"100.127.255.255", CGNAT}, {"100.128.0.1", 0}, {"100.100.100.200", CGNAT},
		{"224.0.0.1", Multicast}, {"239.255.255.250", Multicast}, {"ff02::1", Multicast},
		{"255.255.255.255", Broadcast | Reserved}, {"240.0.0.1", Reserved},
		{"169.254.169.254", Metadata | LinkLocal}, {"fd00:ec2::254", Metadata | Private},
		{"64:ff9b:1::1", LocalNAT64},
		// Embedding: mapped, NAT64, 6to4, Teredo (client, server), compatible,
		// translated.
		{"::ffff:127.0.0.1", Loopback}, {"::ffff:8.8.8.8", 0},
		{"64:ff9b::7f00:1", Loopback}, {"64:ff9b::a9fe:a9fe", Metadata | LinkLocal}, {"64:ff9b::808:808", 0},
		{"2002:7f00:1::", Loopback}, {"2002:a00:1::1", Private}, {"2002:808:808::1", 0},
		{"2001:0:808:808::f5ff:fffe", Private}, {"2001:0:7f00:1::f7f7:f7f7", Loopback}, {"2001:0:808:808::f7f7:f7f7", 0},
		{"::127.0.0.1", Loopback}, {"::10.0.0.1", Private}, {"::8.8.8.8", 0}, {"::2", Unspecified},
		{"::ffff:0:127.0.0.1", Loopback},
		{"192.0.2.77", Own}, {"64:ff9b::c000:24d", Own}, {"10.9.9.9", Own | Private},
	}
	own := ownIs("192.0.2.77", "10.9.9.9", "127.0.0.1")
	for _, tt := range tests {
		if got := Of(netip.MustParseAddr(tt.addr), own); got != tt.want {
			t.Errorf("%s is %v, want %v", tt.addr, got, tt.want)
		}
	}
}

func TestPermit(t *testing.T) {
	tests := []struct {
		name    string
		entries []string
		addr    string
		want    bool
	}{
		{"ordinary", nil, "8.8.8.8", true},
		{"loopback", nil, "127.0.0.1", false},
		{"listed", []string{"127.0.0.0/8"}, "127.0.0.1", true},
		{"listed exactly", []string{"127.0.0.1/32"}, "127.0.0.1", true},
		{"another", []string{"127.0.0.1/32"}, "127.0.0.2", false},
		{"everything exempts nothing", []string{"0.0.0.0/0", "::/0"}, "127.0.0.1", false},
		{"wider than the class", []string{"10.0.0.0/7"}, "10.0.0.1", false},
		{"the class", []string{"10.0.0.0/8"}, "10.1.2.3", true},
		{"part of the class", []string{"10.1.0.0/16"}, "10.1.2.3", true},
		{"outside the part", []string{"10.1.0.0/16"}, "10.2.2.3", false},
		{"link-local does not speak for metadata", []string{"169.254.0.0/16"}, "169.254.169.254", false},
		{"link-local", []string{"169.254.0.0/16"}, "169.254.169.253", true},
		{"metadata by name", []string{"169.254.169.254/32"}, "169.254.169.254", true},
		{"metadata of IPv6", []string{"fd00::/8"}, "fd00:ec2::254", false},
		{"reserved does not speak for broadcast", []string{"240.0.0.0/4"}, "255.255.255.255", false},
		{"mapped", nil, "::ffff:10.0.0.1", false},
		{"mapped, listed", []string{"10.0.0.0/8"}, "::ffff:10.0.0.1", true},
		{"NAT64", nil, "64:ff9b::a00:1", false},
		{"NAT64 of an ordinary address", nil, "64:ff9b::808:808", true},
		{"NAT64, embedded listed", []string{"10.0.0.0/8"}, "64:ff9b::a00:1", true},
		{"NAT64, itself listed", []string{"64:ff9b::a00:0/104"}, "64:ff9b::a00:1", true},
		{"NAT64, space listed", []string{"64:ff9b::/96"}, "64:ff9b::a00:1", false},
		{"6to4, itself listed", []string{"2002:a00::/24"}, "2002:a00:1::5", true},
		{"6to4, too wide", []string{"2002:a00::/23"}, "2002:a00:1::5", false},
		{"Teredo, space listed", []string{"2001::/32"}, "2001:0:808:808::f5ff:fffe", false},
		{"Teredo, client listed", []string{"10.0.0.0/8"}, "2001:0:808:808::f5ff:fffe", true},
		{"Teredo, client listed but not the server", []string{"10.0.0.0/8"}, "2001:0:7f00:1::f5ff:fffe", false},
		{"local NAT64", nil, "64:ff9b:1::1", false},
		{"local NAT64, listed", []string{"64:ff9b:1::/96"}, "64:ff9b:1::1", true},
		{"own", nil, "192.0.2.77", false},
		{"own, range listed", []string{"192.0.2.0/24"}, "192.0.2.77", false},
		{"own, listed", []string{"192.0.2.77/32"}, "192.0.2.77", true},
		{"own and private", []string{"10.0.0.0/8"}, "10.9.9.9", false},
		{"own and private, listed", []string{"10.9.9.9/32"}, "10.9.9.9", true},
		{"own by NAT64", nil, "64:ff9b::c000:24d", false},
		{"own loopback is loopback", []string{"127.0.0.0/8"}, "127.0.0.1", true},
		{"zone", []string{"fe80::/10"}, "fe80::1%eth0", false},
	}
	own := ownIs("192.0.2.77", "10.9.9.9", "127.0.0.1")
	for _, tt := range tests {
		x := Exempt(prefixes(tt.entries...))
		addr := netip.MustParseAddr(tt.addr)
		if got, left := x.Permit(addr, own); got != tt.want {
			t.Errorf("%s: %s with %v: %v (%v), want %v", tt.name, tt.addr, tt.entries, got, left, tt.want)
		}
		if n := testing.AllocsPerRun(10, func() { x.Permit(addr, own) }); n != 0 {
			t.Errorf("%s: Permit allocates %v times", tt.name, n)
		}
	}
	if ok, _ := Exemptions(nil).Permit(netip.MustParseAddr("8.8.8.8"), nil); ok {
		t.Error("permitted without knowing the host's addresses")
	}
	if ok, _ := Exemptions(nil).Permit(netip.Addr{}, ownNone); ok {
		t.Error("the zero address is permitted")
	}
}

// TestOrdinary: what the kernel lets pass is what Permit permits for the same
// entry, address for address.
func TestOrdinary(t *testing.T) {
	entries := []string{
		"0.0.0.0/0", "::/0", "10.0.0.0/8", "10.0.0.0/7", "128.0.0.0/1", "127.0.0.1/32", "169.254.0.0/16", "169.254.169.254/32",
		"192.0.2.0/24", "192.0.2.77/32", "224.0.0.0/3", "fc00::/7", "f000::/4", "64:ff9b::/96", "64:ff9b::a00:0/104", "64:ff9b::/64",
		"2002::/16", "2002:a00::/24", "2002:800::/22", "2001::/32", "2001::/16", "::/96", "::1/128", "::/128", "::ffff:10.0.0.0/104",
		"64:ff9b:1::/48", "64:ff9b:1::/64", "2002:808:808::/56",
	}
	own := []netip.Addr{netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}
	isOwn := func(a netip.Addr) bool {
		for _, o := range own {
			if o == a {
				return true
			}
		}
		return false
	}
	// The edges of every prefix that matters, and their neighbours.
	var edges []netip.Addr
	add := func(p netip.Prefix) {
		first := p.Masked().Addr()
		last := first
		for q := p.Masked(); q.Bits() < q.Addr().BitLen(); {
			_, q = halves(q)
			last = q.Addr()
		}
		for _, a := range []netip.Addr{first, last, first.Prev(), last.Next(), first.Next()} {
			if a.IsValid() {
				edges = append(edges, a.Unmap())
			}
		}
	}
	for i := range table {
		for _, p := range table[i].prefixes {
			add(p)
			if p.Addr().Is4() {
				for j := range spaces {
					if !spaces[j].inverted {
						add(spaces[j].embed(p))
					}
				}
			}
		}
	}
	for i := range spaces {
		add(spaces[i].prefix)
	}
	for _, a := range own {
		add(netip.PrefixFrom(a, a.BitLen()))
	}
	for _, text := range entries {
		p := netip.MustParsePrefix(text)
		add(p)
		left := Ordinary(p, own)
		if len(left) > 600 {
			t.Errorf("%s leaves %d prefixes", text, len(left))
		}
		x := Exempt([]netip.Prefix{unmapPrefix(p)})
		for _, a := range edges {
			passes := false
			for _, q := range left {
				passes = passes || q.Contains(a)
			}
			permitted, _ := x.Permit(a, isOwn)
			if passes && (!permitted || !unmapPrefix(p).Contains(a)) {
				t.Errorf("%s: the kernel lets %s pass, which is not permitted", text, a)
			}
			// Spaces that embed are taken out whole where the entry is wider.
			_, n := embeddedIn(a)
			if !passes && permitted && unmapPrefix(p).Contains(a) && n == 0 {
				t.Errorf("%s: the kernel does not let %s pass, which is permitted", text, a)
			}
		}
	}
	if got := Ordinary(netip.MustParsePrefix("64:ff9b::/96"), nil); len(got) == 0 {
		t.Error("nothing of NAT64 is left for an entry inside it")
	}
}

func TestSubtract(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, name)}), rapid.IntRange(24, 32).Draw(t, name+" bits")).Masked()
		}
		p, q := draw("p"), draw("q")
		left := subtract([]netip.Prefix{p}, q)
		for i := range 256 {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			n := 0
			for _, l := range left {
				if l.Contains(a) {
					n++
				}
			}
			want := 0
			if p.Contains(a) && !q.Contains(a) {
				want = 1
			}
			if n != want {
				t.Fatalf("%v without %v holds %v %d times: %v", p, q, a, n, left)
			}
		}
	})
}

func TestString(t *testing.T) {
	for c, want := range map[Classes]string{0: "ordinary", Private: "private", Metadata | LinkLocal: "link-local and metadata"} {
		if got := c.String(); got != want {
			t.Errorf("%d is %q, want %q", c, got, want)
		}
	}
}
