package resolver

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/dns/dnsmessage"
)

// Sizes of messages in octets.
const (
	// plainUDP is what a client without EDNS takes, RFC 1035 §4.2.1.
	plainUDP = 512
	// maxUDP bounds our answers over UDP: the way to a workload is loopback, but
	// no client asks for more in earnest.
	maxUDP = 4096
	// maxQuestion bounds a question; a name takes at most 255.
	maxQuestion = 4096
	// upstreamUDP is what we offer to servers, the size of DNS flag day 2020:
	// nothing of it is fragmented on the way.
	upstreamUDP = 1232
)

// Response codes beyond the header's four bits, RFC 6891 §9.
const rcodeBadVersion = dnsmessage.RCode(16)

// An extendedError is an option of RFC 8914: code and text.
type extendedError struct {
	code uint16
	text string
}

// The codes in use, RFC 8914 §4.
const (
	edeOther        = 0
	edeFiltered     = 17
	edeNotSupported = 21
	edeNoAuthority  = 22
)

// edeOption is the number of the option, and maxEDEText keeps its text such
// that the answer fits in plainUDP whatever the name.
const (
	edeOption  = 15
	maxEDEText = 180
)

// A query is a question as it came, checked.
type query struct {
	id       uint16
	question dnsmessage.Question
	name     string // lower case, no final dot; "" is the root
	typ      dnsmessage.Type
	rd, cd   bool
	ad       bool
	edns     bool
	do       bool
	size     int // what the client takes over UDP
}

// errNotAQuery marks what must not be answered at all.
var errNotAQuery = errors.New("not a DNS query")

// parseQuery checks a message. With an rcode other than success the query can
// only be refused with it (its question may be missing); errNotAQuery says that
// not even that.
func parseQuery(msg []byte) (query, dnsmessage.RCode, error) {
	q := query{size: plainUDP}
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || h.Response {
		return q, 0, errNotAQuery
	}
	q.id, q.rd, q.cd, q.ad = h.ID, h.RecursionDesired, h.CheckingDisabled, h.AuthenticData
	if h.OpCode != 0 {
		return q, dnsmessage.RCodeNotImplemented, nil
	}
	questions, err := countedQuestions(&p)
	if err != nil || len(questions) != 1 || h.Truncated {
		return q, dnsmessage.RCodeFormatError, nil
	}
	q.question = questions[0]
	q.typ = q.question.Type
	q.name = strings.ToLower(strings.TrimSuffix(q.question.Name.String(), "."))
	// A question has no answers, and we understand no updates or signatures.
	if _, err := p.AnswerHeader(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return q, dnsmessage.RCodeFormatError, nil
	}
	if err := p.SkipAllAnswers(); err != nil {
		return q, dnsmessage.RCodeFormatError, nil
	}
	if _, err := p.AuthorityHeader(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		// IXFR puts a record here; all else is malformed. Neither is served.
		return q, dnsmessage.RCodeFormatError, nil
	}
	if err := p.SkipAllAuthorities(); err != nil {
		return q, dnsmessage.RCodeFormatError, nil
	}
	for range maxQuestion {
		h, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return q, dnsmessage.RCodeSuccess, nil
		}
		if err != nil {
			return q, dnsmessage.RCodeFormatError, nil
		}
		if h.Type == dnsmessage.TypeOPT {
			// RFC 6891 §6.1.1: one, with the root as its name.
			if q.edns || h.Name.String() != "." {
				return q, dnsmessage.RCodeFormatError, nil
			}
			q.edns = true
			q.do = h.DNSSECAllowed()
			q.size = min(max(int(h.Class), plainUDP), maxUDP)
			if version := uint8(h.TTL >> 16); version != 0 {
				return q, rcodeBadVersion, nil
			}
		}
		if err := p.SkipAdditional(); err != nil {
			return q, dnsmessage.RCodeFormatError, nil
		}
	}
	return q, dnsmessage.RCodeFormatError, nil
}

// countedQuestions reads at most two questions: more than one is refused, and a
// count of 65535 must not cost anything.
func countedQuestions(p *dnsmessage.Parser) ([]dnsmessage.Question, error) {
	var out []dnsmessage.Question
	for range 2 {
		q, err := p.Question()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, q)
	}
	return out, nil
}

// hostName checks a name in lower case without a final dot: letters, digits,
// hyphens and underscores in labels. Policy is asked about no other.
func hostName(name string) (string, bool) {
	if name == "" || len(name) > 253 {
		return "", false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return "", false
		}
		for i := range len(label) {
			switch c := label[i]; {
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			default:
				return "", false
			}
		}
	}
	return name, true
}

