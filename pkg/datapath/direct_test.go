package datapath_test

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
)

func direct(cgroup uint64, prefix string, first, last uint16, p datapath.Protocol, name string) datapath.DirectRule {
	return datapath.DirectRule{Cgroup: cgroup, Prefix: netip.MustParsePrefix(prefix), First: first, Last: last, Protocol: p, Rule: name}
}

func TestDirect(t *testing.T) {
	w := newWorld(t)
	groupA, groupB := w.workload("a"), w.workload("b")
	sub := w.cgroup("a/sub")
	a, b, s := w.spawn(groupA), w.spawn(groupB), w.spawn(sub)
	w.origin("203.0.113.1:80")
	w.origin("203.0.113.1:8080")
	w.origin("198.51.100.1:80")
	w.origin("[2001:db8::1]:80")
	id := inode(t, groupA)
	if err := w.d.SetDirect([]datapath.DirectRule{
		direct(id, "203.0.113.1/32", 80, 80, datapath.TCP, "one"),
		direct(0, "203.0.113.0/24", 8000, 8999, datapath.TCP, "range"),
		direct(0, "203.0.113.1/32", 8080, 8080, datapath.TCP, "shadowed"),
		direct(0, "2001:db8::/32", 80, 80, datapath.TCP, "six"),
		direct(0, "::/0", 9, 9, datapath.TCP, "six only"),
	}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		c      *child
		family int
		dst    string
		rule   string // "" is captured
	}{
		{"one address and port", a, unix.AF_INET, "203.0.113.1:80", "one"},
		{"child cgroup", s, unix.AF_INET, "203.0.113.1:80", "one"},
		{"other cgroup", b, unix.AF_INET, "203.0.113.1:80", ""},
		{"other address", a, unix.AF_INET, "198.51.100.1:80", ""},
		{"wider prefix under a longer match", b, unix.AF_INET, "203.0.113.1:8080", "range"},
		{"mapped", a, unix.AF_INET6, "[::ffff:203.0.113.1]:80", "one"},
		{"ipv6", b, unix.AF_INET6, "[2001:db8::1]:80", "six"},
		{"an ipv6 prefix does not cover ipv4", b, unix.AF_INET, "203.0.113.1:9", ""},
		{"unspecified", b, unix.AF_INET6, "[::]:9", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fd := tt.c.tcp(tt.family)
			defer tt.c.must(call{Op: "close", FD: fd})
			tt.c.must(call{Op: "connect", FD: fd, Addr: tt.dst})
			if got := tt.c.must(call{Op: "getpeername", FD: fd}).Addr; got != tt.dst {
				t.Errorf("getpeername: %s", got)
			}
			tt.c.must(call{Op: "send", FD: fd, Data: tt.name})
			if tt.rule == "" {
				w.acceptedAs(tt.name)
				return
			}
			if got := tt.c.must(call{Op: "recv", FD: fd}).Data; got != tt.name {
				t.Errorf("answer %q", got)
			}
			src := netip.MustParseAddrPort(tt.c.must(call{Op: "getsockname", FD: fd}).Addr)
			opened := w.event("opened", func(e datapath.Event) bool {
				return e.Kind == datapath.Opened && e.Flow.Kind == datapath.Direct && e.Flow.PID == tt.c.pid() && e.Flow.Rule == tt.rule &&
					e.Flow.Src.Port() == src.Port()
			})
			tt.c.must(call{Op: "shutdown", FD: fd})
			w.event("closed", func(e datapath.Event) bool {
				n := uint64(len(tt.name))
				return e.Kind == datapath.Closed && e.Flow.ID == opened.Flow.ID && e.Flow.Rule == tt.rule &&
					e.Flow.Totals.BytesSent == n && e.Flow.Totals.BytesReceived == n
			})
		})
	}
}

// Without its rule a direct flow is cut off with its next packet.
func TestDirectRuleIsTaken(t *testing.T) {
	w := newWorld(t)
	o := w.origin("203.0.113.1:80")
	c := w.spawn(w.workload("a"))
	rule := direct(0, "203.0.113.1/32", 80, 80, datapath.TCP, "one")
	if err := w.d.SetDirect([]datapath.DirectRule{rule}); err != nil {
		t.Fatal(err)
	}
	fd := c.tcp(unix.AF_INET)
	c.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:80"})
	c.must(call{Op: "send", FD: fd, Data: "1"})
	c.must(call{Op: "recv", FD: fd})
	// A reload that keeps the rule keeps the flow.
	if err := w.d.SetDirect([]datapath.DirectRule{direct(0, "198.51.100.0/24", 1, 1, datapath.TCP, "new"), rule}); err != nil {
		t.Fatal(err)
	}
	c.must(call{Op: "send", FD: fd, Data: "2"})
	if got := c.must(call{Op: "recv", FD: fd}).Data; got != "2" {
		t.Fatalf("after a reload: %q", got)
	}
	if err := w.d.SetDirect(nil); err != nil {
		t.Fatal(err)
	}
	_ = w.left()
	_ = c.do(call{Op: "send", FD: fd, Data: "secret"})
	w.await("a refusal", func() bool { return w.refused(datapath.EgressDenied) > 0 })
	w.sealed()
	if got := o.data(); got != "12" {
		t.Errorf("the origin received %q", got)
	}
}

