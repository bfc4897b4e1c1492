package guard

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func TestBuildRefuses(t *testing.T) {
	ok := []Cgroup{{7, 1}}
	v4 := netip.MustParsePrefix("10.0.0.0/8")
	for _, tc := range []struct {
		name  string
		state State
		want  string
	}{
		{"no id", State{Tagged: []Cgroup{{0, 1}}}, "without an id"},
		{"level 0", State{Tagged: []Cgroup{{7, 0}}}, "level 0"},
		{"level 256", State{Tagged: []Cgroup{{7, 256}}}, "level 256"},
		{"two levels", State{Tagged: []Cgroup{{7, 1}, {7, 2}}}, "level 1 and at level 2"},
		{"listener without port", State{Listeners: addrPorts("127.0.0.1:0")}, "exact address"},
		{"listener everywhere", State{Listeners: addrPorts("0.0.0.0:80")}, "exact address"},
		{"resolver with a zone", State{Resolvers: addrPorts("[fe80::1%eth0]:53")}, "exact address"},
		{"invalid listener", State{Listeners: []netip.AddrPort{{}}}, "exact address"},
		{"direct of a stranger", State{Tagged: ok, Direct: []Direct{{8, v4, 1, 2, TCP}}}, "not tagged"},
		{"direct, protocol", State{Tagged: ok, Direct: []Direct{{7, v4, 1, 2, 1}}}, "neither TCP nor UDP"},
		{"direct, ports", State{Tagged: ok, Direct: []Direct{{7, v4, 2, 1, TCP}}}, "ports 2 to 1"},
		{"direct, prefix", State{Tagged: ok, Direct: []Direct{{7, netip.Prefix{}, 1, 2, TCP}}}, "invalid prefix"},
		{"direct, half mapped", State{Direct: []Direct{{0, netip.MustParsePrefix("::ffff:0.0.0.0/90"), 1, 2, TCP}}}, "wider"},
		{"inbound of a stranger", State{Tagged: ok, Inbound: []Inbound{{8, 80}}}, "not tagged"},
		{"too many resolvers", State{Resolvers: manyPorts(300)}, "only 256 fit"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := build(tc.state); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func manyPorts(n int) (list []netip.AddrPort) {
	for i := range n {
		list = append(list, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(i+1)))
	}
	return list
}

func TestBuildIgnoresOrder(t *testing.T) {
	want, s := mustExpect(t, crowd(50)), crowd(50)
	random := rand.New(rand.NewPCG(1, 2))
	for _, shuffle := range []func(){
		func() {
			random.Shuffle(len(s.Tagged), func(i, j int) { s.Tagged[i], s.Tagged[j] = s.Tagged[j], s.Tagged[i] })
		},
		func() {
			random.Shuffle(len(s.Direct), func(i, j int) { s.Direct[i], s.Direct[j] = s.Direct[j], s.Direct[i] })
		},
		func() { slices.Reverse(s.Inbound); slices.Reverse(s.Listeners) },
		func() { s.Inbound = append(s.Inbound, s.Inbound...); s.Tagged = append(s.Tagged, s.Tagged...) },
	} {
		shuffle()
		got := mustExpect(t, s)
		if diff := cmp.Diff(want.bodies, got.bodies); diff != "" {
			t.Error(diff)
		}
		if len(got.elements) != len(want.elements) {
			t.Errorf("%d sets, want %d", len(got.elements), len(want.elements))
		}
		for name := range want.elements {
			if !maps.Equal(want.elements[name], got.elements[name]) {
				t.Errorf("set %s has other elements: %d, want %d", name, len(got.elements[name]), len(want.elements[name]))
			}
		}
	}
}

// TestGateRules pins what decides: the order and the bodies of the chain that
// lets packets through.
func TestGateRules(t *testing.T) {
	c := taggedChain(2, false)
	var verdicts []string
	for _, r := range c.rules {
		last := r.body[len(r.body)-1]
		switch v := last.(type) {
		case *expr.Verdict:
			verdicts = append(verdicts, map[expr.VerdictKind]string{
				expr.VerdictAccept: "accept", expr.VerdictGoto: "goto " + v.Chain, expr.VerdictJump: "jump " + v.Chain,
			}[v.Kind])
		default:
			verdicts = append(verdicts, "")
		}
	}
	want := []string{"goto refuse", "accept", "accept", "accept", "accept", "accept", "accept", "accept", "accept",
		"accept", "accept", "accept", "accept", "jump neighbours", "", "goto refuse"}
	if diff := cmp.Diff(want, verdicts); diff != "" {
		t.Error(diff)
	}
	acknowledged, err := describeBody(flags(tcpACK, tcpACK))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range c.rules {
		body, err := describeBody(r.body)
		if err != nil {
			t.Fatal(err)
		}
		// Conntrack forgets the label of a connection that is opened anew in the
		// other direction; the rule does not rely on that alone.
		if strings.Contains(body, "[ct") && !strings.Contains(body, acknowledged) {
			t.Errorf("rule %q lets a bare SYN pass for an answer", r.comment)
		}
		for _, e := range r.body {
			if ct, ok := e.(*expr.Ct); ok && ct.Key == expr.CtKeySTATE {
				t.Errorf("rule %q asks for the conntrack state: it adopts flows older than the table", r.comment)
			}
		}
	}
	for _, c := range []chain{outputChain([]int{2}), inputChain(false), postroutingChain()} {
		if d := c.definition(&nftables.Table{}); *d.Priority != 1<<31-2 {
			t.Errorf("chain %s: priority %d", c.name, *d.Priority)
		}
	}
}

func TestElementBytes(t *testing.T) {
	id := binary.NativeEndian.AppendUint64(nil, 0x0102030405060708)
	cat := func(parts ...[]byte) string { return string(slices.Concat(parts...)) }
	for _, tc := range []struct {
		name      string
		got, want element
	}{
		{"cgroup", tagged(0x0102030405060708), element{key: string(id)}},
		{"inbound", inbound(Inbound{0x0102030405060708, 8080}), element{key: cat(id, []byte{0x1f, 0x90, 0, 0})}},
		{"listener", local(TCP, netip.MustParseAddrPort("127.0.0.1:15001")),
			element{key: cat([]byte{6, 0, 0, 0}, []byte{127, 0, 0, 1}, []byte{0x3a, 0x99, 0, 0})}},
		{"direct", box{0x0102030405060708, UDP, netip.MustParsePrefix("10.1.128.0/17"), ports{1, 2}}.element(),
			element{
				key: cat(id, []byte{17, 0, 0, 0}, []byte{10, 1, 128, 0}, []byte{0, 1, 0, 0}),
				end: cat(id, []byte{17, 0, 0, 0}, []byte{10, 1, 255, 255}, []byte{0, 2, 0, 0}),
			}},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %x, want %x", tc.name, tc.got, tc.want)
		}
	}
}

// TestDisjoint compares the boxes with the rules point by point.
func TestDisjoint(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		var rules []Direct
		for range random.IntN(12) {
			first := uint16(random.IntN(12))
			addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(16))})
			p, _ := addr.Prefix(28 + random.IntN(5))
			rules = append(rules, Direct{uint64(random.IntN(2)), p, first, first + uint16(random.IntN(6)), TCP})
		}
		boxes := disjoint(rules)
		for cgroup := range uint64(2) {
			for host := range 16 {
				addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(host)})
				for port := range uint16(20) {
					want, got := false, 0
					for _, d := range rules {
						want = want || d.Cgroup == cgroup && d.Prefix.Contains(addr) && d.First <= port && port <= d.Last
					}
					for _, b := range boxes {
						if b.cgroup == cgroup && b.prefix.Contains(addr) && b.ports.first <= port && port <= b.ports.last {
							got++
						}
					}
					if got > 1 || (got == 1) != want {
						t.Fatalf("round %d: %v port %d is in %d boxes, wanted: %v\n%v\n%v", round, addr, port, got, want, rules, boxes)
					}
				}
			}
		}
	}
	whole := disjoint([]Direct{{0, netip.MustParsePrefix("0.0.0.0/0"), 0, 65535, TCP}, {0, netip.MustParsePrefix("1.2.3.4/32"), 65535, 65535, TCP}})
	if len(whole) != 1 || whole[0].ports != (ports{0, 65535}) {
		t.Errorf("everything: %v", whole)
	}
}

