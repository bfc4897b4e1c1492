package resolver

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"
)

func TestForgedDatagramsAreNotTheAnswer(t *testing.T) {
	forgeries := map[string]func(m *dnsmessage.Message){
		"other id": func(m *dnsmessage.Message) { m.ID++ },
		"other name": func(m *dnsmessage.Message) {
			m.Questions = []dnsmessage.Question{{Name: name("b.example.com."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}
		},
		"other type": func(m *dnsmessage.Message) {
			m.Questions = []dnsmessage.Question{{Name: name("a.example.com."), Type: dnsmessage.TypeAAAA, Class: dnsmessage.ClassINET}}
		},
		"other class": func(m *dnsmessage.Message) {
			m.Questions = []dnsmessage.Question{{Name: name("a.example.com."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassCHAOS}}
		},
		"no question": func(m *dnsmessage.Message) { m.Questions = nil },
		"two questions": func(m *dnsmessage.Message) {
			m.Questions = append(append([]dnsmessage.Question{}, m.Questions...), m.Questions...)
		},
		"not a response": func(m *dnsmessage.Message) { m.Response = false },
		"other opcode":   func(m *dnsmessage.Message) { m.OpCode = 4 },
	}
	for label, forge := range forgeries {
		t.Run(label, func(t *testing.T) {
			u := newUpstream(t, func(q dnsmessage.Message, tcp bool) []dnsmessage.Message {
				bad := respond(q, rrA("a.example.com.", "203.0.113.66", 60))
				forge(&bad)
				return []dnsmessage.Message{bad, respond(q, rrA("a.example.com.", "203.0.113.1", 60))}
			})
			r := newResolver(t, &fakes{}, Limits{}, u.addr)
			if diff := cmp.Diff([]string{"203.0.113.1"}, addrsOf(ask(t, r, "a.example.com.", dnsmessage.TypeA))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGuessingEndsInTCP(t *testing.T) {
	u := newUpstream(t, func(q dnsmessage.Message, tcp bool) []dnsmessage.Message {
		if tcp {
			return []dnsmessage.Message{respond(q, rrA("a.example.com.", "203.0.113.1", 60))}
		}
		var out []dnsmessage.Message
		for i := range 2 * maxForeign {
			bad := respond(q, rrA("a.example.com.", "203.0.113.66", 60))
			bad.ID += uint16(i + 1)
			out = append(out, bad)
		}
		return append(out, respond(q, rrA("a.example.com.", "203.0.113.66", 60)))
	})
	r := newResolver(t, &fakes{}, Limits{}, u.addr)
	if diff := cmp.Diff([]string{"203.0.113.1"}, addrsOf(ask(t, r, "a.example.com.", dnsmessage.TypeA))); diff != "" {
		t.Error(diff)
	}
}

func TestPortsAndIDsAreRandom(t *testing.T) {
	u := newUpstream(t, zone())
	r := newResolver(t, &fakes{}, Limits{}, u.addr)
	const n = 64
	for i := range n {
		ask(t, r, fmt.Sprintf("n%d.example.com.", i), dnsmessage.TypeA)
	}
	seen := u.questions()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.ports) < n*9/10 || len(u.ids) < n*9/10 {
		t.Errorf("%d ports, %d ids in %d questions", len(u.ports), len(u.ids), n)
	}
	steps := make(map[uint16]int)
	for i := 1; i < len(seen); i++ {
		steps[seen[i].ID-seen[i-1].ID]++
	}
	for step, times := range steps {
		if times > n/8 {
			t.Errorf("%d ids follow the one before by %d", times, step)
		}
	}
}

func TestServersAreTriedInTurn(t *testing.T) {
	good := newUpstream(t, zone(rrA("a.example.com.", "203.0.113.1", 60)))
	silent := newUpstream(t, func(dnsmessage.Message, bool) []dnsmessage.Message { return nil })
	failing := newUpstream(t, func(q dnsmessage.Message, tcp bool) []dnsmessage.Message {
		m := respond(q)
		m.RCode = dnsmessage.RCodeServerFailure
		return []dnsmessage.Message{m}
	})
	closed := netip.MustParseAddrPort("127.0.0.1:1")
	r := newResolver(t, &fakes{}, Limits{Timeout: time.Second, Total: 30 * time.Second}, closed, silent.addr, failing.addr, good.addr)
	if diff := cmp.Diff([]string{"203.0.113.1"}, addrsOf(ask(t, r, "a.example.com.", dnsmessage.TypeA))); diff != "" {
		t.Error(diff)
	}
	// Those that gave no answer come last for a while.
	servers, _, _ := r.upstreams.servers(time.Now())
	if diff := cmp.Diff([]netip.AddrPort{failing.addr, good.addr, closed, silent.addr}, servers, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	servers, _, _ = r.upstreams.servers(time.Now().Add(restAfterFailure + time.Second))
	if servers[0] != closed {
		t.Errorf("never asked again: %v", servers)
	}
}

func TestSetUpstreams(t *testing.T) {
	first := newUpstream(t, zone(rrA("a.example.com.", "203.0.113.1", 60)))
	second := newUpstream(t, zone(rrA("a.example.com.", "203.0.113.2", 60)))
	r := newResolver(t, &fakes{}, Limits{}, first.addr)
	for _, tt := range []struct {
		server netip.AddrPort
		want   string
	}{{first.addr, "203.0.113.1"}, {second.addr, "203.0.113.2"}} {
		r.SetUpstreams([]netip.AddrPort{tt.server}, false)
		addrs, err := r.Lookup(t.Context(), "w", "a.example.com")
		if err != nil || len(addrs) != 1 || addrs[0].String() != tt.want {
			t.Errorf("%v %v", addrs, err)
		}
	}
	r.SetUpstreams(nil, false)
	r.upstreams.conf = newWatchedFile("/nonexistent", parseResolvConf)
	if servers, _, _ := r.upstreams.servers(time.Now()); len(servers) != 1 || servers[0].Port() != 53 {
		t.Errorf("servers %v", servers)
	}
}

func TestAllServersFail(t *testing.T) {
	silent := newUpstream(t, func(dnsmessage.Message, bool) []dnsmessage.Message { return nil })
	f := &fakes{}
	r := newResolver(t, f, Limits{Timeout: 50 * time.Millisecond, Total: 200 * time.Millisecond}, silent.addr)
	start := time.Now()
	m := ask(t, r, "a.example.com.", dnsmessage.TypeA)
	if code, _ := edeOf(m); m.RCode != dnsmessage.RCodeServerFailure || code != edeNoAuthority {
		t.Errorf("%s", m.GoString())
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	if e := f.lastEvent(t); !strings.Contains(e.Error, silent.addr.String()) {
		t.Errorf("event says %q", e.Error)
	}
}

func TestServerWithoutEDNS(t *testing.T) {
	u := newUpstream(t, func(q dnsmessage.Message, tcp bool) []dnsmessage.Message {
		m := respond(q, rrA("a.example.com.", "203.0.113.1", 60))
		if len(q.Additionals) > 0 {
			m = respond(q)
			m.RCode, m.Questions = dnsmessage.RCodeFormatError, nil
		}
		return []dnsmessage.Message{m}
	})
	r := newResolver(t, &fakes{}, Limits{}, u.addr)
	if diff := cmp.Diff([]string{"203.0.113.1"}, addrsOf(ask(t, r, "a.example.com.", dnsmessage.TypeA))); diff != "" {
		t.Error(diff)
	}
}

func TestOneQuestionForAllWhoAskTheSame(t *testing.T) {
	release := make(chan struct{})
	u := newUpstream(t, func(q dnsmessage.Message, tcp bool) []dnsmessage.Message {
		<-release
		return []dnsmessage.Message{respond(q, rrA("a.example.com.", "203.0.113.1", 60))}
	})
	r := newResolver(t, &fakes{}, Limits{Timeout: 30 * time.Second, Total: 30 * time.Second}, u.addr)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if m := ask(t, r, "a.example.com.", dnsmessage.TypeA); len(m.Answers) != 1 {
				t.Error(m.GoString())
			}
		})
	}
	inWork := func() int {
		r.slots.mu.Lock()
		defer r.slots.mu.Unlock()
		return r.slots.perWorkload["w"]
	}
	for deadline := time.Now().Add(30 * time.Second); inWork() < 20; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not all ask at once")
		}
	}
	close(release)
	wg.Wait()
	if n := u.count(); n > 2 {
		t.Errorf("asked %d times", n)
	}
}

func TestResolvConf(t *testing.T) {
	tests := map[string]struct {
		text string
		want resolvConf
	}{
		"empty": {"", resolvConf{servers: addrPorts("127.0.0.1:53")}},
		"usual": {"# c\n; c\nsearch a b\nnameserver 192.0.2.1\nnameserver\t2001:db8::1\noptions ndots:5 timeout:3 attempts:4\n",
			resolvConf{servers: addrPorts("192.0.2.1:53", "[2001:db8::1]:53"), timeout: 3 * time.Second, attempts: 4}},
		"zone":     {"nameserver fe80::1%eth0\n", resolvConf{servers: addrPorts("[fe80::1%eth0]:53")}},
		"nonsense": {"nameserver\nnameserver x\nnameserver 1.2.3\noptions timeout:-1 attempts:x timeout:999\n", resolvConf{servers: addrPorts("127.0.0.1:53"), timeout: 30 * time.Second}},
		"mapped":   {"nameserver ::ffff:192.0.2.1\n", resolvConf{servers: addrPorts("192.0.2.1:53")}},
		"many":     {strings.Repeat("nameserver 192.0.2.1\n", 50), resolvConf{servers: addrPorts("192.0.2.1:53", "192.0.2.1:53", "192.0.2.1:53", "192.0.2.1:53", "192.0.2.1:53", "192.0.2.1:53", "192.0.2.1:53", "192.0.2.1:53")}},
	}
	for label, tt := range tests {
		if diff := cmp.Diff(tt.want, parseResolvConf(tt.text), cmp.AllowUnexported(resolvConf{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("%s: %s", label, diff)
		}
	}
}

func addrPorts(list ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func TestWatchedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	f := newWatchedFile(path, parseHosts)
	now := time.Now()
	get := func() []netip.Addr { now = now.Add(2 * fileCheck); return f.get(now)["a"] }
	if got := get(); got != nil {
		t.Errorf("missing file gives %v", got)
	}
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	put("192.0.2.1 a\n")
	if got := get(); len(got) != 1 {
		t.Fatalf("got %v", got)
	}
	put("192.0.2.2 a\n") // same size
	if got := f.get(now.Add(fileCheck / 2)); got["a"][0].String() != "192.0.2.1" {
		t.Error("looked at the file too often")
	}
	if got := get(); got[0].String() != "192.0.2.2" {
		t.Errorf("got %v", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := get(); len(got) != 1 {
		t.Errorf("forgotten: %v", got)
	}
}

func TestLookup(t *testing.T) {
	u := newUpstream(t, zone(
		rrA("both.example.com.", "203.0.113.1", 60), rrAAAA("both.example.com.", "2001:db8::1", 60),
		rrA("four.example.com.", "203.0.113.4", 60)))
	r := newResolver(t, &fakes{}, Limits{}, u.addr)
	tests := map[string]struct {
		want []string
		err  error
	}{
		"both.example.com":  {want: []string{"203.0.113.1", "2001:db8::1"}},
		"four.example.com":  {want: []string{"203.0.113.4"}},
		"none.example.com":  {err: ErrNotFound},
		"localhost":         {want: []string{"127.0.0.1"}},
		"x.localhost":       {want: []string{"127.0.0.1", "::1"}},
		"192.0.2.9":         {want: []string{"192.0.2.9"}},
		"::ffff:192.0.2.9":  {want: []string{"192.0.2.9"}},
		"a b":               {err: ErrNotFound},
		"":                  {err: ErrNotFound},
		"four.example.com.": {err: ErrNotFound},
	}
	for host, tt := range tests {
		got, err := r.Lookup(t.Context(), "w", host)
		if !errors.Is(err, tt.err) {
			t.Errorf("%q: error %v", host, err)
		}
		var texts []string
		for _, a := range got {
			texts = append(texts, a.String())
		}
		if diff := cmp.Diff(tt.want, texts); diff != "" {
			t.Errorf("%q: %s", host, diff)
		}
	}
	before := u.count()
	for range 5 {
		r.Lookup(t.Context(), "w", "both.example.com")
		r.Lookup(t.Context(), "w", "none.example.com")
	}
	if u.count() != before {
		t.Errorf("asked %d times more", u.count()-before)
	}
	r.now = func() time.Time { return time.Now().Add(cacheCeiling + time.Second) }
	r.Lookup(t.Context(), "w", "both.example.com")
	if u.count() == before {
		t.Error("cached beyond its time")
	}
}

// What the workload was told is among the addresses also when DNS answers
// otherwise now, and when it does not answer at all.
func TestLookupKnowsWhatWasTold(t *testing.T) {
	u := newUpstream(t, zone(rrA("a.example.com.", "203.0.113.1", 0)))
	r := newResolver(t, &fakes{}, Limits{Timeout: time.Second, Total: time.Second}, u.addr)
	ask(t, r, "a.example.com.", dnsmessage.TypeA)
	u.set(zone(rrA("a.example.com.", "203.0.113.2", 0)))
	r.cache.Purge()
	has := func(workload, addr string) bool {
		addrs, _ := r.Lookup(t.Context(), workload, "a.example.com")
		for _, a := range addrs {
			if a.String() == addr {
				return true
			}
		}
		return false
	}
	if !has("w", "203.0.113.1") || !has("w", "203.0.113.2") {
		t.Error("an address is missing")
	}
	if has("other", "203.0.113.1") {
		t.Error("another workload gets it too")
	}
	u.set(func(dnsmessage.Message, bool) []dnsmessage.Message { return nil })
	r.cache.Purge()
	if !has("w", "203.0.113.1") {
		t.Error("forgotten while DNS is away")
	}
	if _, err := r.Lookup(t.Context(), "other", "a.example.com"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	r.now = func() time.Time { return time.Now().Add(rememberFloor + time.Minute) }
	if has("w", "203.0.113.1") {
		t.Error("remembered for ever")
	}
	r.memory.sweep(r.now())
	if w, p := r.memory.size(); w != 0 || p != 0 {
		t.Errorf("%d workloads, %d pairs", w, p)
	}
}

// A server that never answers AAAA does not keep IPv4 from being used.
func TestLookupDoesNotWaitForTheOtherFamily(t *testing.T) {
	u := newUpstream(t, func(q dnsmessage.Message, tcp bool) []dnsmessage.Message {
		if q.Questions[0].Type == dnsmessage.TypeAAAA {
			return nil
		}
		return []dnsmessage.Message{respond(q, rrA("a.example.com.", "203.0.113.1", 60))}
	})
	r := newResolver(t, &fakes{}, Limits{Timeout: 30 * time.Second, Total: time.Minute}, u.addr)
	start := time.Now()
	addrs, err := r.Lookup(t.Context(), "w", "a.example.com")
	if err != nil || len(addrs) != 1 {
		t.Errorf("%v %v", addrs, err)
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("took %s", took)
	}
}