// isLocalhost tells the names that RFC 6761 §6.3 keeps on the host.
func isLocalhost(name string) bool {
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// Record types that dnsmessage has no name for.
const (
	typeDNAME = dnsmessage.Type(39)
	typeRRSIG = dnsmessage.Type(46)
	typeNSEC  = dnsmessage.Type(47)
	typeNSEC3 = dnsmessage.Type(50)
)

// typeName gives a record type as in a zone file, RFC 3597 §5 for unknown ones.
func typeName(t dnsmessage.Type) string {
	switch t {
	case dnsmessage.TypeA:
		return "A"
	case dnsmessage.TypeNS:
		return "NS"
	case dnsmessage.TypeCNAME:
		return "CNAME"
	case dnsmessage.TypeSOA:
		return "SOA"
	case dnsmessage.TypePTR:
		return "PTR"
	case dnsmessage.TypeHINFO:
		return "HINFO"
	case dnsmessage.TypeMX:
		return "MX"
	case dnsmessage.TypeTXT:
		return "TXT"
	case dnsmessage.TypeAAAA:
		return "AAAA"
	case 29:
		return "LOC"
	case dnsmessage.TypeSRV:
		return "SRV"
	case 35:
		return "NAPTR"
	case 37:
		return "CERT"
	case typeDNAME:
		return "DNAME"
	case 43:
		return "DS"
	case 44:
		return "SSHFP"
	case typeRRSIG:
		return "RRSIG"
	case typeNSEC:
		return "NSEC"
	case 48:
		return "DNSKEY"
	case typeNSEC3:
		return "NSEC3"
	case 51:
		return "NSEC3PARAM"
	case 52:
		return "TLSA"
	case 53:
		return "SMIMEA"
	case 59:
		return "CDS"
	case 60:
		return "CDNSKEY"
	case 61:
		return "OPENPGPKEY"
	case dnsmessage.TypeSVCB:
		return "SVCB"
	case dnsmessage.TypeHTTPS:
		return "HTTPS"
	case 99:
		return "SPF"
	case 256:
		return "URI"
	case 257:
		return "CAA"
	case 251:
		return "IXFR"
	case dnsmessage.TypeAXFR:
		return "AXFR"
	case dnsmessage.TypeALL:
		return "ANY"
	default:
		return "TYPE" + strconv.Itoa(int(t))
	}
}

// resolvable tells the types that are asked upstream: those that have a name in
// typeName and stand for data. Questions about questions (ANY, AXFR), the types
// that tunnels through DNS like (NULL, private use) and unknown ones are not.
func resolvable(t dnsmessage.Type) bool {
	switch t {
	case dnsmessage.TypeALL, dnsmessage.TypeAXFR, 251, dnsmessage.TypeOPT:
		return false
	default:
		return !strings.HasPrefix(typeName(t), "TYPE")
	}
}

// rcodeName gives a response code as in the IANA registry.
func rcodeName(r dnsmessage.RCode) string {
	switch r {
	case dnsmessage.RCodeSuccess:
		return "NOERROR"
	case dnsmessage.RCodeFormatError:
		return "FORMERR"
	case dnsmessage.RCodeServerFailure:
		return "SERVFAIL"
	case dnsmessage.RCodeNameError:
		return "NXDOMAIN"
	case dnsmessage.RCodeNotImplemented:
		return "NOTIMP"
	case dnsmessage.RCodeRefused:
		return "REFUSED"
	case rcodeBadVersion:
		return "BADVERS"
	default:
		return "RCODE" + strconv.Itoa(int(r))
	}
}

// reply packs an answer to q in at most limit octets. What does not fit is
// announced with TC, so that the client comes back over TCP.
func (q *query) reply(rcode dnsmessage.RCode, a *answer, ede *extendedError, limit int) ([]byte, error) {
	m := dnsmessage.Message{Header: dnsmessage.Header{
		ID: q.id, Response: true, RecursionDesired: q.rd, CheckingDisabled: q.cd, RecursionAvailable: true,
		RCode: rcode & 0xf,
	}}
	if q.question.Name.Length > 0 {
		m.Questions = []dnsmessage.Question{q.question}
	}
	if a != nil {
		// Packing writes lengths into the headers, and the answer is shared.
		m.Answers, m.Authorities = slices.Clone(a.answers), slices.Clone(a.authorities)
		m.AuthenticData = a.authentic && (q.ad || q.do)
	}
	if q.edns {
		m.Additionals = []dnsmessage.Resource{q.opt(rcode, ede)}
	}
	out, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack DNS answer: %w", err)
	}
	if len(out) <= limit {
		return out, nil
	}
	m.Answers, m.Authorities, m.Truncated = nil, nil, true
	if out, err = m.Pack(); err != nil {
		return nil, fmt.Errorf("pack DNS answer: %w", err)
	}
	return out, nil
}

// opt is our half of EDNS. It is sent to clients that sent theirs, RFC 6891
// §6.1.1; the others cannot be told why.
func (q *query) opt(rcode dnsmessage.RCode, ede *extendedError) dnsmessage.Resource {
	var h dnsmessage.ResourceHeader
	h.Name = rootName()
	// Fails for extended codes that do not fit; ours do.
	_ = h.SetEDNS0(maxUDP, rcode, q.do)
	body := &dnsmessage.OPTResource{}
	if ede != nil {
		text := ede.text
		if len(text) > maxEDEText {
			text = strings.ToValidUTF8(text[:maxEDEText], "")
		}
		if !utf8.ValidString(text) {
			text = ""
		}
		data := append([]byte{byte(ede.code >> 8), byte(ede.code)}, text...)
		body.Options = []dnsmessage.Option{{Code: edeOption, Data: data}}
	}
	return dnsmessage.Resource{Header: h, Body: body}
}

func rootName() dnsmessage.Name {
	var n dnsmessage.Name
	n.Data[0], n.Length = '.', 1
	return n
}