// TestBatch looks at the bytes of a transaction: one batch, whole messages, no
// message over the length that an attribute can have.
func TestBatch(t *testing.T) {
	r, err := build(crowd(5000))
	if err != nil {
		t.Fatal(err)
	}
	want, err := expect(r)
	if err != nil {
		t.Fatal(err)
	}
	var begins, ends, elements, rules, deletions int
	req, err := remake(want, true).messages("t")
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range req {
		if len(m.Data) > 65535 {
			t.Errorf("message %d has %d bytes", i, len(m.Data))
		}
		switch m.Header.Type {
		case unix.NFNL_MSG_BATCH_BEGIN:
			begins++
		case unix.NFNL_MSG_BATCH_END:
			ends++
		case header(unix.NFT_MSG_NEWSETELEM):
			elements++
		case header(unix.NFT_MSG_NEWRULE):
			rules++
		case header(unix.NFT_MSG_DELTABLE):
			deletions++
		}
	}
	count := 0
	for _, c := range r.chains {
		count += len(c.rules)
	}
	if begins != 1 || ends != 1 || deletions != 1 || rules != count || elements < 10 {
		t.Errorf("%d begins, %d ends, %d deletions, %d of %d rules, %d messages of elements", begins, ends, deletions, rules, count, elements)
	}
}

