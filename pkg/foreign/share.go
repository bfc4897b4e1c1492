package foreign

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/netns"
	"sallyport/pkg/workload"
)

// A Share is what belongs to one workload: a cgroup and all below it.
type Share struct {
	Root workload.Cgroup
	// Alone leaves out what is below.
	Alone bool
}

const (
	// MaxWork bounds a look at one share, in descriptors; at about 1 µs each that is
	// a quarter of a second. What is beyond would be a place to hide in: such
	// processes are ended.
	MaxWork = 1 << 18
	// workProcess and workCgroup are what a process and a cgroup cost beside their
	// descriptors.
	workProcess = 16
	workCgroup  = 16
	// MaxCgroups bounds the cgroups of a share.
	MaxCgroups = 8192
	// maxRounds is how often the processes of a cgroup are listed in one look, where
	// some have ended meanwhile: what one of them had its child may have.
	maxRounds = 8
	// checkEvery is after how much work a look asks whether its turn is over.
	checkEvery = 128
)

var (
	errStopped = errors.New("the look was stopped")
	errBeyond  = errors.New("more descriptors than are looked through")
)

// A share is what is known of a Share from look to look.
type share struct {
	s    *Sweeper
	what Share
	// before and now are the inodes of sockets that are in order, of the last look
	// and of this one; the value says that it is a unix socket, whose queue is looked
	// at each time. The number of a live socket is nobody else's, but for recheck.
	before, now map[uint32]bool
	// stubborn are those for which a process was killed at the last look.
	stubborn map[stubborn]struct{}
	// unsure is since when each look has found a holder that keeps descriptors from
	// being looked at.
	unsure time.Time
	// stuffed are the queues that were not looked into, since when at each look; severed
	// those to which nothing can come any more. Both are of the last look.
	stuffed map[uint32]time.Time
	severed map[uint32]struct{}
	// unexecuted are processes that had not executed at the last look.
	unexecuted map[int]struct{}
	// spared are sockets that were left alone lately (forked.go).
	spared map[uint32]sparing
	// err, beyond and took are of the last look that came to its end.
	err    error
	beyond bool
	took   int
	// most is MaxCgroups, patience is peekPatience but in tests, which are not about
	// how soon a busy host reads.
	most     int
	patience time.Duration
	// peeks, throws and closes wait for who has a say in them: peeks for whoever sent
	// a file, the others for its own processes.
	peeks, throws, closes aside
	// lingering are sockets that are to be closed at the end of the turn.
	lingering []int

	// look is under way if it is not nil; next goes on with it.
	look *look
	next func() (struct{}, bool)
	halt func()
	// found is what nobody took yet.
	found []Found
}

func newShare(s *Sweeper, what Share) *share {
	return &share{
		s: s, what: what, before: make(map[uint32]bool), now: make(map[uint32]bool), spared: make(map[uint32]sparing),
		most: MaxCgroups, patience: peekPatience,
	}
}

// turn looks on for a while and reports whether the look has ended.
func (sh *share) turn(d time.Duration) bool {
	if sh.look == nil {
		sh.before, sh.now = sh.now, sh.before
		clear(sh.now)
		sh.look = newLook(sh)
		sh.next, sh.halt = iter.Pull(sh.look.run)
	}
	sh.look.until = time.Now().Add(d)
	_, more := sh.next()
	sh.closeLingering()
	if more {
		return false
	}
	sh.err, sh.beyond, sh.took = errors.Join(sh.look.errs...), sh.look.over, min(sh.look.spent, MaxWork)
	sh.stubborn = sh.look.stubborn
	sh.look = nil
	return true
}

// stop ends a look that is under way.
func (sh *share) stop() {
	if sh.look != nil {
		sh.halt()
		sh.closeLingering()
		sh.look = nil
	}
}

func (sh *share) take() []Found {
	found := sh.found
	sh.found = nil
	return found
}

// recheck is how many looks a socket that is known is believed, on average: numbers
// of sockets come round after 2^32, and then lead to another.
const recheck = 256

// inOrder remembers a socket. There are never more than MaxWork.
func (sh *share) inOrder(inode uint32, local bool) { sh.now[inode] = local }

// knows reports whether the socket was in order at the last look and, if so,
// remembers that it is still there; local says that it is a unix socket.
func (sh *share) knows(inode uint32) (known, local bool) {
	if local, known = sh.now[inode]; known {
		return known, local
	}
	local, known = sh.before[inode]
	if known = known && rand.IntN(recheck) > 0; known {
		sh.inOrder(inode, local)
	}
	return known, local
}

