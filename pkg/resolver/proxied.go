package resolver

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"sallyport/pkg/policy"
	"sallyport/pkg/policy/address"
)

// edeSynthesized is the code of answers that a server made up.
const edeSynthesized = 29

// standinAnswer answers a question for a name that is not resolved here, because
// it leaves by an upstream proxy or because targets stand in for it: A and AAAA
// with an address that stands for the name, every other type with no data. HTTPS
// and SVCB records in particular would send clients to other names, ports and
// protocols than they asked for.
func (r *Resolver) standinAnswer(client Client, q *query, name string, decision Decision) outcome {
	a := &answer{rcode: dnsmessage.RCodeSuccess, ttl: standinTTL}
	if q.typ != dnsmessage.TypeA && q.typ != dnsmessage.TypeAAAA {
		return outcome{rcode: a.rcode, answer: a, decision: decision, ede: &extendedError{edeSynthesized, "the name is not resolved here: it leaves by an upstream proxy, or for the targets of an upstream"}}
	}
	number, err := r.standins.tell(client.Workload, name, r.now())
	if err != nil {
		out := refusal(dnsmessage.RCodeServerFailure, policy.Overloaded, &extendedError{edeOther, err.Error()}, "")
		out.decision.Rule, out.decision.Mode, out.err = decision.Rule, decision.Mode, err
		return out
	}
	h := dnsmessage.ResourceHeader{Name: q.question.Name, Class: dnsmessage.ClassINET, Type: q.typ, TTL: uint32(standinTTL / time.Second)}
	var addr netip.Addr
	var body dnsmessage.ResourceBody
	if q.typ == dnsmessage.TypeA {
		addr = standin4(number)
		body = &dnsmessage.AResource{A: addr.As4()}
	} else {
		addr = standin6(number)
		body = &dnsmessage.AAAAResource{AAAA: addr.As16()}
	}
	a.answers = append(a.answers, dnsmessage.Resource{Header: h, Body: body})
	a.note(addr.String())
	return outcome{rcode: a.rcode, answer: a, decision: decision}
}

// reverseAnswer answers for the reverse name of an address that may stand for a
// name: a workload learns what it was told, and nobody outside is asked. false
// leaves the question to others.
func (r *Resolver) reverseAnswer(client Client, q *query, name string) (outcome, bool) {
	addr, ok := reversed(name)
	if !ok || !address.IsSynthetic(addr) {
		return outcome{}, false
	}
	host, known := r.standins.name(client.Workload, addr)
	if !known && !r.reserved.Load() {
		return outcome{}, false
	}
	a := &answer{rcode: dnsmessage.RCodeSuccess, ttl: standinTTL}
	target, err := dnsmessage.NewName(host + ".")
	switch {
	case !known || err != nil:
		a.rcode = dnsmessage.RCodeNameError
	case q.typ == dnsmessage.TypePTR:
		h := dnsmessage.ResourceHeader{Name: q.question.Name, Class: dnsmessage.ClassINET, Type: q.typ, TTL: uint32(standinTTL / time.Second)}
		a.answers = append(a.answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.PTRResource{PTR: target}})
		a.note(host)
	}
	return outcome{rcode: a.rcode, answer: a, decision: Decision{Verdict: policy.Allow}}, true
}

// reversed reads a name below in-addr.arpa or ip6.arpa, RFC 1035 section 3.5 and
// RFC 3596 section 2.5.
func reversed(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		labels := strings.Split(rest, ".")
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		slices.Reverse(labels)
		addr, err := netip.ParseAddr(strings.Join(labels, "."))
		return addr, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range 32 {
		digit, err := strconv.ParseUint(rest[2*i:2*i+1], 16, 8)
		if err != nil || i < 31 && rest[2*i+1] != '.' {
			return netip.Addr{}, false
		}
		at := 31 - i
		b[at/2] |= byte(digit) << (4 * (1 - at%2))
	}
	return netip.AddrFrom16(b), true
}

// SetReserved says, after each change of the configuration, whether names leave
// by upstream proxies. Then addresses that may stand for names are never taken
// for those of a name: a server that answers one would lead a workload to another
// name than it asked for.
func (r *Resolver) SetReserved(reserved bool) { r.reserved.Store(reserved) }

// unreserved takes such addresses out of an answer, which may be shared.
func (r *Resolver) unreserved(a *answer) *answer {
	if !r.reserved.Load() || !slices.ContainsFunc(a.addrs, address.IsSynthetic) {
		return a
	}
	b := *a
	b.addrs = withoutSynthetic(a.addrs)
	b.answers, b.texts, b.authentic = nil, nil, false
	for _, record := range a.answers {
		var addr netip.Addr
		switch body := record.Body.(type) {
		case *dnsmessage.AResource:
			addr = netip.AddrFrom4(body.A)
		case *dnsmessage.AAAAResource:
			addr = netip.AddrFrom16(body.AAAA)
		}
		if !addr.IsValid() || !address.IsSynthetic(addr) {
			b.answers = append(b.answers, record)
		}
	}
	for _, addr := range b.addrs {
		b.note(addr.String())
	}
	return &b
}

func withoutSynthetic(addrs []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), address.IsSynthetic)
}
