package keeper

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"

	"sallyport/pkg/guard"
	"sallyport/pkg/netns"
)

const (
	// findInterval is how often tagged processes are asked for their network
	// namespaces, and findSoon how often in the time after something came or went.
	findInterval = 100 * time.Millisecond
	findSoon     = 10 * time.Millisecond
	soonFor      = 2 * time.Second
	// findRest is how many times as long as looking took nobody looks again: a
	// twentieth of one processor, whatever a workload makes.
	findRest = 20
	// findSlowest is how long that may be at most.
	findSlowest = 2 * time.Second
	// leaveAfter is how long nothing tagged must have run in a namespace before it
	// is given up: a process that execs or forks is missed at times.
	leaveAfter = 300 * time.Millisecond
	// openAgain is how soon a namespace is tried again that could not be opened, or
	// proven; each further time it takes twice as long, up to openLatest.
	openAgain, openLatest = time.Second, time.Minute
	// maxWatched bounds the cgroups that are watched for what comes and goes. The
	// others are found at the next interval.
	maxWatched = 1024
	// watchedFor is how long it is believed that what is watched still is: watches
	// end with their cgroups.
	watchedFor = 10 * time.Second
	// maxNamespacesNamed bounds the namespaces that problems name.
	maxNamespacesNamed = 16
)

// namespaces own what is ours in every network namespace of workloads but the
// keeper's own: there, listeners and table are the gate's.
//
// A namespace that is not known has no entry in the kernel's table of listeners,
// so that everything in it is refused. That is how one begins, and how it is left
// where it cannot be guarded.
type namespaces struct {
	k   *Keeper
	log *zap.Logger
	// own is the inode of the keeper's namespace, home its cookie.
	own, home uint64

	// wake asks to look now, news to tell the worker now, proof to prove now.
	wake, news, proof chan struct{}
	// proofTurn is of the self-probes inside: one that is stuck is no failure of the
	// keeper's own namespace.
	proofTurn probeTurn
	// looked is closed once everything was looked at for the first time.
	looked chan struct{}

	// These belong to the goroutine that looks.
	places  *quota
	refused map[uint64]*refusedNamespace // by inode
	watched map[string]struct{}
	// shut are those with a table and nothing else of ours, by inode.
	shut map[uint64]*shutNamespace
	// watchedAt is when watched was true.
	watchedAt time.Time
	// settled says that at the last look everything was open or refused, tidied
	// that what an earlier keeper left was looked through.
	settled, tidied bool

	mu         sync.Mutex
	open       map[uint64]*namespace // by inode: ours keep it from being used again
	exceptions guard.State
	// rejected adds up what the tables of closed namespaces had counted.
	rejected uint64
	// informed are the cookies of the namespaces that the worker has.
	informed map[uint64]struct{}
}

func (k *Keeper) openNamespaces() (*namespaces, error) {
	ns, err := netns.Current()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	own, err := netns.Inode(ns)
	if err != nil {
		return nil, err
	}
	n := &namespaces{
		k: k, log: k.log.Named("namespaces"), own: own, home: k.gate.ls.cookie,
		wake: make(chan struct{}, 1), news: make(chan struct{}, 1), proof: make(chan struct{}, 1), looked: make(chan struct{}),
		places: newQuota(maxNamespaces, maxOfWorkload), refused: make(map[uint64]*refusedNamespace), watched: make(map[string]struct{}), shut: make(map[uint64]*shutNamespace),
		open: make(map[uint64]*namespace), informed: make(map[uint64]struct{}),
	}
	k.gate.mu.Lock()
	n.exceptions = k.gate.state
	k.gate.others = n.setExceptions
	k.gate.mu.Unlock()
	return n, nil
}

// prod asks to look now: something was refused in a namespace that is not known.
func (n *namespaces) prod() { poke(n.wake) }

func (n *namespaces) prodTell() { poke(n.news) }

