package guard

import (
	"bytes"
	"strings"
	"testing"

	"sallyport/pkg/netns"
)

func TestNeighbourDiscovery(t *testing.T) {
	dir, id := newCgroup(t, "a")
	// The kernel's own sockets of a namespace are in the cgroup of the process
	// that made the namespace.
	tagged := start(t, newNamespace(t), dir)
	ns, err := netns.Open(tagged.must("unshare"))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	up(t, ns, "lo")
	g := newGuard(t, ns)
	apply(t, g, State{Tagged: []Cgroup{{id, level("a")}}})
	w := join(t, ns, newNamespace(t))
	outside := start(t, w.outside, "")
	outside.must("listen tcp :7")
	// The first solicitation is lost where the cable is not up yet; the kernel
	// repeats it after a second.
	loose := start(t, ns, "")
	waitFor(t, "a connection over IPv6 from a process that is not tagged", func() bool {
		return strings.HasPrefix(loose.ask("exchange tcp6 [2001:db8::2]:7"), "ok")
	})

	// The same messages from a program are refused.
	tap := newTap(t, w.outside)
	inside := start(t, ns, dir)
	for _, kind := range neighbourMessages() {
		inside.ask("icmp6 %d [2001:db8::2]:0", kind)
	}
	tap.settle(t, w.host)
	if frames := tap.seen(func(f []byte) bool { return bytes.Contains(f, []byte(secret)) }); len(frames) > 0 {
		t.Errorf("%d forged messages came out", len(frames))
	}
}
