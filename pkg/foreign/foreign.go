// Package foreign finds, in the descriptors of tagged processes, sockets that lead
// out of the host although nothing of ours decided on it, and ends them: sockets
// that were connected before they were received (SCM_RIGHTS, pidfd_getfd,
// inheritance), before their process was moved into a tagged cgroup, or before that
// was tagged. No hook of cgroups sees these again: send(2) on a connected socket
// asks the cgroup that made it.
//
// A descriptor on its way in the queue of a unix socket is looked at as one in the
// table of whoever can receive it (flight.go). What others can send and we cannot
// look at ends with its connection (empty.go); who keeps us from looking, or has too
// much (share.go), is ended.
//
// What it cannot see: a descriptor that its holder keeps moving while the table is
// read (the next look sees it, most likely), and one that a system call uses which
// was under way when it was closed: its data goes out until that call returns.
package foreign

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/netns"
	"sallyport/pkg/workload"
)

// An Outcome says what became of a socket. The set is closed.
type Outcome string

// The outcomes.
const (
	// Destroyed: the socket leads nowhere any more, for nobody.
	Destroyed Outcome = "destroyed"
	// Ended: the kernel cannot destroy such a socket, so its holder was killed.
	Ended Outcome = "process_ended"
	// Emptied: it, or what could not be looked at, was in the queue of a unix socket,
	// and the connection that it came by was ended.
	Emptied Outcome = "queue_emptied"
	// Failed: the socket is as it was. It is told once and stays a problem.
	Failed Outcome = "failed"
)

// Kinds of what was not looked at.
const (
	// KindInFlight: descriptors in the queue of a unix socket that stayed there and
	// could not be looked at.
	KindInFlight = "in_flight"
	// KindBeyond: more descriptors, or cgroups, than are looked through.
	KindBeyond = "beyond_bound"
)

// A Found is one socket that should not have been there.
type Found struct {
	// Socket has the address and, where the kernel tells it, the cgroup that made
	// it; the zero Socket for what is no internet socket.
	Socket netns.Socket
	// Kind is "tcp", "udp", "packet", …, or one of the constants.
	Kind string
	// PID, UID and Exe are of the process that held it, Cgroup the id of its cgroup.
	PID, UID uint32
	Exe      string
	Cgroup   uint64
	Outcome  Outcome
	// Err says why it Failed.
	Err error
}

// Options say what is ours.
type Options struct {
	Tree *workload.Tree
	// Decided reports whether programs of ours saw a socket of this process being
	// made, and so decide on all that it does; nil where there are none: then the
	// cgroup that made it tells.
	Decided func(fd int) (bool, error)
	// Tagged reports whether a cgroup is tagged or below one that is.
	Tagged func(cgroup uint64) bool
}

// A Sweeper looks again and again. It remembers which sockets it found in order,
// so that an idle look costs one readlink(2) for each descriptor, about 1 µs.
type Sweeper struct {
	o Options

	mu     sync.Mutex
	shares map[uint64]*share
	// taken are the sockets of others in our own table.
	taken map[int]struct{}
	// listing is what sock_diag told in this sweep; nil until somebody asks.
	listing *listing
	// spare are buffers of looks that have ended.
	spare []*tables
}

// New gives a Sweeper; it starts nothing.
func New(o Options) *Sweeper {
	return &Sweeper{o: o, shares: make(map[uint64]*share), taken: make(map[int]struct{})}
}

// leastTurn is the least time that a share gets in each sweep. It is what a
// workload of a few thousand descriptors needs.
const leastTurn = 2 * time.Millisecond

// Sweep looks at every process of these shares, ends what is foreign, and gives
// it. It goes on for patience or until all are looked through; each share gets a
// turn, and one that needs more than its turns goes on with the next Sweep where it
// was. An error says what could not be looked at; the rest was.
func (s *Sweeper) Sweep(shares []Share, patience time.Duration) ([]Found, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.forgetListing()
	start := time.Now()
	waiting := s.arrange(shares)
	var found []Found
	for len(waiting) > 0 {
		turn := max(patience/time.Duration(len(waiting)), leastTurn)
		unfinished := waiting[:0]
		for _, sh := range waiting {
			done := sh.turn(turn)
			found = append(found, sh.take()...)
			if !done {
				unfinished = append(unfinished, sh)
			}
		}
		if waiting = unfinished; time.Since(start) >= patience {
			break
		}
	}
	var errs []error
	for _, sh := range s.shares {
		errs = append(errs, sh.err)
	}
	return found, errors.Join(errs...)
}

// arrange makes the shares that are new and ends the looks at those that are gone.
func (s *Sweeper) arrange(shares []Share) []*share {
	now := make(map[uint64]*share, len(shares))
	list := make([]*share, 0, len(shares))
	for _, one := range shares {
		id := one.Root.ID()
		if now[id] != nil {
			continue
		}
		sh := s.shares[id]
		if sh == nil {
			sh = newShare(s, one)
		}
		now[id] = sh
		list = append(list, sh)
	}
	for id, sh := range s.shares {
		if now[id] == nil {
			sh.stop()
		}
	}
	s.shares = now
	return list
}

// Close ends looks that were under way.
func (s *Sweeper) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrange(nil)
}

// Beyond gives the paths of the shares that had more than is looked through.
func (s *Sweeper) Beyond() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var paths []string
	for _, sh := range s.shares {
		if sh.beyond {
			paths = append(paths, sh.what.Root.Path())
		}
	}
	return paths
}

// Figures says how much the last look at the fullest share took, in descriptors
// (see MaxWork), and how much it may be.
func (s *Sweeper) Figures() (entries, capacity int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range s.shares {
		entries = max(entries, sh.took)
	}
	return entries, MaxWork
}

// gone reports whether an error only says that a process, thread or descriptor
// has ended meanwhile.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EBADF) || errors.Is(err, workload.ErrGone)
}