// run looks at the whole share. It yields when its turn is over.
func (l *look) run(yield func(struct{}) bool) {
	l.yield = yield
	defer l.close()
	below := 0
	if !l.share.what.Alone {
		// A root that has gone meanwhile has nothing below.
		if below, _ = l.share.what.Root.Descendants(); below > l.share.most {
			l.endAll(below)
			return
		}
	}
	for queue := []workload.Cgroup{l.share.what.Root}; len(queue) > 0; queue = queue[1:] {
		children, err := l.cgroup(queue[0], below > 0)
		if errors.Is(err, errStopped) {
			return
		}
		if err != nil && !errors.Is(err, workload.ErrGone) && !errors.Is(err, unix.ENODEV) {
			l.errs = append(l.errs, err)
		}
		queue = append(queue, children...)
	}
	if err := l.resolve(); err != nil {
		l.errs = append(l.errs, err)
	}
	l.settle()
}

// endAll ends a share that has more cgroups than could be walked in time.
func (l *look) endAll(n int) {
	root := l.share.what.Root
	l.over = true
	found := Found{Kind: KindBeyond, Cgroup: root.ID(), Outcome: Ended}
	if err := root.Kill(context.Background()); err != nil {
		found.Outcome, found.Err = Failed, err
		l.errs = append(l.errs, fmt.Errorf("cgroup %s has %d cgroups below it and could not be ended: %w", root.Path(), n, err))
	}
	l.share.found = append(l.share.found, found)
}

// cgroup looks at the processes of one cgroup and gives those below it, if any are
// to be looked at.
func (l *look) cgroup(cg workload.Cgroup, below bool) ([]workload.Cgroup, error) {
	if err := l.step(workCgroup); errors.Is(err, errStopped) {
		return nil, err
	}
	if below {
		if populated, err := cg.Populated(); err != nil || !populated {
			return nil, err
		}
	}
	var looked map[int]struct{}
	for round := range maxRounds {
		pids, err := cg.Procs()
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // a threaded cgroup: its processes are the domain's
			return nil, err
		}
		if err := l.step(len(pids) / workProcess); errors.Is(err, errStopped) {
			return nil, err
		}
		l.ended = false
		if round > 0 {
			slices.Reverse(pids) // the newest first: it may not be there for long
		}
		if err := l.processes(cg, pids, looked); err != nil {
			return nil, err
		}
		if !l.ended || round == maxRounds-1 {
			break
		}
		if looked == nil {
			looked = make(map[int]struct{}, len(pids))
		}
		for _, pid := range pids {
			looked[pid] = struct{}{}
		}
	}
	if !below {
		return nil, nil
	}
	return cg.Children()
}

// processes looks at processes of one cgroup, but not at those that were looked at.
func (l *look) processes(cg workload.Cgroup, pids []int, looked map[int]struct{}) error {
	for _, pid := range pids {
		if _, again := looked[pid]; again {
			continue
		}
		if pid == 0 {
			l.errs = append(l.errs, fmt.Errorf("cgroup %s: a process of another pid namespace cannot be looked at; run sallyport in the host's", cg.Path()))
			continue
		}
		err := l.step(workProcess)
		if err == nil {
			err = l.process(cg, pid)
		}
		switch {
		case errors.Is(err, errStopped):
			return err
		case errors.Is(err, errBeyond):
			err = l.endUnseen(cg, pid)
		}
		if err != nil && !gone(err) {
			l.errs = append(l.errs, fmt.Errorf("descriptors of process %d in %s: %w", pid, cg.Path(), err))
		}
	}
	return nil
}

// step accounts for work, and waits for the next turn where this one is over.
func (l *look) step(work int) error {
	l.spent += work
	if l.spent-l.checked >= checkEvery {
		l.rest()
	}
	switch {
	case l.stopped:
		return errStopped
	case l.spent > MaxWork:
		l.over = true
		return errBeyond
	}
	return nil
}

// rest waits for the next turn where this one is over.
func (l *look) rest() {
	l.checked = l.spent
	if time.Now().After(l.until) && !l.yield(struct{}{}) {
		l.stopped = true
	}
}

// endUnseen kills a process that is beyond what is looked through. Refusing it
// would not do: what it holds may be connected already.
func (l *look) endUnseen(cg workload.Cgroup, pid int) error {
	h, err := l.hold(cg, pid)
	if err != nil {
		return err
	}
	return l.end(h, entry{fd: -1}, KindBeyond, netns.Socket{})
}
