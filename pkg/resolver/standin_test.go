package resolver

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"sallyport/pkg/policy"
	"sallyport/pkg/policy/address"
)

// proxied are fakes under which every name but those of corp.example leaves by
// an upstream proxy.
type proxied struct{ fakes }

func (p *proxied) DecideName(workload, host string) Decision {
	d := p.fakes.DecideName(workload, host)
	d.ByProxy = host != "corp.example" && !strings.HasSuffix(host, ".corp.example")
	return d
}

func newProxied(t testing.TB, limits Limits, upstreams ...netip.AddrPort) (*Resolver, *proxied) {
	t.Helper()
	p := &proxied{}
	r := newResolver(t, &p.fakes, limits, upstreams...)
	r.names = p
	r.SetReserved(true)
	return r, p
}

// TestProxiedNameIsNotResolved: whatever is asked about it, nobody outside is.
func TestProxiedNameIsNotResolved(t *testing.T) {
	u := newUpstream(t, zone(rrA("api.example.com.", "203.0.113.7", 60), rrA("git.corp.example.", "203.0.113.8", 60)))
	r, f := newProxied(t, Limits{}, u.addr)
	os.WriteFile(r.hosts.path, []byte("127.0.0.1 localhost\n203.0.113.9 api.example.com\n"), 0o644)
	first := addrsOf(ask(t, r, "API.example.com.", dnsmessage.TypeA))
	if len(first) != 1 || !address.Synthetic4.Contains(netip.MustParseAddr(first[0])) {
		t.Fatalf("answered %v", first)
	}
	e := f.lastEvent(t)
	if e.Rcode != "NOERROR" || e.Decision.Verdict != policy.Allow || len(e.Answers) != 1 || e.Answers[0] != first[0] {
		t.Errorf("event %+v", e)
	}
	sixth := addrsOf(ask(t, r, "api.example.com.", dnsmessage.TypeAAAA))
	if len(sixth) != 1 || !address.Synthetic6.Contains(netip.MustParseAddr(sixth[0])) {
		t.Fatalf("answered %v", sixth)
	}
	if again := addrsOf(ask(t, r, "api.example.com.", dnsmessage.TypeA)); again[0] != first[0] {
		t.Errorf("%s, then %s", first[0], again[0])
	}
	for _, a := range []string{first[0], sixth[0], "::ffff:" + first[0]} {
		if name, ok := r.Name("w", netip.MustParseAddr(a)); !ok || name != "api.example.com" {
			t.Errorf("%s stands for %q", a, name)
		}
		if name, ok := r.Name("other", netip.MustParseAddr(a)); ok {
			t.Errorf("%s stands for %q towards another workload", a, name)
		}
	}
	for _, typ := range []dnsmessage.Type{dnsmessage.TypeHTTPS, dnsmessage.TypeSVCB, dnsmessage.TypeMX, dnsmessage.TypeTXT, dnsmessage.TypeSRV, dnsmessage.TypeCNAME, dnsmessage.TypePTR} {
		m := ask(t, r, "api.example.com.", typ)
		if code, _ := edeOf(m); m.RCode != dnsmessage.RCodeSuccess || len(m.Answers) != 0 || code != edeSynthesized {
			t.Errorf("%s: %s", typ, m.GoString())
		}
	}
	if u.count() != 0 {
		t.Errorf("asked upstream: %v", u.questions())
	}
	if got := addrsOf(ask(t, r, "git.corp.example.", dnsmessage.TypeA)); len(got) != 1 || got[0] != "203.0.113.8" || u.count() != 1 {
		t.Errorf("a name of no_proxy: %v", got)
	}
	if got := addrsOf(ask(t, r, "localhost.", dnsmessage.TypeA)); len(got) != 1 || got[0] != "127.0.0.1" {
		t.Errorf("localhost: %v", got)
	}
}

// TestReverseNames: PTR tells a workload what it was told, and nothing else.
func TestReverseNames(t *testing.T) {
	u := newUpstream(t, zone())
	r, _ := newProxied(t, Limits{}, u.addr)
	v4 := netip.MustParseAddr(addrsOf(ask(t, r, "a.example.", dnsmessage.TypeA))[0])
	v6 := netip.MustParseAddr(addrsOf(ask(t, r, "a.example.", dnsmessage.TypeAAAA))[0])
	for _, addr := range []netip.Addr{v4, v6} {
		m := ask(t, r, reverseName(addr), dnsmessage.TypePTR)
		if len(m.Answers) != 1 || m.Answers[0].Body.(*dnsmessage.PTRResource).PTR.String() != "a.example." {
			t.Errorf("%s: %s", addr, m.GoString())
		}
		if m := ask(t, r, reverseName(addr), dnsmessage.TypeTXT); len(m.Answers) != 0 || m.RCode != dnsmessage.RCodeSuccess {
			t.Errorf("%s TXT: %s", addr, m.GoString())
		}
		other := unpack(t, r.Answer(t.Context(), Client{Workload: "other"}, question(t, reverseName(addr), dnsmessage.TypePTR, true), false))
		if other.RCode != dnsmessage.RCodeNameError || len(other.Answers) != 0 {
			t.Errorf("another workload learns of %s: %s", addr, other.GoString())
		}
	}
	if u.count() != 0 {
		t.Error("asked upstream")
	}
}

