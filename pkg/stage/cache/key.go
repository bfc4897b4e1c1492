package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"sync/atomic"

	"sallyport/pkg/audit"
	"sallyport/pkg/exchange"
)

// A digest stands for something that is compared only: 128 bits of SHA-256,
// because a workload could look for collisions of anything weaker.
type digest [16]byte

func digestOf(b []byte) digest {
	sum := sha256.Sum256(b)
	return digest(sum[:len(digest{})])
}

// A scope is what else than the resource an entry belongs to: the rule, as it
// was written when the entry was stored. Under observation nothing is redacted,
// so that what was stored then serves nothing else.
type scope struct {
	rule    string
	print   digest
	observe bool
}

// appendPart appends s so that nothing that follows can be taken for a part of
// it.
func appendPart(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// appendKey appends the key of the resource that a request asks for, which
// begins with its workload.
func appendKey(b []byte, x *exchange.Exchange) []byte {
	s, r := &x.Subject, &x.Request
	b = appendOrigin(b, s)
	b = append(b, r.Path...)
	if r.HasQuery {
		b = append(b, '?')
		b = append(b, r.Query...)
	}
	return b
}

// appendOrigin appends what all resources of one origin have in common for one
// workload.
func appendOrigin(b []byte, s *exchange.Subject) []byte {
	b = appendPart(b, s.Workload)
	b = appendPart(b, s.Scheme)
	b = appendPart(b, s.Host)
	return binary.BigEndian.AppendUint16(b, s.Port)
}

// credentials gives a digest of every field of a request by which an upstream
// could know who asks, the zero one where there is none. RFC 9111 would share a
// response between credentials where it says `public` or nothing: upstreams
// forget Vary, and one workload may speak for many users.
func (n *namesSeen) credentials(h *exchange.Header) (d digest, authorized bool) {
	var b []byte
	for i := range h.Len() {
		f := h.At(i)
		switch f.ID {
		case exchange.Authorization:
			authorized = true
		case exchange.Cookie, exchange.ProxyAuthorization:
		case exchange.OtherName:
			if !n.secret(f.Name) {
				continue
			}
		default:
			continue
		}
		b = append(appendPart(b, f.ID.String()), 0)
		if f.ID == exchange.OtherName {
			b = appendLower(b, f.Name)
		}
		b = appendPart(b, f.Value)
	}
	if b == nil {
		return digest{}, false
	}
	return digestOf(b), authorized
}

func appendLower(b []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	return b
}

// namesSeen remembers of field names whether they are those of credentials:
// the same few come again and again, and looking is dear. What does not fit
// takes the place of another.
type namesSeen [64]atomic.Pointer[nameSeen]

type nameSeen struct {
	name   string
	secret bool
}

func (n *namesSeen) secret(name string) bool {
	if name == "" {
		return false
	}
	at := &n[(len(name)*31+int(name[0])*7+int(name[len(name)-1]))%len(n)]
	if s := at.Load(); s != nil && s.name == name {
		return s.secret
	}
	s := &nameSeen{string([]byte(name)), audit.SecretHeader(name)}
	if len(name) <= 64 {
		at.Store(s)
	}
	return s.secret
}
