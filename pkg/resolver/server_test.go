package resolver

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"

	"sallyport/pkg/policy"
)

func TestListedNameIsAnswered(t *testing.T) {
	u := newUpstream(t, zone(rrA("api.example.com.", "203.0.113.7", 60), rrAAAA("api.example.com.", "2001:db8::7", 60)))
	f := &fakes{}
	r := newResolver(t, f, Limits{}, u.addr)
	m := ask(t, r, "API.Example.com.", dnsmessage.TypeA)
	if diff := cmp.Diff([]string{"203.0.113.7"}, addrsOf(m)); diff != "" {
		t.Error(diff)
	}
	if m.ID != 0x1234 || m.Questions[0].Name.String() != "API.Example.com." || !m.RecursionAvailable {
		t.Errorf("header or question changed: %s", m.GoString())
	}
	e := f.lastEvent(t)
	if e.Name != "api.example.com" || e.Type != "A" || e.Rcode != "NOERROR" || e.Decision.Verdict != policy.Allow || e.Decision.Rule != "r" || !cmp.Equal(e.Answers, []string{"203.0.113.7"}) {
		t.Errorf("event %+v", e)
	}
	if got, ok := r.Name("w", netip.MustParseAddr("203.0.113.7")); !ok || got != "api.example.com" {
		t.Errorf("name of the address: %q", got)
	}
	if _, ok := r.Name("other", netip.MustParseAddr("203.0.113.7")); ok {
		t.Error("another workload knows what w was told")
	}
}

func TestUnlistedNameIsNotAskedUpstream(t *testing.T) {
	u := newUpstream(t, zone(rrA("evil.example.com.", "203.0.113.7", 60)))
	f := &fakes{allowed: func(string) bool { return false }}
	r := newResolver(t, f, Limits{}, u.addr)
	m := ask(t, r, "secret-data.evil.example.com.", dnsmessage.TypeA)
	code, text := edeOf(m)
	if m.RCode != dnsmessage.RCodeNameError || code != 17 || text != "add secret-data.evil.example.com to a rule" || len(m.Authorities) != 0 || len(m.Answers) != 0 {
		t.Errorf("%s", m.GoString())
	}
	if u.count() != 0 {
		t.Error("asked upstream")
	}
	e := f.lastEvent(t)
	if e.Decision.Verdict != policy.Deny || e.Decision.Reason != policy.NoRule || e.Rcode != "NXDOMAIN" {
		t.Errorf("event %+v", e)
	}
	// Without EDNS there is no place for the hint, RFC 6891 §6.1.1.
	m = unpack(t, r.Answer(t.Context(), Client{Workload: "w"}, question(t, "x.example.com.", dnsmessage.TypeA, false), false))
	if len(m.Additionals) != 0 || m.RCode != dnsmessage.RCodeNameError {
		t.Errorf("%s", m.GoString())
	}
}

func TestObserveModeResolvesUnlisted(t *testing.T) {
	u := newUpstream(t, zone(rrA("x.example.com.", "203.0.113.7", 60)))
	f := &fakes{allowed: func(string) bool { return false }, observe: true}
	r := newResolver(t, f, Limits{}, u.addr)
	if m := ask(t, r, "x.example.com.", dnsmessage.TypeA); len(addrsOf(m)) != 1 {
		t.Errorf("%s", m.GoString())
	}
	if e := f.lastEvent(t); e.Decision.Verdict != policy.WouldDeny || e.Decision.Reason != policy.NoRule {
		t.Errorf("event %+v", e)
	}
}

// raw changes a good question.
func raw(t *testing.T, change func(m *dnsmessage.Message)) []byte {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(question(t, "a.example.com.", dnsmessage.TypeA, false)); err != nil {
		t.Fatal(err)
	}
	change(&m)
	out, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func optRecord(class uint16, ttl uint32) dnsmessage.Resource {
	return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: rootName(), Type: dnsmessage.TypeOPT, Class: dnsmessage.Class(class), TTL: ttl}, Body: &dnsmessage.OPTResource{}}
}

