package resolver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// maxAddresses bounds the addresses of one answer: what is not remembered
	// must not be told.
	maxAddresses = 64
	// maxRecords bounds the records of an answer to other types.
	maxRecords = 128
	// maxChain bounds the aliases followed; BIND allows 16.
	maxChain = 16
	// maxUpstreamRecords bounds what is read of one message.
	maxUpstreamRecords = 2048

	// maxTTL is what a client is told at most: it must not hold an address for
	// longer than we remember it.
	maxTTL = time.Hour
	// negativeTTL is used where a negative answer says nothing (RFC 2308 §5 caps
	// what it says at hours; names that workloads wait for come up in seconds).
	negativeTTL    = 5 * time.Second
	maxNegativeTTL = time.Minute
)

var (
	errMismatch  = errors.New("answer to another question")
	errMalformed = errors.New("malformed answer")
)

// A serverError is a response code that is no answer.
type serverError struct{ rcode dnsmessage.RCode }

func (e serverError) Error() string { return "server answered " + rcodeName(e.rcode) }

// An answer is a response cut down to what belongs to the question. It is
// immutable: many clients may get the same.
type answer struct {
	rcode       dnsmessage.RCode
	answers     []dnsmessage.Resource
	authorities []dnsmessage.Resource
	// addrs are the addresses at the end of the chain, for A and AAAA.
	addrs []netip.Addr
	// texts are the record data for the audit.
	texts []string
	ttl   time.Duration
	// authentic is the server's word that it verified DNSSEC, and that we
	// changed nothing.
	authentic bool
}

// checkResponse answers errMismatch for a message that is not the response to
// (id, name, typ): noise or a forgery. truncated says to ask over TCP.
func checkResponse(msg []byte, id uint16, name string, typ dnsmessage.Type) (truncated bool, err error) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || !h.Response || h.ID != id || h.OpCode != 0 {
		return false, errMismatch
	}
	questions, err := countedQuestions(&p)
	if err != nil {
		return false, errMismatch
	}
	// Some servers leave out the question when they refuse to look at it.
	if len(questions) == 0 && (h.RCode == dnsmessage.RCodeFormatError || h.RCode == dnsmessage.RCodeNotImplemented) {
		return false, nil
	}
	if len(questions) != 1 || questions[0].Type != typ || questions[0].Class != dnsmessage.ClassINET || lowerName(questions[0].Name) != name {
		return false, errMismatch
	}
	return h.Truncated, nil
}

func lowerName(n dnsmessage.Name) string {
	return strings.ToLower(strings.TrimSuffix(n.String(), "."))
}

// parseResponse reads a message that checkResponse let pass.
func parseResponse(msg []byte, name string, typ dnsmessage.Type, do bool) (*answer, error) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil {
		return nil, errMalformed
	}
	if h.RCode != dnsmessage.RCodeSuccess && h.RCode != dnsmessage.RCodeNameError {
		return nil, serverError{h.RCode}
	}
	if err := p.SkipAllQuestions(); err != nil {
		return nil, errMalformed
	}
	records, err := section(p.Answer)
	if err != nil {
		return nil, fmt.Errorf("%w: answer section: %w", errMalformed, err)
	}
	authorities, err := section(p.Authority)
	if err != nil {
		return nil, fmt.Errorf("%w: authority section: %w", errMalformed, err)
	}
	a := &answer{rcode: h.RCode, authentic: h.AuthenticData, ttl: maxTTL}
	end, err := a.chain(records, name, typ)
	if err != nil {
		return nil, err
	}
	found := a.data(records, end, typ)
	if do {
		a.signatures(records)
	}
	if !found {
		a.negative(authorities, end, do)
	}
	for i := range a.answers {
		h := &a.answers[i].Header
		h.TTL = min(h.TTL, uint32(maxTTL/time.Second))
		a.ttl = min(a.ttl, time.Duration(h.TTL)*time.Second)
	}
	return a, nil
}

// section reads records until the section ends.
func section(next func() (dnsmessage.Resource, error)) ([]dnsmessage.Resource, error) {
	var out []dnsmessage.Resource
	for {
		r, err := next()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if len(out) == maxUpstreamRecords {
			return nil, errors.New("too many records")
		}
		// Case is the server's whim; equal names compress.
		if lower, err := dnsmessage.NewName(strings.ToLower(r.Header.Name.String())); err == nil {
			r.Header.Name = lower
		}
		out = append(out, r)
	}
}

