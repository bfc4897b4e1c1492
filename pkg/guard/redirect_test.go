package guard

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// captured is a world in which a table of ours captures what one cgroup does.
type captured struct {
	world
	g      *Guard
	state  State
	ours   *peer
	tagged *peer
	id     uint64
}

func newCaptured(t *testing.T) *captured {
	t.Helper()
	if err := RedirectSupported(); err != nil {
		t.Fatal(err)
	}
	c := &captured{world: newWorld(t)}
	keeper, keeperID := newCgroup(t, "keeper")
	var dir string
	dir, c.id = newCgroup(t, "a")
	c.ours = start(t, c.host, keeper)
	for _, l := range []string{"tcp 127.0.0.1:15001", "tcp [::1]:15001"} {
		c.ours.must("listen %s", l)
	}
	for _, l := range []string{"udp 127.0.0.1:15053", "udp [::1]:15053"} {
		c.ours.must("packets %s", l)
	}
	var err error
	if c.g, err = New(Options{Table: "guard_test", Netns: c.host, Held: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.g.Close() })
	c.state = State{
		Listeners: addrPorts("127.0.0.1:15001", "[::1]:15001"),
		Resolvers: addrPorts("127.0.0.1:15053", "[::1]:15053"),
		Tagged:    []Cgroup{{c.id, level("a")}},
		Redirect:  &Redirect{Zone: 77, Receivers: []Cgroup{{keeperID, level("keeper")}}},
	}
	apply(t, c.g, c.state)
	c.tagged = start(t, c.host, dir)
	return c
}

// anywhere are destinations that nobody answers but us.
var anywhere = []string{
	"tcp4 203.0.113.2:443", "tcp4 198.51.100.1:1", "tcp4 127.0.0.1:80", "tcp4 203.0.113.1:22",
	"tcp6 [2001:db8::2]:443", "tcp6 [2001:db8:1::1]:65535", "tcp6 [::1]:80",
	"udp4 203.0.113.2:53", "udp4 127.0.0.53:53", "udp6 [2001:db8::2]:53",
}

