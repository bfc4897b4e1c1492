package guard

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestInbound(t *testing.T) {
	w := newWorld(t)
	dir, id := newCgroup(t, "a")
	tagged, loose := start(t, w.host, dir), start(t, w.host, "")
	outside := start(t, w.outside, "")
	for _, l := range []string{"tcp :80", "tcp :81", "tcp :15001"} {
		tagged.must("listen %s", l)
	}
	loose.must("listen tcp :82")
	outside.must("listen tcp :7")
	g := newGuard(t, w.host)
	apply(t, g, State{Tagged: []Cgroup{{id, level("a")}}, Inbound: []Inbound{{id, 80}}})

	refused := func() (n uint64) {
		// They are read one after the other, and packets come when they want.
		waitFor(t, "all attempts to be those to the one workload", func() bool {
			c, err := g.Counters()
			if err != nil {
				t.Fatal(err)
			}
			n = c.Inbound
			return c.InboundCgroups[id] == n
		})
		return n
	}
	for _, v := range []string{"tcp4 203.0.113.1", "tcp6 [2001:db8::1]"} {
		outside.must("exchange %s:80", v)
		outside.must("exchange %s:82", v)
		before := refused()
		if answer := outside.mustNot("exchange %s:81", v); !strings.Contains(answer, "timeout") {
			t.Errorf("port 81: %s, want no answer at all", answer)
		}
		if refused() == before {
			t.Error("port 81: nothing counted")
		}
	}
	// From the same namespace each port may be asked.
	for _, to := range []string{"tcp4 127.0.0.1:81", "tcp6 [::1]:81", "tcp4 203.0.113.1:81", "tcp6 [2001:db8::1]:81"} {
		loose.must("exchange %s", to)
	}
	t.Run("no way out by the port that may answer", func(t *testing.T) {
		// The entry of the former connection is still in conntrack, in the
		// state TIME_WAIT, and the new SYN goes in its reply direction.
		outside.must("reuse 203.0.113.2:7777 203.0.113.1:80")
		outside.must("listen tcp 203.0.113.2:7777")
		waitFor(t, "the end of the former connection", func() bool { return closed(t, w.host, 80) })
		tap := newTap(t, w.outside)
		tagged.mustNot("exchange tcp4 203.0.113.2:7777 203.0.113.1:0")
		tagged.mustNot("reuse 203.0.113.1:80 203.0.113.2:7777")
		loose.must("exchange tcp4 203.0.113.2:7777") // the address is reachable
		tap.settle(t, w.host)
		for _, f := range tap.seen(traffic) {
			if len(f) > 36 && f[34] == 0 && f[35] == 80 {
				t.Errorf("a frame from port 80 came out: %x", f)
			}
		}
	})
	t.Run("a source that claims to be local", func(t *testing.T) {
		// IPv6 has no reverse path filter: a packet from outside may carry our
		// own address as its source. It did not come by lo.
		before := refused()
		spoofSYN(t, w, here6, 81)
		waitFor(t, "the spoofed SYN to be counted as inbound", func() bool { return refused() > before })
	})
	t.Run("taken back", func(t *testing.T) {
		apply(t, g, State{Tagged: []Cgroup{{id, level("a")}}})
		outside.mustNot("exchange tcp4 203.0.113.1:80")
	})
}

// TestOlderFlow: a connection made before the table existed, on which the far
// end speaks first, so that conntrack takes its packet for the first of the
// connection and ours for answers.
func TestOlderFlow(t *testing.T) {
	for _, network := range []string{"tcp4 203.0.113.2:7", "tcp6 [2001:db8::2]:7"} {
		for _, tracked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s tracked before: %v", network, tracked), func(t *testing.T) {
				w := newWorld(t)
				if tracked {
					nft(t, w.host, "table inet other { chain i { type filter hook input priority 0; ct state new counter\n }\n }")
				}
				dir, id := newCgroup(t, "a")
				tagged := start(t, w.host, dir)
				var listener net.Listener
				do(t, w.outside, func() (err error) {
					listener, err = net.Listen("tcp", ":7")
					return err
				})
				defer listener.Close()
				conn := tagged.must("dial %s", network)
				far, err := listener.Accept()
				if err != nil {
					t.Fatal(err)
				}
				defer far.Close()
				g := newGuard(t, w.host)
				apply(t, g, State{Tagged: []Cgroup{{id, level("a")}}, Inbound: []Inbound{{id, 80}}})
				tap := newTap(t, w.outside)
				if _, err := far.Write([]byte("greeting")); err != nil {
					t.Fatal(err)
				}
				if got := tagged.must("read %s", conn); got != "greeting" {
					t.Fatalf("read %q", got)
				}
				for range 3 {
					tagged.ask("write %s", conn)
				}
				tap.settle(t, w.host)
				// What was written ends the socket; the far end says its greeting again, and
				// the kernel answers that there is no such socket. This carries nothing of
				// the workload's, and ends the far end's socket: it comes once.
				if frames := tap.seen(said); len(frames) > 0 {
					t.Errorf("%d frames came out, the first: %x", len(frames), frames[0])
				}
				if resets := tap.seen(bareReset); len(resets) > 1 {
					t.Errorf("%d resets came out: %x", len(resets), resets)
				}
				far.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				if n, err := far.Read(make([]byte, 100)); n > 0 {
					t.Errorf("the far end read %d bytes (%v)", n, err)
				}
			})
		}
	}
}

// A connection that came in before the table existed has no label either.
func TestOlderInbound(t *testing.T) {
	w := newWorld(t)
	dir, id := newCgroup(t, "a")
	tagged := start(t, w.host, dir)
	tagged.must("listen tcp :80")
	var far net.Conn
	do(t, w.outside, func() (err error) {
		far, err = net.Dial("tcp", netip.AddrPortFrom(here4, 80).String())
		return err
	})
	defer far.Close()
	if _, err := echo(far, time.Minute); err != nil {
		t.Fatal("before the table:", err)
	}
	g := newGuard(t, w.host)
	apply(t, g, State{Tagged: []Cgroup{{id, level("a")}}, Inbound: []Inbound{{id, 80}}})
	if got, err := echo(far, patience); err == nil {
		t.Errorf("got %q over the older connection", got)
	}
	var err error
	do(t, w.outside, func() error {
		far, err = net.Dial("tcp", netip.AddrPortFrom(here4, 80).String())
		return err
	})
	defer far.Close()
	if _, err := echo(far, time.Minute); err != nil {
		t.Error("a new connection:", err)
	}
}
