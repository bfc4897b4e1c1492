package admin

import (
	"errors"
	"fmt"
	"slices"
)

// Access says who may do what.
type Access struct {
	// GroupID may read: status, flows, tail, policy explain. -1: no group.
	GroupID int
	// Readers may read as well: the caller of an `exec` without a daemon.
	Readers []uint32
	// Tagged reports whether a peer is in a tagged cgroup; Peer.Cgroup helps. On
	// an error the peer is refused. Required.
	Tagged func(*Peer) (bool, error)
}

// errRefused wraps why a peer gets no answer but 403.
var errRefused = errors.New("refused")

// tagged refuses a peer in a tagged cgroup: a workload has no business here,
// also when it is root or in the group.
func (a *Access) tagged(p *Peer) error {
	tagged, err := a.Tagged(p)
	switch {
	case err != nil:
		return fmt.Errorf("%w: cannot tell whether process %d is a workload: %w", errRefused, p.PID, err)
	case tagged:
		return fmt.Errorf("%w: process %d runs in a tagged cgroup; workloads may not ask", errRefused, p.PID)
	}
	return nil
}

func (a *Access) mayRead(p *Peer) error {
	if p.UID == 0 || a.GroupID >= 0 && p.InGroup(uint32(a.GroupID)) || slices.Contains(a.Readers, p.UID) {
		return nil
	}
	return fmt.Errorf("%w: uid %d is neither root nor in the group of admin.group", errRefused, p.UID)
}

func (a *Access) mayChange(p *Peer) error {
	if p.UID == 0 {
		return nil
	}
	return fmt.Errorf("%w: what changes something needs root; uid %d asked", errRefused, p.UID)
}