// mirror is the snapshot that a kernel with exactly the expected table gives.
func mirror(want *expected) snapshot {
	s := snapshot{exists: true, counters: map[string]uint64{}, sets: map[string]kernelSet{}, chains: map[string]kernelChain{}}
	for _, c := range want.counters {
		s.counters[c] = 1
	}
	for _, set := range want.sets {
		k := kernelSet{shape: want.shapes[set.name], elements: map[element]uint64{}}
		for _, e := range set.elements {
			k.elements[e] = 3
		}
		s.sets[set.name] = k
	}
	for _, c := range want.chains {
		k := kernelChain{rules: want.bodies[c.name]}
		if c.hook != nil {
			k.base, k.hook, k.priority, k.policy, k.kind = true, *c.hook, priority, policyAccept, "filter"
		}
		s.chains[c.name] = k
	}
	s.uses = uint32(len(s.counters) + len(s.sets) + len(s.chains))
	return s
}

func TestPlanIsSmall(t *testing.T) {
	want := mustExpect(t, crowd(20))
	if p := compare(want, mirror(want)); len(p) > 0 {
		t.Fatal(p)
	}
	if diff := cmp.Diff(transaction{}, plan(want, mirror(want)), cmp.AllowUnexported(transaction{})); diff != "" {
		t.Errorf("a plan for nothing: %s", diff)
	}
	smaller := mirror(mustExpect(t, crowd(19)))
	p := plan(want, smaller)
	if p.remake || p.create || len(p.rewrite)+len(p.addSets)+len(p.addChains)+len(p.removeElements) > 0 {
		t.Errorf("one more cgroup does more than add elements: %+v", p)
	}
	if len(p.addElements) != 5 { // tagged, refused, dropped, inbound, direct
		t.Errorf("%d sets grow, want 5", len(p.addElements))
	}
	other := mirror(want)
	other.chains["output"] = kernelChain{base: true, hook: 1, priority: priority, policy: policyAccept, kind: "filter"}
	// Hook 1 is input: a chain cannot change its hook in place.
	if p := plan(want, other); !p.remake || !p.create {
		t.Errorf("a chain on another hook is kept: %+v", p)
	}
}

func mustExpect(t testing.TB, s State) *expected {
	t.Helper()
	r, err := build(s)
	if err != nil {
		t.Fatal(err)
	}
	e, err := expect(r)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestTotals(t *testing.T) {
	var sum total
	for _, reading := range []uint64{3, 5, 2, 2, 9} { // the third is a new counter's
		sum = sum.observe(reading)
	}
	if sum.sum() != 14 {
		t.Errorf("sum %d, want 14", sum.sum())
	}
	all := newTotals()
	all.tag(map[uint64]int{1: 1, 2: 1})
	s := snapshot{exists: true, counters: map[string]uint64{countTCP: 4}, sets: map[string]kernelSet{
		named(refusedName, 1): {elements: map[element]uint64{tagged(1): 4, tagged(9): 8}},
	}}
	all.observe(s)
	all.observe(snapshot{}) // flushed
	all.observe(s)
	if all.reasons[countTCP].sum() != 8 || all.cgroups[1].sum() != 8 || len(all.cgroups) != 2 {
		t.Errorf("%+v", all)
	}
	all.tag(map[uint64]int{2: 1})
	if len(all.cgroups) != 1 {
		t.Errorf("a cgroup that is no longer tagged is kept: %+v", all.cgroups)
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{
		"sallyport": true, "sallyport_1234": true, "": false, "1a": false, "a b": false, "a;flush": false,
		"a-b": false, strings.Repeat("a", 129): false, "é": false,
	} {
		if _, err := New(Options{Table: name}); (err == nil) != want {
			t.Errorf("table %q: %v", name, err)
		}
	}
	for name, want := range map[string]bool{
		"sallyport": true, "sallyport_12": true, "sallyport_": false, "sallyport_a": false, "sallyport2": false, "other": false,
	} {
		if ours(name, "sallyport") != want {
			t.Errorf("%s ours: %v", name, !want)
		}
	}
}

// FuzzDescribe: what nf_tables may have of others is read without a crash, and twice
// alike: a comparison must not depend on when it is made.
func FuzzDescribe(f *testing.F) {
	for _, r := range taggedChain(3, false).rules {
		var list []netlink.Attribute
		for _, e := range r.body {
			b, err := expr.Marshal(unix.NFPROTO_INET, e)
			if err != nil {
				f.Fatal(err)
			}
			list = append(list, netlink.Attribute{Type: unix.NFTA_LIST_ELEM, Data: b})
		}
		b, err := netlink.MarshalAttributes(list)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		once, err1 := describe(b)
		again, err2 := describe(b)
		if once != again || (err1 == nil) != (err2 == nil) {
			t.Errorf("%q (%v), then %q (%v)", once, err1, again, err2)
		}
		_, _, _, _ = elementFrom(b)
		list, err := attributes(b)
		if err == nil {
			_, _, _ = setFrom(list)
		}
	})
}