func TestDirectUDP(t *testing.T) {
	w := newWorld(t)
	o := w.origin("203.0.113.1:4000")
	o53 := w.origin("203.0.113.1:53")
	c := w.spawn(w.workload("a"))
	if err := w.d.SetDirect([]datapath.DirectRule{direct(0, "203.0.113.1/32", 1, 4000, datapath.UDP, "udp")}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		family int
		dst    string
	}{
		{"ipv4", unix.AF_INET, "203.0.113.1:4000"},
		{"mapped", unix.AF_INET6, "[::ffff:203.0.113.1]:4000"},
	} {
		for _, connected := range []bool{true, false} {
			fd := c.udp(tt.family)
			if connected {
				c.must(call{Op: "connect", FD: fd, Addr: tt.dst})
				c.must(call{Op: "send", FD: fd, Data: "12345678"})
			} else {
				c.must(call{Op: "sendto", FD: fd, Addr: tt.dst, Data: "12345678"})
			}
			if r := c.must(call{Op: "recv", FD: fd}); r.Data != "re:12345678" || r.Addr != tt.dst {
				t.Errorf("%s: answer %+v", tt.name, r)
			}
			// A socket with a direct flow has no way elsewhere.
			c.fails(call{Op: "sendto", FD: fd, Addr: "203.0.113.1:4001", Data: "x"}, unix.EPERM)
			c.fails(call{Op: "sendto", FD: fd, Addr: "198.51.100.1:4000", Data: "x"}, unix.EPERM)
			c.must(call{Op: "close", FD: fd})
		}
	}
	w.await("four flows", func() bool {
		opened, closed := 0, 0
		for _, e := range w.events {
			if e.Flow.Kind != datapath.Direct || e.Flow.Rule != "udp" || e.Flow.Protocol != datapath.UDP {
				continue
			}
			switch {
			case e.Kind == datapath.Opened:
				opened++
			case e.Kind == datapath.Closed && e.Flow.Totals.BytesSent == 8+20+8 && e.Flow.Totals.SegmentsOut == 1:
				closed++
			}
		}
		return opened == 4 && closed == 4
	})
	// Port 53 is the resolver's whatever the rules say.
	fd := c.udp(unix.AF_INET)
	c.must(call{Op: "sendto", FD: fd, Addr: "203.0.113.1:53", Data: "dns"})
	w.acceptedAs("dns")
	if o53.data() != "" {
		t.Errorf("the far server received %q", o53.data())
	}
	if o.data() != "12345678123456781234567812345678" {
		t.Errorf("the origin received %q", o.data())
	}
	w.await("no place held", func() bool { return w.resource("bpf_places") == 0 })
}

func TestDirectRulesAreChecked(t *testing.T) {
	w := newWorld(t)
	many := make([]datapath.DirectRule, 0, 17)
	for i := range uint16(17) {
		many = append(many, direct(0, "192.0.2.0/24", 2*i+1, 2*i+1, datapath.TCP, "r"))
	}
	for _, tt := range []struct {
		name  string
		rules []datapath.DirectRule
	}{
		{"more than 16 ranges", many},
		{"host bits", []datapath.DirectRule{direct(0, "192.0.2.1/24", 1, 1, datapath.TCP, "r")}},
		{"ports reversed", []datapath.DirectRule{direct(0, "192.0.2.0/24", 2, 1, datapath.TCP, "r")}},
		{"protocol", []datapath.DirectRule{direct(0, "192.0.2.0/24", 1, 1, 132, "r")}},
		{"long name", []datapath.DirectRule{direct(0, "192.0.2.0/24", 1, 1, datapath.TCP, string(make([]byte, 128)))}},
	} {
		if err := w.d.SetDirect(tt.rules); err == nil {
			t.Errorf("%s: accepted", tt.name)
		}
	}
	if problems, err := w.d.Verify(); err != nil || len(problems) != 0 {
		t.Errorf("after refused rules: %v, %v", problems, err)
	}
}
