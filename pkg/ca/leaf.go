package ca

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// LeafLifetime is how long a leaf is valid.
	LeafLifetime = 24 * time.Hour
	// leafRest is what a leaf must have left to be served again: a client may
	// look at its certificate long after the handshake.
	leafRest = 4 * time.Hour
)

// DefaultLeaves is a good capacity for Leaves: about 2 KiB each.
const DefaultLeaves = 4096

// ErrName is wrapped where no certificate can be made for a name.
var ErrName = errors.New("not a name for a certificate")

// Leaves mints and keeps a certificate for each name that workloads connect to.
// It is safe for concurrent use: a name is minted once however many ask, and
// who waits for one name holds up no other. When it is full, the name that was
// not asked for longest is dropped and minted anew when it comes back (some
// 40 µs).
type Leaves struct {
	issuer atomic.Pointer[issuer]
	// lru keeps the newest entry always, which singleness of minting needs.
	// Expiry is in the value.
	names    *lru.Cache[string, *leaf]
	capacity int
	now      func() time.Time
}

// A leaf is the place of one name. The lock is held while minting.
type leaf struct {
	current atomic.Pointer[minted]
	mu      sync.Mutex
}

type minted struct {
	cert                tls.Certificate
	notBefore, notAfter time.Time
}

// NewLeaves makes a cache of at most capacity names (at least 1) that mints
// with m.
func NewLeaves(m Material, capacity int) (*Leaves, error) {
	names, err := lru.New[string, *leaf](capacity)
	if err != nil {
		return nil, fmt.Errorf("leaf cache of %d names: %w", capacity, err)
	}
	l := &Leaves{names: names, capacity: capacity, now: time.Now}
	return l, l.SetMaterial(m)
}

// SetMaterial makes further leaves come from m; those minted before stay in use
// until their end, unless another root is above m: theirs may have been forgotten.
// On an error nothing changes.
func (l *Leaves) SetMaterial(m Material) error {
	is, err := newIssuer(m)
	if err != nil {
		return err
	}
	if old := l.issuer.Swap(is); old != nil && !bytes.Equal(old.cert.AuthorityKeyId, is.cert.AuthorityKeyId) {
		l.names.Purge()
	}
	return nil
}

// Certificate gives the chain (leaf, issuing certificate) and key for name: a
// host name in lower case without a final dot, an IP address as text, or both
// with a space between, the address first, for a client that has said neither.
// The result is shared and must not be changed. The error wraps ErrName for what
// cannot be a name.
func (l *Leaves) Certificate(name string) (*tls.Certificate, error) {
	place, ok := l.names.Get(name)
	if !ok {
		// Checked before it takes a place: a workload chooses this name.
		if _, err := subjectOf(name); err != nil {
			return nil, err
		}
		place = new(leaf)
		if earlier, found, _ := l.names.PeekOrAdd(name, place); found {
			place = earlier
		}
	}
	now := l.now()
	if m := place.current.Load(); m.usable(now) {
		return &m.cert, nil
	}
	place.mu.Lock()
	defer place.mu.Unlock()
	if m := place.current.Load(); m.usable(now) {
		return &m.cert, nil
	}
	m, err := l.issuer.Load().mint(name, now)
	if err != nil {
		return nil, err
	}
	place.current.Store(m)
	return &m.cert, nil
}

// Entries gives how many names are kept now.
func (l *Leaves) Entries() int { return l.names.Len() }

// Capacity gives how many names can be kept.
func (l *Leaves) Capacity() int { return l.capacity }

func (m *minted) usable(now time.Time) bool {
	// One from before the clock was set back is not valid yet.
	return m != nil && now.Before(m.notAfter.Add(-leafRest)) && !now.Before(m.notBefore)
}

// subject is what a leaf is for: at least one of the two.
type subject struct {
	dns string
	ip  net.IP
}

// subjectOf tells a host name from an address and refuses what clients would
// not accept in a certificate, wildcards among it: a leaf speaks for one name.
func subjectOf(name string) (subject, error) {
	if addr, host, both := strings.Cut(name, " "); both {
		a, err := subjectOf(addr)
		if err != nil {
			return subject{}, err
		}
		h, err := subjectOf(host)
		if err == nil && (a.ip == nil || h.ip != nil) {
			err = fmt.Errorf("%w: %q is not an address and a host name", ErrName, name)
		}
		return subject{dns: h.dns, ip: a.ip}, err
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		if addr.Zone() != "" {
			return subject{}, fmt.Errorf("%w: address %q has a zone", ErrName, name)
		}
		return subject{ip: addr.Unmap().AsSlice()}, nil
	}
	if len(name) == 0 || len(name) > 253 {
		return subject{}, fmt.Errorf("%w: %d characters", ErrName, len(name))
	}
	label := 0
	for i := range len(name) {
		c := name[i]
		switch {
		case c == '.':
			if label == 0 {
				return subject{}, fmt.Errorf("%w: %q has an empty label", ErrName, name)
			}
			label = 0
			continue
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return subject{}, fmt.Errorf("%w: %q has a character outside a-z, 0-9, - and _", ErrName, name)
		}
		if label++; label > 63 {
			return subject{}, fmt.Errorf("%w: %q has a label over 63 characters", ErrName, name)
		}
	}
	if label == 0 {
		return subject{}, fmt.Errorf("%w: %q ends in a dot", ErrName, name)
	}
	return subject{dns: name}, nil
}