// chain takes the aliases that lead from name on, and gives where they end. A
// record whose owner is not on the way has no business in the answer: it could
// plant an address for a name that nobody asked for.
func (a *answer) chain(records []dnsmessage.Resource, name string, typ dnsmessage.Type) (string, error) {
	if typ == dnsmessage.TypeCNAME {
		return name, nil
	}
	passed := []string{name}
	for {
		var next *dnsmessage.Resource
		for i := range records {
			r := &records[i]
			if r.Header.Type == dnsmessage.TypeCNAME && r.Header.Class == dnsmessage.ClassINET && lowerName(r.Header.Name) == name {
				next = r
				break
			}
		}
		if next == nil {
			return name, nil
		}
		target, ok := next.Body.(*dnsmessage.CNAMEResource)
		if !ok {
			return "", errMalformed
		}
		name = lowerName(target.CNAME)
		if slices.Contains(passed, name) || len(passed) > maxChain {
			return "", fmt.Errorf("%w: aliases without an end", errMalformed)
		}
		passed = append(passed, name)
		a.answers = append(a.answers, *next)
		a.note(name)
	}
}

// data takes the records of the asked type at the end of the chain.
func (a *answer) data(records []dnsmessage.Resource, owner string, typ dnsmessage.Type) (found bool) {
	count := 0
	for _, r := range records {
		if r.Header.Type != typ || r.Header.Class != dnsmessage.ClassINET || lowerName(r.Header.Name) != owner {
			continue
		}
		found = true
		if count == maxRecords {
			break
		}
		switch body := r.Body.(type) {
		case *dnsmessage.AResource:
			if !a.address(netip.AddrFrom4(body.A)) {
				continue
			}
		case *dnsmessage.AAAAResource:
			// A mapped address stays one in the answer; we know it as what it is.
			if !a.address(netip.AddrFrom16(body.AAAA).Unmap()) {
				continue
			}
		case *dnsmessage.HTTPSResource:
			if !a.service(&body.SVCBResource) {
				continue
			}
		case *dnsmessage.SVCBResource:
			if !a.service(body) {
				continue
			}
		case *dnsmessage.CNAMEResource:
			a.note(lowerName(body.CNAME))
		case *dnsmessage.PTRResource:
			a.note(lowerName(body.PTR))
		case *dnsmessage.NSResource:
			a.note(lowerName(body.NS))
		case *dnsmessage.MXResource:
			a.note(lowerName(body.MX))
		case *dnsmessage.SRVResource:
			a.note(lowerName(body.Target) + ":" + strconv.Itoa(int(body.Port)))
		}
		a.answers = append(a.answers, r)
		count++
	}
	return found
}

// maxEventAnswers bounds what the audit says of one answer.
const maxEventAnswers = 16

func (a *answer) note(text string) {
	if len(a.texts) < maxEventAnswers {
		a.texts = append(a.texts, text)
	}
}

func (a *answer) address(addr netip.Addr) bool {
	if len(a.addrs) == maxAddresses {
		return false
	}
	a.addrs = append(a.addrs, addr)
	a.note(addr.String())
	return true
}

func (a *answer) service(r *dnsmessage.SVCBResource) bool {
	changed, keep := stripService(r)
	if changed {
		a.authentic = false
	}
	return keep
}

// signatures takes the RRSIGs of the records that stay.
func (a *answer) signatures(records []dnsmessage.Resource) {
	owners := make(map[string]bool)
	for _, r := range a.answers {
		owners[lowerName(r.Header.Name)] = true
	}
	for _, r := range records {
		if r.Header.Type == typeRRSIG && owners[lowerName(r.Header.Name)] && len(a.answers) < 2*maxRecords {
			a.answers = append(a.answers, r)
		}
	}
}

// negative takes what proves that there is nothing: the zone's SOA, which says
// for how long (RFC 2308 §3), and for DNSSEC the records of denial.
func (a *answer) negative(authorities []dnsmessage.Resource, name string, do bool) {
	a.ttl = negativeTTL
	for _, r := range authorities {
		owner := lowerName(r.Header.Name)
		if r.Header.Class != dnsmessage.ClassINET || len(a.authorities) == maxRecords {
			continue
		}
		switch r.Header.Type {
		case dnsmessage.TypeSOA:
			soa, ok := r.Body.(*dnsmessage.SOAResource)
			if !ok || !isAncestor(owner, name) {
				continue
			}
			ttl := min(time.Duration(min(r.Header.TTL, soa.MinTTL))*time.Second, maxNegativeTTL)
			a.ttl = max(ttl, time.Second)
			r.Header.TTL = min(r.Header.TTL, uint32(maxTTL/time.Second))
		case typeRRSIG, typeNSEC, typeNSEC3:
			if !do {
				continue
			}
		default:
			continue
		}
		a.authorities = append(a.authorities, r)
	}
}

// isAncestor reports whether name is zone or below it.
func isAncestor(zone, name string) bool {
	return zone == "" || name == zone || strings.HasSuffix(name, "."+zone)
}