func TestStrangeQuestions(t *testing.T) {
	withType := func(typ dnsmessage.Type) []byte {
		return raw(t, func(m *dnsmessage.Message) { m.Questions[0].Type = typ })
	}
	named := func(s string) []byte {
		return raw(t, func(m *dnsmessage.Message) { m.Questions[0].Name = name(s) })
	}
	good := question(t, "a.example.com.", dnsmessage.TypeA, false)
	tests := map[string]struct {
		msg   []byte
		rcode string // "" = no reply
	}{
		"good":               {good, "NOERROR"},
		"empty":              {nil, ""},
		"short header":       {good[:11], ""},
		"response":           {raw(t, func(m *dnsmessage.Message) { m.Response = true }), ""},
		"cut question":       {good[:20], "FORMERR"},
		"no question":        {raw(t, func(m *dnsmessage.Message) { m.Questions = nil }), "FORMERR"},
		"two questions":      {raw(t, func(m *dnsmessage.Message) { m.Questions = append(m.Questions, m.Questions[0]) }), "FORMERR"},
		"65535 questions":    {append(append([]byte{0, 1, 1, 0, 0xff, 0xff}, make([]byte, 6)...), good[12:]...), "FORMERR"},
		"answer in question": {raw(t, func(m *dnsmessage.Message) { m.Answers = []dnsmessage.Resource{rrA("a.example.com.", "192.0.2.1", 1)} }), "FORMERR"},
		"authority in question": {raw(t, func(m *dnsmessage.Message) {
			m.Authorities = []dnsmessage.Resource{rrA("a.example.com.", "192.0.2.1", 1)}
		}), "FORMERR"},
		"truncated question": {raw(t, func(m *dnsmessage.Message) { m.Truncated = true }), "FORMERR"},
		"two OPT": {raw(t, func(m *dnsmessage.Message) {
			m.Additionals = []dnsmessage.Resource{optRecord(512, 0), optRecord(512, 0)}
		}), "FORMERR"},
		"EDNS version 1":   {raw(t, func(m *dnsmessage.Message) { m.Additionals = []dnsmessage.Resource{optRecord(512, 1<<16)} }), "BADVERS"},
		"update":           {raw(t, func(m *dnsmessage.Message) { m.OpCode = 5 }), "NOTIMP"},
		"notify":           {raw(t, func(m *dnsmessage.Message) { m.OpCode = 4 }), "NOTIMP"},
		"chaos class":      {raw(t, func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS }), "REFUSED"},
		"ANY":              {withType(dnsmessage.TypeALL), "REFUSED"},
		"AXFR":             {withType(dnsmessage.TypeAXFR), "REFUSED"},
		"IXFR":             {withType(251), "REFUSED"},
		"NULL":             {withType(10), "REFUSED"},
		"OPT":              {withType(dnsmessage.TypeOPT), "REFUSED"},
		"private type":     {withType(65280), "REFUSED"},
		"the root":         {named("."), "NXDOMAIN"},
		"space":            {named("a b.example.com."), "NXDOMAIN"},
		"NUL":              {named("a\x00.example.com."), "NXDOMAIN"},
		"binary":           {named("\xff\xfe.example.com."), "NXDOMAIN"},
		"wildcard":         {named("*.example.com."), "NXDOMAIN"},
		"compression loop": {append(append([]byte{}, good[:12]...), 0xc0, 12, 0, 1, 0, 1), "FORMERR"},
	}
	for label, tt := range tests {
		t.Run(label, func(t *testing.T) {
			u := newUpstream(t, zone(rrA("a.example.com.", "203.0.113.7", 60)))
			f := &fakes{}
			r := newResolver(t, f, Limits{}, u.addr)
			reply := r.Answer(t.Context(), Client{Workload: "w"}, tt.msg, false)
			if tt.rcode == "" {
				if reply != nil || f.dropped[DropNotAQuery] != 1 {
					t.Errorf("reply %x, dropped %v", reply, f.dropped)
				}
				return
			}
			e := f.lastEvent(t)
			if e.Rcode != tt.rcode {
				t.Errorf("recorded %s", e.Rcode)
			}
			m := unpack(t, reply)
			if got := rcodeName(m.RCode); got != tt.rcode && !(tt.rcode == "BADVERS" && m.RCode == 0 && m.Additionals[0].Header.TTL>>24 == 1) {
				t.Errorf("rcode %s", got)
			}
			if tt.rcode != "NOERROR" && (u.count() != 0 || e.Decision.Verdict != policy.Deny) {
				t.Errorf("asked upstream %d times, verdict %s", u.count(), e.Decision.Verdict)
			}
		})
	}
}

