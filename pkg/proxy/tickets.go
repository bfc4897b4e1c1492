package proxy

import (
	"crypto/sha256"
	"crypto/tls"
	"slices"
	"strconv"
)

// tickets are the session tickets that we give to workloads (RFC 8446 section
// 4.6.1, RFC 5077). The keys change daily and stay in memory. A ticket holds for
// the workload, the name and the certificate for which it was given: the name
// that a client verified once must be the one that it is resumed for (RFC 6066
// section 3), and a certificate that is over takes its sessions with it. Whatever
// is resumed, each connection and request is judged anew. The zero value is
// ready; it must not be copied after first use.
type tickets struct{ keys tls.Config }

// bind gives a copy of config for one connection of a workload that is answered
// with the certificate for name.
func (t *tickets) bind(config *tls.Config, leaves Leaves, workload, name string) *tls.Config {
	bound := config.Clone()
	mark := func() ([]byte, error) {
		leaf, err := leaves.Certificate(name)
		if err != nil {
			return nil, err
		}
		sum := sha256.New()
		for _, part := range [][]byte{[]byte(workload), []byte(name), leaf.Certificate[0]} {
			sum.Write(strconv.AppendInt(nil, int64(len(part)), 10))
			sum.Write([]byte{':'})
			sum.Write(part)
		}
		return sum.Sum(nil), nil
	}
	bound.WrapSession = func(state tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
		m, err := mark()
		if err != nil {
			return nil, err
		}
		session.Extra = append(session.Extra, m)
		return t.keys.EncryptTicket(state, session)
	}
	bound.UnwrapSession = func(ticket []byte, state tls.ConnectionState) (*tls.SessionState, error) {
		session, err := t.keys.DecryptTicket(ticket, state)
		if session == nil || err != nil {
			return nil, err
		}
		m, err := mark()
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(session.Extra, func(extra []byte) bool { return slices.Equal(extra, m) }) {
			return nil, nil // of another: a full handshake follows
		}
		// The next ticket is marked anew.
		session.Extra = nil
		return session, nil
	}
	return bound
}
