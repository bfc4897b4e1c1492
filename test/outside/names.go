package outside

import (
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// Answer answers a DNS question for A and AAAA by what look gives for the name, in
// lower case and without its final dot; other types have no records, and unknown
// names do not exist. It is nil for what is no question.
func Answer(question []byte, look func(name string) (addresses []string, known bool)) []byte {
	var m dnsmessage.Message
	if m.Unpack(question) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	addresses, known := look(strings.TrimSuffix(strings.ToLower(q.Name.String()), "."))
	m.Response, m.RecursionAvailable, m.Authoritative = true, true, true
	m.Additionals = nil
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addresses {
		head := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60}
		// A mapped address is one of IPv6.
		switch addr := netip.MustParseAddr(a); {
		case q.Type == dnsmessage.TypeA && addr.Is4():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: addr.As4()}})
		case q.Type == dnsmessage.TypeAAAA && addr.Is6():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	answer, err := m.Pack()
	if err != nil {
		return nil
	}
	return answer
}