func reverseName(addr netip.Addr) string {
	b := addr.AsSlice()
	var out strings.Builder
	for i := range b {
		c := b[len(b)-1-i]
		if addr.Is4() {
			fmt.Fprintf(&out, "%d.", c)
		} else {
			fmt.Fprintf(&out, "%x.%x.", c&15, c>>4)
		}
	}
	if addr.Is4() {
		return out.String() + "in-addr.arpa."
	}
	return out.String() + "ip6.arpa."
}

func FuzzReversed(f *testing.F) {
	f.Add("1.0.18.198.in-addr.arpa")
	f.Add(strings.TrimSuffix(reverseName(netip.MustParseAddr("2001:2::1")), "."))
	f.Add("in-addr.arpa")
	f.Add(".ip6.arpa")
	f.Fuzz(func(t *testing.T, s string) {
		addr, ok := reversed(s)
		if ok && strings.TrimSuffix(reverseName(addr), ".") != strings.ToLower(s) {
			t.Errorf("%q is read as %s", s, addr)
		}
	})
}

// TestReservedAddresses: a server that answers an address which may stand for
// another name leads nobody there.
func TestReservedAddresses(t *testing.T) {
	u := newUpstream(t, zone(
		rrA("git.corp.example.", "198.18.0.1", 60), rrA("git.corp.example.", "203.0.113.8", 60),
		rrA("evil.corp.example.", "198.19.0.1", 60), rrAAAA("evil.corp.example.", "2001:2::5", 60), rrAAAA("nat.corp.example.", "64:ff9b::c612:1", 60)))
	r, _ := newProxied(t, Limits{}, u.addr)
	if got := addrsOf(ask(t, r, "git.corp.example.", dnsmessage.TypeA)); len(got) != 1 || got[0] != "203.0.113.8" {
		t.Errorf("told %v", got)
	}
	for _, name := range []string{"evil.corp.example", "nat.corp.example"} {
		for _, typ := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
			if got := addrsOf(ask(t, r, name+".", typ)); len(got) != 0 {
				t.Errorf("%s: told %v", name, got)
			}
		}
		if got, err := r.Lookup(t.Context(), "w", name); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: dialled at %v, %v", name, got, err)
		}
	}
	r.SetReserved(false)
	if got := addrsOf(ask(t, r, "evil.corp.example.", dnsmessage.TypeA)); len(got) != 1 {
		t.Errorf("without proxies these are ordinary addresses: %v", got)
	}
}

// TestStandinsWhenFull: nothing that may still be used is given away, and what
// was is at rest before it stands for another name.
func TestStandinsWhenFull(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := newStandins(100, 3)
	tell := func(workload, name string) (uint32, error) { return s.tell(workload, name, now) }
	numbers := map[uint32]bool{}
	for i := range 3 {
		n, err := tell("w", fmt.Sprint("n", i))
		if err != nil || numbers[n] {
			t.Fatalf("%d: %d, %v", i, n, err)
		}
		numbers[n] = true
	}
	if _, err := tell("w", "n3"); !errors.Is(err, errNoStandin) {
		t.Errorf("a fourth name: %v", err)
	}
	if _, err := tell("v", "n3"); err != nil {
		t.Errorf("another workload suffers: %v", err)
	}
	n0, _ := tell("w", "n0")
	s.use("w", standin4(n0), 1, now)
	now = now.Add(standinFloor)
	tell("w", "n1")
	n3, err := tell("w", "n3")
	if err != nil || numbers[n3] {
		t.Errorf("after a while: %d, %v", n3, err)
	}
	if _, ok := s.name("w", standin4(n0)); !ok {
		t.Error("what a flow uses was given away")
	}
	if _, ok := s.name("w", standin4(n3)); !ok {
		t.Error("the new one stands for nothing")
	}
	now = now.Add(10 * standinMemory)
	s.sweep(now)
	if _, ok := s.name("w", standin6(n0)); !ok {
		t.Error("what a flow uses was forgotten")
	}
	if got := s.size(); got != 1 {
		t.Errorf("%d entries are left", got)
	}
	s.use("w", standin6(n0), -1, now)
	now = now.Add(standinMemory)
	s.sweep(now)
	if got := s.size(); got != 0 || len(s.crowds) != 0 || len(s.numbers) != 0 {
		t.Errorf("%d entries are left of a workload that asks no more", got)
	}
}

