package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"strconv"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// sessionLifetime bounds how long a session stands in for a full handshake,
	// and so how long an upstream need not prove that it still has the key of
	// its certificate.
	sessionLifetime = 24 * time.Hour
	// maxTicket and maxSessionChain bound what one session holds, in bytes: an
	// upstream chooses both.
	maxTicket       = 4 << 10
	maxSessionChain = 16 << 10
)

// A session is what a later connection of the same key may resume.
type session struct {
	state *tls.ClientSessionState
	// until is when it ends: with the shortest-lived thing that was verified.
	until time.Time
}

// sessions are those of a pool, the one longest unused forgotten first.
type sessions = lru.Cache[string, session]

// A resumption is the session cache and the last word of verification of one
// connection. The standard library restores peer certificates, chains and
// staple of a resumed session and asks verify again with them, so that a
// resumed connection has passed all that a full handshake must pass now.
type resumption struct {
	all *sessions
	key string
	// offered is the end of the session that Get gave.
	offered time.Time
	// until is set by verify; the session of a connection that was not verified
	// is not kept.
	until time.Time
	// asked says that the upstream wanted a certificate of ours, shown that it
	// got one.
	asked, shown bool
}

// sessionKey names what sessions are kept apart by: a ticket would tell the
// upstream that two workloads are one host, a session verified for one name
// must not be resumed for another, one that was verified against former roots
// not under the present ones, and one in which we showed a certificate not
// where we show another or none.
func sessionKey(key Key, generation uint64) string {
	var b strings.Builder
	part := func(s string) {
		b.WriteString(strconv.Itoa(len(s)))
		b.WriteByte(':')
		b.WriteString(s)
	}
	part(strconv.FormatUint(generation, 10))
	part(key.Workload)
	part(key.Host)
	part(strconv.Itoa(int(key.Port)))
	part(key.Name)
	proxy := ""
	if key.Proxy != nil {
		proxy = key.Proxy.id
	}
	part(proxy)
	if key.Client != nil {
		part(key.Client.fingerprint)
	}
	return b.String()
}

// Get implements tls.ClientSessionCache. A session past its end is forgotten:
// the next handshake is a full one and brings what has to be verified anew.
func (r *resumption) Get(string) (*tls.ClientSessionState, bool) {
	s, ok := r.all.Get(r.key)
	if !ok {
		return nil, false
	}
	if !time.Now().Before(s.until) {
		r.all.Remove(r.key)
		return nil, false
	}
	r.offered = s.until
	return s.state, true
}

// Put implements tls.ClientSessionCache. Tickets of TLS 1.3 come after the
// handshake, while the connection is read.
func (r *resumption) Put(_ string, cs *tls.ClientSessionState) {
	if cs == nil {
		r.all.Remove(r.key)
		return
	}
	if ticket, _, err := cs.ResumptionState(); err != nil || len(ticket) > maxTicket || r.until.IsZero() {
		return
	}
	r.all.Add(r.key, session{cs, r.until})
}

// verify runs after the standard verification of chain, dates, usage and name,
// also for resumed sessions. It refuses chains with weak keys below the root
// and what the staple speaks against.
func (r *resumption) verify(cs tls.ConnectionState) error {
	now := time.Now()
	chain, until, err := verifyChains(cs.VerifiedChains, cs.OCSPResponse, now)
	if err != nil {
		return err
	}
	size := 0
	for _, c := range cs.PeerCertificates {
		size += len(c.Raw)
	}
	if size > maxSessionChain {
		return nil
	}
	end := now.Add(sessionLifetime)
	if cs.DidResume {
		// The tickets that a resumed connection brings go on with the old proof.
		end = r.offered
	}
	for _, c := range chain {
		end = earlier(end, c.NotAfter)
	}
	if !until.IsZero() {
		end = earlier(end, until)
	}
	r.until = end
	return nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// verifyChains gives the first chain without a fault and when its staple ends,
// or what is wrong with the first.
func verifyChains(chains [][]*x509.Certificate, staple []byte, now time.Time) (chain []*x509.Certificate, until time.Time, err error) {
	if len(chains) == 0 {
		// Unreachable while verification is on; refusing keeps it so.
		return nil, until, errNoChain
	}
	var first error
	for _, chain := range chains {
		err := weakChain(chain)
		if err == nil {
			until, err = checkStaple(staple, chain, now)
		}
		if err == nil {
			return chain, until, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, time.Time{}, first
}

var _ tls.ClientSessionCache = (*resumption)(nil)