// TestRedirect: whatever a tagged socket connects to, over TCP or to a name
// server, it reaches us and nobody else; the rest is refused; sockets of others
// go their way.
func TestRedirect(t *testing.T) {
	c := newCaptured(t)
	tap := newTap(t, c.outside)
	for _, to := range anywhere {
		c.tagged.must("exchange %s", to)
	}
	c.tagged.must("mapped [::ffff:203.0.113.2]:443")
	c.tagged.must("bulk tcp4 203.0.113.2:443")
	c.tagged.must("bulk tcp6 [2001:db8::2]:443")
	const eth0 = "6574683000"
	for _, refused := range []string{
		"exchange udp4 203.0.113.2:443", "exchange udp6 [2001:db8::2]:443", "exchange udp4 127.0.0.1:15053",
		// Our own addresses: nothing was redirected, so nobody knows where it wanted to go.
		"exchange tcp4 127.0.0.1:15001", "exchange tcp6 [::1]:15001", "mapped [::ffff:127.0.0.1]:15001",
		// Another first hop, another interface, extension headers.
		"option 0 4 830704cb00710200 tcp4 198.51.100.1:80", "option 0 4 01010101 tcp4 203.0.113.2:80",
		"option 1 25 " + eth0 + " tcp4 203.0.113.2:80", "option 1 25 " + eth0 + " tcp6 [2001:db8::2]:80",
		"option 41 59 0000010400000000 tcp6 [2001:db8::2]:80", "option 41 54 0000010400000000 tcp6 [2001:db8::2]:80",
		"raw raw 47 203.0.113.2:0", "raw raw 255 203.0.113.2:0", "raw ping 1 203.0.113.2:0",
	} {
		c.tagged.mustNot("%s", refused)
	}
	tap.settle(t, c.host)
	if frames := tap.seen(traffic); len(frames) > 0 {
		t.Errorf("%d frames came out, the first is %x", len(frames), frames[0])
	}
	start(t, c.outside, "").must("listen tcp :443")
	other := start(t, c.host, "")
	other.must("exchange tcp4 203.0.113.2:443")
	other.must("exchange tcp6 [2001:db8::2]:443")
	counters, err := c.g.Counters()
	if err != nil || counters.TCP == 0 || counters.UDP == 0 || counters.Other == 0 || counters.Cgroups[c.id] == 0 {
		t.Errorf("%+v, %v", counters, err)
	}
	if problems, err := c.g.Check(); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// TestRedirectFlushed: `flush ruleset`, again and again, opens no gap while the
// process lives, and the table is found missing and comes back.
func TestRedirectFlushed(t *testing.T) {
	c := newCaptured(t)
	start(t, c.outside, "").must("listen tcp :443")
	tap := newTap(t, c.outside)
	for range 20 {
		nft(t, c.host, "flush ruleset")
		c.tagged.must("exchange tcp4 203.0.113.2:443")
		c.tagged.mustNot("exchange udp4 203.0.113.2:443")
		problems, err := c.g.Check()
		if err != nil || len(problems) == 0 {
			t.Fatalf("a flush is not noticed: %v, %v", problems, err)
		}
		apply(t, c.g, c.state)
		if problems, err := c.g.Check(); err != nil || len(problems) > 0 {
			t.Fatal(problems, err)
		}
	}
	for _, edit := range []string{"delete table inet guard_test_held", "flush table inet guard_test_held", "add chain inet guard_test_held x"} {
		do(t, c.host, func() error {
			cmd := exec.Command("nft", "-f", "-")
			cmd.Stdin = strings.NewReader(edit)
			if out, err := cmd.CombinedOutput(); err == nil {
				t.Errorf("%s: somebody else may: %s", edit, out)
			}
			return nil
		})
	}
	// Without its process the table that stays is enough; without both, nothing is.
	if err := c.g.twin.Close(); err != nil {
		t.Fatal(err)
	}
	c.tagged.must("exchange tcp4 203.0.113.2:443")
	tap.settle(t, c.host)
	if frames := tap.seen(traffic); len(frames) > 0 {
		t.Errorf("%d frames came out", len(frames))
	}
	nft(t, c.host, "flush ruleset")
	c.tagged.mustNot("exchange udp4 203.0.113.2:9")
	waitFor(t, "a packet past no table", func() bool { return len(tap.seen(traffic)) > 0 })
}

// TestRedirectClosed: what the kernel says for a socket that its workload has
// closed goes the same way as what the workload said: the acknowledgement of our
// end's FIN in TIME_WAIT, and the RST for what comes to a socket that is gone.
func TestRedirectClosed(t *testing.T) {
	c := newCaptured(t)
	tap := newTap(t, c.outside)
	for _, to := range []string{"tcp4 203.0.113.2:443", "tcp6 [2001:db8::2]:443"} {
		for range 20 {
			c.tagged.must("abandon %s", to)
		}
	}
	time.Sleep(3 * patience)
	tap.settle(t, c.host)
	if frames := tap.seen(traffic); len(frames) > 0 {
		t.Errorf("%d frames came out, the first is %x", len(frames), frames[0])
	}
}

// TestRedirectThief: when our listeners are gone, whoever binds their ports gets
// nothing, at no address, over TCP or UDP.
func TestRedirectThief(t *testing.T) {
	c := newCaptured(t)
	c.ours.end()
	if got := c.tagged.mustNot("exchange tcp4 203.0.113.2:443"); !strings.Contains(got, "refused") {
		t.Errorf("without listeners: %s", got)
	}
	thiefDir, _ := newCgroup(t, "thief")
	for _, dir := range []string{"", thiefDir} {
		thief := start(t, c.host, dir)
		for _, at := range []string{"127.0.0.1", "[::1]"} {
			thief.must("listen tcp %s:15001", at)
			thief.must("packets udp %s:15053", at)
		}
		for _, to := range anywhere {
			c.tagged.mustNot("exchange %s", to)
		}
		// For everybody else the port is an ordinary one.
		start(t, c.host, "").must("exchange tcp4 127.0.0.1:15001")
		thief.end()
	}
	thief := start(t, c.host, "")
	thief.must("listen tcp4 0.0.0.0:15001")
	thief.must("packets udp4 0.0.0.0:15053")
	c.tagged.mustNot("exchange tcp4 203.0.113.2:443")
	c.tagged.mustNot("exchange udp4 203.0.113.2:53")
	counters, err := c.g.Counters()
	if err != nil || counters.ForeignListener == 0 {
		t.Errorf("%+v, %v", counters, err)
	}
}

// TestRedirectInbound: connections that come in to a tagged listener work beside
// the redirection, with their own conntrack zone, on the ports that may answer.
func TestRedirectInbound(t *testing.T) {
	c := newCaptured(t)
	c.tagged.must("listen tcp :8080")
	c.tagged.must("listen tcp :8081")
	c.state.Inbound = []Inbound{{c.id, 8080}}
	apply(t, c.g, c.state)
	outside := start(t, c.outside, "")
	outside.must("exchange tcp4 203.0.113.1:8080")
	outside.must("exchange tcp6 [2001:db8::1]:8080")
	outside.mustNot("exchange tcp4 203.0.113.1:8081")
	start(t, c.host, "").must("exchange tcp4 127.0.0.1:8081")
	c.tagged.must("exchange tcp4 203.0.113.2:443")
}

// TestRedirectDirect: what a direct rule lists is not redirected.
func TestRedirectDirect(t *testing.T) {
	c := newCaptured(t)
	world := start(t, c.outside, "")
	world.must("listen tcp :443")
	tap := newTap(t, c.outside)
	c.state.Direct = []Direct{{Cgroup: c.id, Prefix: netip.MustParsePrefix("203.0.113.2/32"), First: 443, Last: 443, Protocol: TCP}}
	apply(t, c.g, c.state)
	c.tagged.must("exchange tcp4 203.0.113.2:443")
	waitFor(t, "a direct connection", func() bool { return len(tap.seen(traffic)) > 0 })
	c.tagged.must("exchange tcp4 203.0.113.2:444")
	c.state.Direct = nil
	apply(t, c.g, c.state)
	c.tagged.must("exchange tcp4 203.0.113.2:443")
}

// TestRedirectOlder: a connection older than the table says nothing more, nor
// does one whose conntrack entry somebody deleted come back behind another.
func TestRedirectOlder(t *testing.T) {
	w := newWorld(t)
	start(t, w.outside, "").must("listen tcp :443")
	keeper, keeperID := newCgroup(t, "keeper")
	dir, id := newCgroup(t, "a")
	ours, tagged := start(t, w.host, keeper), start(t, w.host, dir)
	ours.must("listen tcp 127.0.0.1:15001")
	older := tagged.must("dial tcp4 203.0.113.2:443")
	tagged.must("write %s", older)
	g := newGuard(t, w.host)
	apply(t, g, State{
		Listeners: addrPorts("127.0.0.1:15001"), Tagged: []Cgroup{{id, level("a")}},
		Redirect: &Redirect{Zone: 77, Receivers: []Cgroup{{keeperID, level("keeper")}}},
	})
	time.Sleep(50 * time.Millisecond)
	tap := newTap(t, w.outside)
	tagged.ask("write %s", older)
	tagged.mustNot("read %s", tagged.must("dial tcp4 203.0.113.2:444"))
	tap.settle(t, w.host)
	if frames := tap.seen(said); len(frames) > 0 {
		t.Errorf("%d frames of an older connection came out, the first: %x", len(frames), frames[0])
	}
	counters, err := g.Counters()
	if err != nil || counters.TCP == 0 {
		t.Errorf("%+v, %v", counters, err)
	}
}

// TestRedirectCompared: whoever edits the redirection is noticed.
func TestRedirectCompared(t *testing.T) {
	c := newCaptured(t)
	for _, edit := range []string{
		"flush chain inet guard_test zone", "flush chain inet guard_test capture", "flush chain inet guard_test arrive",
		"insert rule inet guard_test capture accept", "flush set inet guard_test receivers_3",
	} {
		nft(t, c.host, edit)
		if problems, err := c.g.Check(); err != nil || len(problems) == 0 {
			t.Errorf("%s: %v, %v", edit, problems, err)
		}
		// The other table captures all the same; one without receivers refuses.
		if strings.Contains(edit, "receivers") {
			c.tagged.mustNot("exchange tcp4 203.0.113.2:443")
		} else {
			c.tagged.must("exchange tcp4 203.0.113.2:443")
		}
		apply(t, c.g, c.state)
	}
}