func TestNothingOfTheClientGoesOut(t *testing.T) {
	u := newUpstream(t, zone(rrA("a.example.com.", "203.0.113.7", 60)))
	r := newResolver(t, &fakes{}, Limits{}, u.addr)
	msg := raw(t, func(m *dnsmessage.Message) {
		m.CheckingDisabled = true
		opt := optRecord(4096, 0)
		opt.Body = &dnsmessage.OPTResource{Options: []dnsmessage.Option{{Code: 65001, Data: []byte("secret")}}}
		m.Additionals = []dnsmessage.Resource{opt, {Header: header("x.", dnsmessage.TypeTXT, 0), Body: &dnsmessage.TXTResource{TXT: []string{"secret"}}}}
	})
	m := unpack(t, r.Answer(t.Context(), Client{Workload: "w"}, msg, false))
	if len(addrsOf(m)) != 1 || !m.CheckingDisabled {
		t.Errorf("%s", m.GoString())
	}
	out := u.questions()[0]
	if out.CheckingDisabled || len(out.Additionals) != 1 || len(out.Additionals[0].Body.(*dnsmessage.OPTResource).Options) != 0 {
		t.Errorf("went out: %s", out.GoString())
	}
}

func TestAnswersAreCutToTheQuestion(t *testing.T) {
	soa := dnsmessage.Resource{Header: header("example.com.", dnsmessage.TypeSOA, 300), Body: &dnsmessage.SOAResource{NS: name("ns."), MBox: name("m."), MinTTL: 30}}
	foreignSOA := dnsmessage.Resource{Header: header("bank.test.", dnsmessage.TypeSOA, 300), Body: &dnsmessage.SOAResource{NS: name("ns."), MBox: name("m."), MinTTL: 30}}
	ns := dnsmessage.Resource{Header: header("example.com.", dnsmessage.TypeNS, 300), Body: &dnsmessage.NSResource{NS: name("ns.evil.test.")}}
	tests := map[string]struct {
		answers, authorities, additionals []dnsmessage.Resource
		want                              []string
		records, soas                     int
		rcode                             dnsmessage.RCode
		fails                             bool
	}{
		"chain, out of order":  {answers: []dnsmessage.Resource{rrA("c.test.", "203.0.113.1", 9), rrCNAME("b.test.", "c.test.", 9), rrCNAME("a.example.com.", "B.test.", 9)}, want: []string{"203.0.113.1"}, records: 3},
		"stranger's address":   {answers: []dnsmessage.Resource{rrA("a.example.com.", "203.0.113.1", 9), rrA("bank.test.", "203.0.113.66", 9)}, want: []string{"203.0.113.1"}, records: 1},
		"glue":                 {answers: []dnsmessage.Resource{rrA("a.example.com.", "203.0.113.1", 9)}, authorities: []dnsmessage.Resource{ns}, additionals: []dnsmessage.Resource{rrA("ns.evil.test.", "203.0.113.66", 9)}, want: []string{"203.0.113.1"}, records: 1},
		"address beside alias": {answers: []dnsmessage.Resource{rrCNAME("a.example.com.", "b.test.", 9), rrA("a.example.com.", "203.0.113.66", 9), rrA("b.test.", "203.0.113.1", 9)}, want: []string{"203.0.113.1"}, records: 2},
		"other type":           {answers: []dnsmessage.Resource{rrAAAA("a.example.com.", "2001:db8::1", 9)}},
		"no data":              {authorities: []dnsmessage.Resource{soa, foreignSOA, ns}, soas: 1},
		"no name":              {authorities: []dnsmessage.Resource{soa}, soas: 1, rcode: dnsmessage.RCodeNameError},
		"alias loop":           {answers: []dnsmessage.Resource{rrCNAME("a.example.com.", "b.test.", 9), rrCNAME("b.test.", "a.example.com.", 9)}, fails: true},
		"alias to itself":      {answers: []dnsmessage.Resource{rrCNAME("a.example.com.", "a.example.com.", 9)}, fails: true},
	}
	for label, tt := range tests {
		t.Run(label, func(t *testing.T) {
			u := newUpstream(t, func(q dnsmessage.Message, tcp bool) []dnsmessage.Message {
				m := respond(q, tt.answers...)
				m.Authorities, m.Additionals, m.RCode = tt.authorities, tt.additionals, tt.rcode
				return []dnsmessage.Message{m}
			})
			r := newResolver(t, &fakes{}, Limits{}, u.addr)
			m := ask(t, r, "a.example.com.", dnsmessage.TypeA)
			if tt.fails {
				if m.RCode != dnsmessage.RCodeServerFailure {
					t.Errorf("%s", m.GoString())
				}
				return
			}
			if diff := cmp.Diff(tt.want, addrsOf(m)); diff != "" {
				t.Error(diff)
			}
			if len(m.Answers) != tt.records || len(m.Authorities) != tt.soas || m.RCode != tt.rcode || len(m.Additionals) != 1 {
				t.Errorf("%s", m.GoString())
			}
			for _, a := range []string{"203.0.113.66"} {
				if n, ok := r.Name("w", netip.MustParseAddr(a)); ok {
					t.Errorf("%s is remembered as %s", a, n)
				}
			}
		})
	}
}

