// Package foreign finds, in the descriptors of tagged processes, sockets that lead
// out of the host although nothing of ours decided on it, and ends them: sockets
// that were connected before they were received (SCM_RIGHTS, pidfd_getfd,
// inheritance), before their process was moved into a tagged cgroup, or before that
// was tagged. No hook of cgroups sees these again: send(2) on a connected socket
// asks the cgroup that made it.
//
// What it cannot see: a descriptor on its way in the queue of a unix socket (it is
// seen once it is received), and one that its holder keeps moving while the table
// is read (the next look sees it, most likely). Whoever has an accomplice outside
// that hands it sockets again and again could as well have its bytes forwarded.
package foreign

import (
	"errors"
	"fmt"
	"os"
	"sync"

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
	// Failed: the socket is as it was. It is told once and stays a problem.
	Failed Outcome = "failed"
)

// A Found is one socket that should not have been there.
type Found struct {
	// Socket has the address and, where the kernel tells it, the cgroup that made
	// it; the zero Socket for what is no internet socket.
	Socket netns.Socket
	// Kind is "tcp", "udp", "packet", …
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

	mu sync.Mutex
	// before and now are the inodes of sockets that are in order, of the last look
	// and of this one. The number of a live socket is nobody else's.
	before, now map[uint32]struct{}
	// stubborn are those for which a process was killed at the last look.
	stubborn map[stubborn]struct{}
	tables   tables
}

// New gives a Sweeper; it starts nothing.
func New(o Options) *Sweeper {
	return &Sweeper{
		o:      o,
		before: make(map[uint32]struct{}), now: make(map[uint32]struct{}), stubborn: make(map[stubborn]struct{}),
	}
}

// Sweep looks at every process of these cgroups, not of those below them, ends
// what is foreign and gives it. An error says what could not be looked at; the rest
// was.
func (s *Sweeper) Sweep(cgroups []workload.Cgroup) ([]Found, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.now = s.now, s.before
	clear(s.now)
	l := &look{s: s, stubborn: make(map[stubborn]struct{})}
	defer l.close()
	var errs []error
	for _, cg := range cgroups {
		pids, err := cg.Procs()
		if errors.Is(err, workload.ErrGone) || errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, pid := range pids {
			if pid == 0 {
				errs = append(errs, fmt.Errorf("cgroup %s: a process of another pid namespace cannot be looked at; run sallyport in the host's", cg.Path()))
				continue
			}
			if err := l.process(cg, pid); err != nil {
				errs = append(errs, fmt.Errorf("descriptors of process %d in %s: %w", pid, cg.Path(), err))
			}
		}
	}
	if err := l.resolve(); err != nil {
		errs = append(errs, err)
	}
	s.stubborn = l.stubborn
	return l.found, errors.Join(errs...)
}

// maxRemembered bounds the sockets that are remembered as being in order. What
// is beyond is judged anew each time.
const maxRemembered = 1 << 18

// inOrder remembers a socket.
func (s *Sweeper) inOrder(inode uint32) {
	if len(s.now) < maxRemembered {
		s.now[inode] = struct{}{}
	}
}

// knows reports whether the socket was in order at the last look and, if so,
// remembers that it is still there.
func (s *Sweeper) knows(inode uint32) bool {
	if _, ok := s.now[inode]; ok {
		return true
	}
	if _, ok := s.before[inode]; !ok {
		return false
	}
	s.inOrder(inode)
	return true
}

// Figures says how many sockets are remembered, and how many can be.
func (s *Sweeper) Figures() (entries, capacity int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.now), maxRemembered
}

// gone reports whether an error only says that a process, thread or descriptor
// has ended meanwhile.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EBADF) || errors.Is(err, workload.ErrGone)
}
