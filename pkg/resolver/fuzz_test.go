package resolver

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// Whatever a workload sends: no crash, at most one reply that parses, fits, and
// answers no other question; and nothing goes upstream for an unlisted name.
func FuzzQuery(f *testing.F) {
	for _, typ := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeHTTPS, dnsmessage.TypeALL, dnsmessage.TypePTR} {
		f.Add(question(f, "a.example.com.", typ, true))
		f.Add(question(f, "LocalHost.", typ, false))
	}
	good := question(f, "a.example.com.", dnsmessage.TypeA, true)
	f.Add(good[:20])
	f.Add(good[:11])
	f.Add(append(append([]byte{}, good[:12]...), 0xc0, 12, 0, 1, 0, 1))
	f.Add(append(append([]byte{0, 1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, good[12:]...), good[12:]...))
	u := newUpstream(f, zone())
	fake := &fakes{allowed: func(string) bool { return false }}
	r := newResolver(f, fake, Limits{}, u.addr)
	f.Fuzz(func(t *testing.T, msg []byte) {
		fake.events, fake.asked = nil, nil
		reply := r.Answer(t.Context(), Client{Workload: "w"}, msg, false)
		if u.count() > 0 {
			t.Fatal("asked upstream")
		}
		if reply == nil {
			return
		}
		if len(fake.events) != 1 {
			t.Fatalf("%d events", len(fake.events))
		}
		if len(reply) > maxUDP {
			t.Fatalf("%d octets", len(reply))
		}
		m := unpack(t, reply)
		if len(msg) < 12 || m.ID != uint16(msg[0])<<8|uint16(msg[1]) || msg[2]&0x80 != 0 {
			t.Fatal("answers something that is no question")
		}
		for _, host := range fake.asked {
			if _, ok := hostName(host); !ok {
				t.Fatalf("policy was asked about %q", host)
			}
		}
	})
}

// Whatever a server sends: no crash, and what comes out belongs to the question,
// is bounded, can be packed, and lets no client pass by.
func FuzzResponse(f *testing.F) {
	q := dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: []dnsmessage.Question{{Name: name("a.example.com."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	add := func(typ dnsmessage.Type, answers ...dnsmessage.Resource) {
		q.Questions[0].Type = typ
		packed, err := func() ([]byte, error) { m := respond(q, answers...); return m.Pack() }()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed, uint16(typ), true)
		f.Add(packed[:len(packed)-3], uint16(typ), false)
	}
	add(dnsmessage.TypeA, rrA("a.example.com.", "203.0.113.1", 60), rrA("b.example.com.", "203.0.113.2", 60))
	add(dnsmessage.TypeA, rrCNAME("a.example.com.", "b.test.", 60), rrA("b.test.", "203.0.113.2", 60))
	add(dnsmessage.TypeA, rrCNAME("a.example.com.", "a.example.com.", 60))
	add(dnsmessage.TypeAAAA, rrAAAA("a.example.com.", "::ffff:203.0.113.1", 60))
	add(dnsmessage.TypeHTTPS, dnsmessage.Resource{Header: header("a.example.com.", dnsmessage.TypeHTTPS, 60), Body: &dnsmessage.HTTPSResource{SVCBResource: dnsmessage.SVCBResource{
		Priority: 1, Target: name("."), Params: params{{Key: dnsmessage.SVCParamMandatory, Value: []byte{0, 1}}, {Key: dnsmessage.SVCParamALPN, Value: []byte("\x02h3\x02h2")}, {Key: dnsmessage.SVCParamECH, Value: []byte("x")}}}}})
	add(typeRRSIG, dnsmessage.Resource{Header: header("a.example.com.", typeRRSIG, 60), Body: &dnsmessage.UnknownResource{Type: typeRRSIG, Data: []byte("sig")}})
	f.Fuzz(func(t *testing.T, msg []byte, typNumber uint16, do bool) {
		typ := dnsmessage.Type(typNumber)
		var id uint16
		if len(msg) >= 2 {
			id = uint16(msg[0])<<8 | uint16(msg[1])
		}
		if _, err := checkResponse(msg, id, "a.example.com", typ); err != nil {
			return
		}
		a, err := parseResponse(msg, "a.example.com", typ, do)
		if err != nil {
			return
		}
		if len(a.addrs) > maxAddresses || len(a.texts) > maxEventAnswers || len(a.answers) > 2*maxRecords+maxChain+1 || a.ttl > maxTTL || a.ttl < 0 {
			t.Fatalf("unbounded: %+v", a)
		}
		for _, addr := range a.addrs {
			if addr.Is4In6() || !addr.IsValid() {
				t.Fatalf("address %v", addr)
			}
		}
		query := query{id: 1, edns: true, question: dnsmessage.Question{Name: name("a.example.com."), Type: typ, Class: dnsmessage.ClassINET}}
		for _, limit := range []int{plainUDP, 0xffff} {
			out, err := query.reply(a.rcode, a, nil, limit)
			if err != nil {
				continue // then it is SERVFAIL
			}
			if len(out) > limit {
				t.Fatalf("%d octets of %d", len(out), limit)
			}
			m := unpack(t, out)
			told := make(map[netip.Addr]bool)
			for _, r := range m.Answers {
				switch b := r.Body.(type) {
				case *dnsmessage.HTTPSResource:
					checkService(t, &b.SVCBResource)
				case *dnsmessage.SVCBResource:
					checkService(t, b)
				case *dnsmessage.AResource:
					told[netip.AddrFrom4(b.A)] = true
				case *dnsmessage.AAAAResource:
					told[netip.AddrFrom16(b.AAAA).Unmap()] = true
				}
			}
			for _, addr := range a.addrs {
				delete(told, addr)
			}
			if len(told) > 0 {
				t.Fatalf("told but not known: %v", told)
			}
		}
	})
}

func checkService(t *testing.T, r *dnsmessage.SVCBResource) {
	t.Helper()
	for _, key := range []dnsmessage.SVCParamKey{dnsmessage.SVCParamECH, dnsmessage.SVCParamIPv4Hint, dnsmessage.SVCParamIPv6Hint} {
		if _, ok := r.GetParam(key); ok {
			t.Fatalf("parameter %s is left", key)
		}
	}
	if alpn, ok := r.GetParam(dnsmessage.SVCParamALPN); ok && strings.Contains(string(alpn), "\x02h3") {
		if rest, _ := withoutHTTP3(alpn); len(rest) != len(alpn) {
			t.Fatalf("alpn %q", alpn)
		}
	}
}

func FuzzFiles(f *testing.F) {
	f.Add("127.0.0.1 localhost # c\n::1 a b.\n")
	f.Add("nameserver fe80::1%eth0\noptions timeout:1 attempts:99\n")
	f.Fuzz(func(t *testing.T, text string) {
		for host, addrs := range parseHosts(text) {
			if _, ok := hostName(host); !ok || len(addrs) == 0 || len(addrs) > maxAddresses {
				t.Fatalf("%q: %v", host, addrs)
			}
		}
		if c := parseResolvConf(text); len(c.servers) == 0 || len(c.servers) > maxServers || c.attempts > 5 {
			t.Fatalf("%+v", c)
		}
	})
}