func TestTooManyAddressesAreNotTold(t *testing.T) {
	var records []dnsmessage.Resource
	for i := range 200 {
		records = append(records, rrA("a.example.com.", fmt.Sprintf("203.0.113.%d", i), 100_000))
	}
	u := newUpstream(t, zone(records...))
	u.set(func(q dnsmessage.Message, tcp bool) []dnsmessage.Message {
		if !tcp {
			m := respond(q)
			m.Truncated = true
			return []dnsmessage.Message{m}
		}
		return zone(records...)(q, tcp)
	})
	r := newResolver(t, &fakes{}, Limits{}, u.addr)
	client := Client{Workload: "w"}
	// The client's 1232 octets hold no 64 addresses? They do: 16 each.
	m := unpack(t, r.Answer(t.Context(), client, question(t, "a.example.com.", dnsmessage.TypeA, true), false))
	if len(m.Answers) != maxAddresses {
		t.Fatalf("%d addresses", len(m.Answers))
	}
	if m.Answers[0].Header.TTL != uint32(maxTTL/time.Second) {
		t.Errorf("TTL %d", m.Answers[0].Header.TTL)
	}
	for _, a := range addrsOf(m) {
		if _, ok := r.Name("w", netip.MustParseAddr(a)); !ok {
			t.Fatalf("%s was told but is not remembered", a)
		}
	}
	// 512 octets do not: TC, nothing half, and TCP has it all.
	short := r.Answer(t.Context(), client, question(t, "a.example.com.", dnsmessage.TypeA, false), false)
	if m := unpack(t, short); !m.Truncated || len(m.Answers) != 0 || len(short) > plainUDP {
		t.Errorf("%d octets, %s", len(short), m.GoString())
	}
	if m := unpack(t, r.Answer(t.Context(), client, question(t, "a.example.com.", dnsmessage.TypeA, false), true)); m.Truncated || len(m.Answers) != maxAddresses {
		t.Errorf("over TCP %d answers", len(m.Answers))
	}
}

