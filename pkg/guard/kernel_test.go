package guard

import (
	"strings"
	"testing"
)

func TestSupportedHere(t *testing.T) {
	needRoot(t)
	if err := Supported(); err != nil {
		t.Fatal(err)
	}
}

// attempts are ways to send something outside. {4} and {6} stand for addresses.
var attempts = []struct{ name, command string }{
	{"tcp4", "exchange tcp4 203.0.113.2:7"},
	{"tcp6", "exchange tcp6 [2001:db8::2]:7"},
	{"udp4", "exchange udp4 203.0.113.2:7"},
	{"udp6", "exchange udp6 [2001:db8::2]:7"},
	{"icmp raw", "raw raw 1 203.0.113.2:0"},
	{"icmp6 raw", "raw raw 58 [2001:db8::2]:0"},
	{"own header", "raw raw 255 203.0.113.2:0"},
	{"udp over a raw socket", "raw raw 17 203.0.113.2:0"},
	{"tcp over a raw socket, IPv6", "raw raw 6 [2001:db8::2]:0"},
	{"unknown protocol", "raw raw 253 203.0.113.2:0"},
	{"unknown protocol, IPv6", "raw raw 253 [2001:db8::2]:0"},
	{"UDP-Lite", "raw datagram 136 203.0.113.2:7"},
	{"fast open", "option 6 30 01000000 tcp4 203.0.113.2:7"}, // TCP_FASTOPEN_CONNECT
}

func TestNothingLeaves(t *testing.T) {
	w := newWorld(t)
	dir, id := newCgroup(t, "a")
	outside := start(t, w.outside, "")
	outside.must("listen tcp :7")
	outside.must("packets udp :7")
	loose := start(t, w.host, "")
	tagged := start(t, w.host, dir)
	tap := newTap(t, w.outside)
	g := newGuard(t, w.host)

	for _, a := range attempts {
		t.Run("unguarded "+a.name, func(t *testing.T) {
			tap.settle(t, w.host) // what is left of the one before
			before := len(tap.seen(traffic))
			answer := tagged.ask("%s", a.command)
			if strings.Contains(answer, "socket:") {
				t.Skip("this kernel has no such socket:", answer)
			}
			waitFor(t, "a frame outside: else the guarded test shows nothing", func() bool {
				return len(tap.seen(traffic)) > before
			})
		})
	}
	apply(t, g, State{Tagged: []Cgroup{{id, level("a")}}})
	tap.settle(t, w.host)
	var rejected uint64
	for _, a := range attempts {
		t.Run("guarded "+a.name, func(t *testing.T) {
			before := len(tap.seen(traffic))
			tagged.ask("%s", a.command)
			tap.settle(t, w.host)
			if frames := tap.seen(traffic)[before:]; len(frames) > 0 {
				t.Errorf("%d frames came out, the first: %x", len(frames), frames[0])
			}
			var now uint64
			// They are read one after the other, and TCP repeats what was refused.
			waitFor(t, "all rejected packets to be the cgroup's", func() bool {
				c, err := g.Counters()
				if err != nil {
					t.Fatal(err)
				}
				now = c.Rejected()
				return c.Cgroups[id] == now
			})
			if now <= rejected && !strings.Contains(tagged.ask("%s", a.command), "socket:") {
				t.Errorf("rejected packets: %d, as before", now)
			}
			rejected = now
		})
	}
	t.Run("at once", func(t *testing.T) {
		if answer := tagged.mustNot("exchange tcp4 203.0.113.2:7"); !strings.Contains(answer, "refused") {
			t.Errorf("connect: %s, want connection refused (a reset)", answer)
		}
	})
	t.Run("others are not touched", func(t *testing.T) {
		loose.must("exchange tcp4 203.0.113.2:7")
		loose.must("exchange udp6 [2001:db8::2]:7")
	})
}
