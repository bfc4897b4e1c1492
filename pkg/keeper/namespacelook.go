package keeper

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"

	"sallyport/pkg/netns"
	"sallyport/pkg/workload"
)

// look opens and closes namespaces so that they are those in which something
// tagged runs. It reports whether anything changed, and how long it took to see
// what there is; opening has bounds of its own.
func (n *namespaces) look(now time.Time, notices *fsnotify.Watcher) (changed bool, took time.Duration) {
	listening := n.k.gate.listening()
	if !listening {
		// Nobody takes connections: they must fail at once, here too.
		for _, ns := range n.all() {
			n.leave(ns, true)
		}
		if !n.k.gate.oneLock() {
			return false, 0 // what is not known is refused
		}
	}
	f := n.sight(now, notices)
	sighted := f.sighted
	took = time.Since(now)
	if n.k.gate.oneLock() {
		n.shutAll(f, now)
	}
	if !listening {
		return false, took
	}
	for _, inode := range byTurns(sighted) {
		s := sighted[inode]
		if ns := n.open[inode]; ns != nil {
			ns.seen = now
			changed = n.present(ns, s) || changed
			if n.refused[inode] != nil && ns.isProven() {
				delete(n.refused, inode)
			}
			continue
		}
		changed = n.admit(inode, s, now) || changed
	}
	n.settled = true
	for inode := range sighted {
		n.settled = n.settled && (n.open[inode] != nil || n.refused[inode] != nil)
	}
	for inode := range n.refused {
		if sighted[inode] == nil {
			delete(n.refused, inode)
		}
	}
	for _, ns := range n.all() {
		ns.mu.Lock()
		broken := ns.broken
		ns.mu.Unlock()
		switch {
		case broken != nil:
			n.withdraw(ns, sighted[ns.inode], broken, now)
			changed = true
		case now.Sub(ns.seen) > leaveAfter && !f.missed(ns.workload):
			n.leave(ns, false)
			changed = true
		}
	}
	n.places.tidy(now)
	n.k.concern("network namespaces", n.refusals()...)
	if changed {
		n.prodTell()
	}
	return changed, took
}

// sight sees which namespaces there are, and asks for notices of changes.
func (n *namespaces) sight(now time.Time, notices *fsnotify.Watcher) *finder {
	if now.Sub(n.watchedAt) > watchedFor {
		n.watched, n.watchedAt = make(map[string]struct{}), now
		for _, dir := range notices.WatchList() {
			n.watched[dir] = struct{}{}
		}
	}
	f := &finder{own: n.own, visited: func(cg workload.Cgroup) { n.watch(notices, cg) }}
	if n.k.options.Instance.Name == servicePrefix {
		f.slice = n.k.gate.tagged.ID()
	}
	f.find(n.k.gate.taggedCgroups())
	var beyond []string
	for _, path := range pathsOf(f.cut) {
		beyond = append(beyond, fmt.Sprintf("%s has more than its share of the %d cgroups that are looked at: what is beyond has no network namespaces of its own, no direct destinations and no open ports", path, maxDirectCgroups))
	}
	n.k.concern("tagged cgroups", beyond...)
	return f
}

// admit opens a namespace if it has a place and a turn.
func (n *namespaces) admit(inode uint64, s *sighting, now time.Time) bool {
	r := n.refused[inode]
	if r != nil && now.Before(r.until) {
		return false
	}
	id := s.workload.ID()
	if full := n.places.full(id); full != "" {
		n.refuse(inode, s, full, now)
		n.refused[inode].until = now.Add(openAgain) // a place may become free any time
		return false
	}
	if !n.places.now(id, now) {
		return false // its turn comes
	}
	ns, err := n.openNamespace(inode, s)
	if errors.Is(err, netns.ErrGone) || errors.Is(err, workload.ErrGone) {
		return false
	}
	if err != nil {
		n.log.Warn("network namespace not opened", zap.String("workload", s.workload.Path()), zap.Error(err))
		n.refuse(inode, s, err.Error(), now)
		return false
	}
	n.places.take(id)
	n.mu.Lock()
	n.open[inode] = ns
	n.mu.Unlock()
	n.prodTell()
	n.log.Info("network namespace opened", zap.String("workload", ns.name), zap.Uint64("cookie", ns.cookie), zap.Duration("took", time.Since(now)))
	return true
}

// present notes which cgroups are in a namespace now, and who is counted for it.
func (n *namespaces) present(ns *namespace, s *sighting) bool {
	if _, stays := s.cgroups[ns.workload]; !stays {
		n.places.give(ns.workload)
		ns.workload = s.workload.ID()
		n.places.take(ns.workload)
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if maps.Equal(ns.cgroups, s.cgroups) {
		return false
	}
	ns.cgroups = s.cgroups
	if err := n.adjust(ns); err != nil {
		ns.broken = err
	}
	return true
}

// adjust makes the table of a namespace what it must be now; ns.mu is held.
func (n *namespaces) adjust(ns *namespace) error {
	state := n.stateFor(ns)
	if ns.closed || sameExceptions(&state, &ns.state) {
		return nil
	}
	if err := ns.guard.Apply(state); err != nil {
		return err
	}
	ns.state = state
	return nil
}

// watch asks for notices of what comes and goes in a cgroup.
func (n *namespaces) watch(notices *fsnotify.Watcher, cg workload.Cgroup) {
	dir := cg.Dir()
	if _, ok := n.watched[dir]; ok || len(n.watched) >= maxWatched {
		return
	}
	// Without a notice the interval finds it.
	if notices.Add(dir) == nil {
		n.watched[dir] = struct{}{}
	}
}