func (n *namespaces) prodProof() { poke(n.proof) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run looks for namespaces until ctx ends. What is open then stays as it is: the
// gate outlives the process.
func (n *namespaces) run(ctx context.Context) error {
	notices, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch cgroups: %w", err)
	}
	defer notices.Close()
	defer n.forgetShut()
	began := time.Now()
	var soon time.Time
	for first := true; ; first = false {
		changed, took := n.look(time.Now(), notices)
		if changed {
			soon = time.Now().Add(soonFor)
		}
		if first {
			close(n.looked)
		}
		if !n.tidied && n.settled && time.Since(began) > leaveAfter {
			n.tidied = true
			n.forgetOthers()
		}
		pause := findInterval
		// Without BPF a namespace that is not found yet is not refused.
		if time.Now().Before(soon) || n.k.gate.oneLock() {
			pause = findSoon
		}
		rest := min(findRest*took, findSlowest)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rest):
		}
		timer := time.NewTimer(max(pause-rest, 0))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-n.wake:
		case e := <-notices.Events:
			// A cgroup came or went, or became populated or empty.
			soon = time.Now().Add(soonFor)
			if e.Has(fsnotify.Remove) {
				delete(n.watched, e.Name)
			}
		case err := <-notices.Errors:
			n.log.Debug("watch of cgroups", zap.Error(err)) // the interval finds what was lost
		}
		timer.Stop()
	}
}

// setExceptions takes what workloads may reach without us, before BPF is told.
func (n *namespaces) setExceptions(state guard.State) {
	n.mu.Lock()
	n.exceptions = state
	n.mu.Unlock()
	for _, ns := range n.all() {
		ns.mu.Lock()
		if err := n.adjust(ns); err != nil {
			ns.broken = err
			n.prod()
		}
		ns.mu.Unlock()
	}
}

// leave gives a namespace up. With keep its table stays.
func (n *namespaces) leave(ns *namespace, keep bool) {
	n.count(ns)
	n.mu.Lock()
	delete(n.open, ns.inode)
	n.mu.Unlock()
	n.places.give(ns.workload)
	if err := n.closeNamespace(ns, keep); err != nil {
		n.log.Warn("close network namespace", zap.String("workload", ns.name), zap.Error(err))
	}
	n.prodTell()
}

// withdraw refuses everything in a namespace that was open.
func (n *namespaces) withdraw(ns *namespace, s *sighting, why error, now time.Time) {
	n.log.Error("network namespace refused", zap.String("workload", ns.name), zap.Error(why))
	n.leave(ns, true)
	if s != nil {
		n.refuse(ns.inode, s, why.Error(), now)
	}
}

// all lists what is open.
func (n *namespaces) all() []*namespace {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Values(n.open))
}

// release closes descriptors and leaves the gate shut.
func (n *namespaces) release() {
	for _, ns := range n.all() {
		ns.ls.close()
		ns.release(true)
	}
}

// remove takes out what is left, behind everything that ran. The kernel's table of
// listeners has gone with the gate.
func (n *namespaces) remove() error {
	var errs []error
	for _, ns := range n.all() {
		n.mu.Lock()
		delete(n.open, ns.inode)
		n.mu.Unlock()
		errs = append(errs, ns.dropListeners(), ns.release(false))
	}
	return errors.Join(errs...)
}

// forgetOthers drops what an earlier keeper had set for namespaces that are gone
// or that have nothing tagged any more.
func (n *namespaces) forgetOthers() {
	known := map[uint64]bool{n.home: true}
	for _, ns := range n.all() {
		known[ns.cookie] = true
	}
	for _, cookie := range n.k.gate.data.ListenerNamespaces() {
		if known[cookie] {
			continue
		}
		if err := n.k.gate.data.RemoveListeners(cookie); err != nil {
			n.log.Warn("listeners of a namespace that is gone", zap.Error(err))
		}
	}
	// What was stored and nobody took by now does not fit any more, or was of such a
	// namespace.
	if err := n.k.options.Store.Clear(); err != nil {
		n.log.Warn("stored descriptors", zap.Error(err))
	}
}
