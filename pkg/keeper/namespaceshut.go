package keeper

import (
	"errors"
	"os"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/guard"
	"sallyport/pkg/netns"
	"sallyport/pkg/workload"
)

const (
	// shutAgain is how often the table of a namespace that is only shut is compared.
	shutAgain = watchInterval
	// shutFor bounds the time that one look shuts namespaces: workloads take turns,
	// and whoever makes many does not keep the keeper from those of others.
	shutFor = 200 * time.Millisecond
	// maxShut bounds the namespaces that are held while they are shut. The others are
	// shut as well, and their tables stay behind when they are empty.
	maxShut = 1024
)

// A shutNamespace is one in which our table refuses whatever would come to us, where
// there is no BPF that would: it has no listeners, because nobody serves them at the
// moment, or because it has no place, or no turn yet, or failed.
type shutNamespace struct {
	file *os.File // while it is open, no other namespace has its inode
	// seen is when something tagged was there, next when its table is compared.
	seen, next time.Time
}

// shutAll shuts what was seen and is not open, and takes the tables out of what is
// empty.
func (n *namespaces) shutAll(f *finder, now time.Time) {
	for _, inode := range byTurns(f.sighted) {
		s := f.sighted[inode]
		held := n.shut[inode]
		if held != nil {
			held.seen = now
		}
		if n.open[inode] != nil {
			n.drop(inode, true) // the table is that of the open one
			continue
		}
		if held != nil && now.Before(held.next) || time.Since(now) > shutFor {
			continue
		}
		err := n.shutOne(inode, s, now)
		if err != nil && !errors.Is(err, netns.ErrGone) && !errors.Is(err, workload.ErrGone) {
			n.log.Error("a network namespace is not guarded", zap.String("workload", s.workload.Path()), zap.Error(err))
			n.k.note("a network namespace of " + s.workload.Path() + " is not guarded: " + err.Error())
		}
	}
	for inode, held := range n.shut {
		if now.Sub(held.seen) > leaveAfter && len(f.cut) == 0 {
			n.drop(inode, false)
		}
	}
}

// shutOne puts a table without listeners into a namespace.
func (n *namespaces) shutOne(inode uint64, s *sighting, now time.Time) error {
	held := n.shut[inode]
	if held == nil {
		file, err := n.openFile(inode, s)
		if err != nil {
			return err
		}
		held = &shutNamespace{file: file, seen: now}
		if len(n.shut) < maxShut {
			n.shut[inode] = held
		} else {
			defer file.Close()
		}
	}
	held.next = now.Add(shutAgain)
	g, err := guard.New(guard.Options{Table: n.k.gate.instance.Table, Netns: held.file})
	if err != nil {
		return err
	}
	defer g.Close()
	state, _ := n.exceptionsFor(s.cgroups)
	return g.Apply(state)
}

// drop lets a namespace go; with keep its table stays.
func (n *namespaces) drop(inode uint64, keep bool) {
	held := n.shut[inode]
	if held == nil {
		return
	}
	delete(n.shut, inode)
	defer held.file.Close()
	if keep {
		return
	}
	g, err := guard.New(guard.Options{Table: n.k.gate.instance.Table, Netns: held.file})
	if err == nil {
		defer g.Close()
		err = g.Delete()
	}
	if err != nil {
		n.log.Warn("table in a network namespace", zap.Error(err))
	}
}

// forgetShut gives back what this process holds; the tables stay.
func (n *namespaces) forgetShut() {
	for inode := range n.shut {
		n.drop(inode, true)
	}
}