// TestStandinsInUse: however many flows there are, what none uses makes room.
func TestStandinsInUse(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := newStandins(1000, 200)
	for i := range 200 {
		n, err := s.tell("w", fmt.Sprint(i), now)
		if err != nil {
			t.Fatal(err)
		}
		if i != 150 {
			s.use("w", standin4(n), 1, now)
		}
	}
	now = now.Add(standinFloor)
	if _, err := s.tell("w", "new", now); err != nil {
		t.Errorf("the one that no flow uses makes no room: %v", err)
	}
	if _, err := s.tell("w", "newer", now); !errors.Is(err, errNoStandin) {
		t.Errorf("one that is used or was just told is given away: %v", err)
	}
	if s.names[standinKey{"w", "150"}] != nil || s.size() != 200 || s.crowds["w"].n != 200 {
		t.Errorf("%d entries", s.size())
	}
}

// TestStandinsRest: an address that stood for a name stands for no other before
// standinRest has passed, however many names are asked for.
func TestStandinsRest(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := newStandins(maxStandin, maxStandin)
	for i := range maxStandin {
		if _, err := s.tell("w", fmt.Sprint(i), now); err != nil {
			t.Fatalf("number %d: %v", i, err)
		}
	}
	first, ok := s.name("w", standin4(1))
	if last, _ := s.name("w", netip.MustParseAddr("198.19.255.254")); !ok || first != "0" || last != fmt.Sprint(maxStandin-1) {
		t.Errorf("first %q, last %q", first, last)
	}
	for _, a := range []string{"198.18.0.0", "198.19.255.255", "2001:2::", "2001:2::1:0:1", "2001:2::ffff:ffff"} {
		if name, ok := s.name("w", netip.MustParseAddr(a)); ok {
			t.Errorf("%s stands for %q", a, name)
		}
	}
	now = now.Add(standinMemory)
	s.sweep(now)
	if _, err := s.tell("w", "late", now.Add(standinRest-time.Second)); !errors.Is(err, errNoStandin) {
		t.Errorf("an address that rests: %v", err)
	}
	for i := range maxStandin {
		if n, err := s.tell("v", fmt.Sprint(i), now.Add(standinRest)); err != nil || n != uint32(i+1) {
			t.Fatalf("number %d after the rest: %d, %v", i, n, err)
		}
	}
	if len(s.resting) != 0 {
		t.Errorf("%d numbers rest", len(s.resting))
	}
}

// TestStandinsAreShared: workloads that ask for ever new names, as fast as those
// before make room, leave numbers to others, and get more themselves after the
// rest.
func TestStandinsAreShared(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := newStandins(65536, 4096)
	start, asked, later := now, 0, 0
	flood := func(workload string) (got int) {
		for range 4096 {
			asked++
			if _, err := s.tell(workload, fmt.Sprint(asked), now); err == nil {
				got++
			}
		}
		return got
	}
	for end := now.Add(3 * standinRest); now.Before(end); now = now.Add(standinFloor) {
		for i := range 3 {
			if got := flood(fmt.Sprint("hostile", i)); now.Sub(start) > standinRest+standinFloor {
				later += got
			}
		}
		if _, err := s.tell("quiet", now.String(), now); err != nil {
			t.Fatalf("another workload gets no address: %v", err)
		}
	}
	if later < maxStandin/restingShare {
		t.Error("what has rested is not given again")
	}
	now = now.Add(2 * standinRest)
	s.sweep(now)
	now = now.Add(standinRest)
	s.wake(now)
	if len(s.resting) != 0 || len(s.rest) != 0 {
		t.Errorf("%d numbers rest, after %d workloads", len(s.resting), len(s.rest))
	}
}

// TestStandinsOverflow: SERVFAIL, told in the audit, and others go on.
func TestStandinsOverflow(t *testing.T) {
	r, f := newProxied(t, Limits{StandinsPerWorkload: 2})
	for i := range 3 {
		m := ask(t, r, fmt.Sprintf("n%d.example.", i), dnsmessage.TypeA)
		if i < 2 && m.RCode != dnsmessage.RCodeSuccess || i == 2 && m.RCode != dnsmessage.RCodeServerFailure {
			t.Errorf("name %d: %v", i, m.RCode)
		}
	}
	if e := f.lastEvent(t); e.Decision.Reason != policy.Overloaded || e.Decision.Verdict != policy.Deny || e.Error == "" {
		t.Errorf("event %+v", e)
	}
	found := false
	for _, g := range r.Figures() {
		found = found || g.Name == "dns_standins" && g.Entries == 2 && g.Capacity == 65536
	}
	if !found {
		t.Errorf("figures %+v", r.Figures())
	}
	a := netip.MustParseAddr(addrsOf(ask(t, r, "n0.example.", dnsmessage.TypeA))[0])
	if !r.Hold("w", a) || r.Hold("v", a) || r.Hold("w", netip.MustParseAddr("203.0.113.1")) {
		t.Error("Hold takes what it must not, or not what it must")
	}
	r.Release("w", a)
}

func BenchmarkStandinName(b *testing.B) {
	s := newStandins(65536, 65536)
	now := time.Now()
	for i := range 65536 {
		s.tell("w", fmt.Sprint(i), now)
	}
	addr := standin4(4711)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			s.name("w", addr)
		}
	})
}