func TestRefusedWhileAuditIsDown(t *testing.T) {
	u := newUpstream(t, zone(rrA("a.example.com.", "203.0.113.7", 60)))
	f := &fakes{health: errTest}
	r := newResolver(t, f, Limits{}, u.addr)
	if m := ask(t, r, "a.example.com.", dnsmessage.TypeA); m.RCode != dnsmessage.RCodeServerFailure || u.count() != 0 {
		t.Errorf("asked %d times: %s", u.count(), m.GoString())
	}
	if e := f.lastEvent(t); e.Decision.Reason != policy.AuditUnavailable || e.Decision.Verdict != policy.Deny {
		t.Errorf("event %+v", e)
	}
	f.health, f.broken = nil, errTest
	if m := ask(t, r, "a.example.com.", dnsmessage.TypeA); m.RCode != dnsmessage.RCodeServerFailure || len(m.Answers) != 0 {
		t.Errorf("%s", m.GoString())
	}
	if _, ok := r.Name("w", netip.MustParseAddr("203.0.113.7")); ok {
		t.Error("remembered what was not told")
	}
}

func TestHostsFile(t *testing.T) {
	u := newUpstream(t, zone())
	f := &fakes{allowed: func(h string) bool { return h != "denied.example.com" }}
	r := newResolver(t, f, Limits{}, u.addr)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(r.hosts.path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		r.hosts.mu.Lock()
		r.hosts.checked = time.Time{}
		r.hosts.mu.Unlock()
	}
	write("# comment\n203.0.113.1 Db.Example.com db # more\n2001:db8::1 db.example.com\n203.0.113.9 denied.example.com\nnonsense\n203.0.113.2\n")
	if diff := cmp.Diff([]string{"203.0.113.1"}, addrsOf(ask(t, r, "db.example.com.", dnsmessage.TypeA))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"2001:db8::1"}, addrsOf(ask(t, r, "db.example.com.", dnsmessage.TypeAAAA))); diff != "" {
		t.Error(diff)
	}
	if m := ask(t, r, "db.", dnsmessage.TypeAAAA); m.RCode != 0 || len(m.Answers) != 0 {
		t.Errorf("%s", m.GoString())
	}
	if m := ask(t, r, "denied.example.com.", dnsmessage.TypeA); m.RCode != dnsmessage.RCodeNameError {
		t.Errorf("%s", m.GoString())
	}
	write("203.0.113.3 db.example.com\n")
	if diff := cmp.Diff([]string{"203.0.113.3"}, addrsOf(ask(t, r, "db.example.com.", dnsmessage.TypeA))); diff != "" {
		t.Error(diff)
	}
	if u.count() != 0 {
		t.Error("asked upstream")
	}
}

func TestLocalhostStaysHere(t *testing.T) {
	u := newUpstream(t, zone(rrA("foo.localhost.", "203.0.113.66", 60)))
	f := &fakes{allowed: func(string) bool { return false }}
	r := newResolver(t, f, Limits{}, u.addr)
	for owner, want := range map[string][]string{"localhost.": {"127.0.0.1"}, "foo.localhost.": {"127.0.0.1"}} {
		if diff := cmp.Diff(want, addrsOf(ask(t, r, owner, dnsmessage.TypeA))); diff != "" {
			t.Errorf("%s: %s", owner, diff)
		}
	}
	for _, owner := range []string{"notlocalhost.", "localhost.example.com.", "4.3.2.1.in-addr.arpa.", "db."} {
		if m := ask(t, r, owner, dnsmessage.TypePTR); m.RCode != dnsmessage.RCodeNameError {
			t.Errorf("%s: %s", owner, m.GoString())
		}
	}
	if u.count() != 0 {
		t.Error("asked upstream")
	}
}
