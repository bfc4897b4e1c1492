package keeper

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"os"
	"path/filepath"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
	"sallyport/pkg/guard"
)

// Locks say by what an instance is enforced.
type Locks string

const (
	// LocksAny are both where the kernel has cgroup BPF, else the guard alone.
	LocksAny Locks = ""
	// LocksBoth are BPF, which captures, and the guard.
	LocksBoth Locks = "both"
	// LocksNFT is the guard alone, which captures too.
	LocksNFT Locks = "nft"
	// LocksBPF is BPF alone: the table is there and guards nobody. It is chosen by
	// the hidden flag only, by whoever proves that each lock holds without the other.
	LocksBPF Locks = "bpf"
)

// ParseLocks reads the value of the flag --locks; an unknown one is an error.
func ParseLocks(s string) (Locks, error) {
	switch l := Locks(s); l {
	case LocksAny, LocksBoth, LocksNFT, LocksBPF:
		return l, nil
	}
	return "", fmt.Errorf("locks %q: want both, nft or bpf", s)
}

// oneLockOnly is the problem that status shows where the guard is the only lock.
const oneLockOnly = "one lock: this host has no cgroup BPF, so nftables alone guards and captures, and a container's own network that begins while the keeper is away is open until it is back; docs/security.md says what else it cannot see"

// captures reports whether the guard is to capture from the start: it was asked
// for, or the kernel has no programs for cgroups at all.
func (g *gate) captures() bool {
	switch g.instance.Locks {
	case LocksNFT:
		return true
	case LocksAny:
		return !g.pinned() && !datapath.Possible()
	}
	return false
}

// pinned reports whether programs of an earlier start are in force: then BPF
// works here, and a start that cannot load them must not go on with less.
func (g *gate) pinned() bool {
	entries, err := os.ReadDir(g.instance.Pins)
	return err == nil && len(entries) > 0
}

// oneLock reports whether the guard captures.
func (g *gate) oneLock() bool { return g.data != nil && g.data.Absent() }

// locks are how many locks are to be in force.
func (g *gate) locks() int {
	if g.oneLock() || g.instance.Locks == LocksBPF {
		return 1
	}
	return 2
}

// oneLockProblem says why there is only one.
func (g *gate) oneLockProblem() string {
	if g.instance.Locks != LocksAny {
		return "one lock: started with --locks " + string(g.instance.Locks)
	}
	return oneLockOnly
}

// newGuard makes the owner of the table.
func (g *gate) newGuard(captures bool) (err error) {
	g.guard, err = guard.New(guard.Options{Table: g.instance.Table, Held: captures, Idle: g.instance.Locks == LocksBPF})
	if captures {
		g.state.Redirect = g.redirect()
	}
	return err
}

// redirect says how the guard captures. What was redirected arrives only at
// listeners that were made in the keeper's cgroup.
func (g *gate) redirect() *guard.Redirect {
	return &guard.Redirect{Zone: g.zone(), Receivers: []guard.Cgroup{{ID: g.home.ID(), Level: g.home.Level()}}}
}

// zone is the conntrack zone of this instance. Two instances that share one, by
// chance, do each other no harm: what one redirected is no destination of the
// other's.
func (g *gate) zone() uint16 {
	h := fnv.New32a()
	h.Write([]byte(g.instance.Table))
	return uint16(h.Sum32()%65535) + 1
}

// loadOrCapture loads the programs, or makes do without where this kernel has
// none.
func (g *gate) loadOrCapture(captures bool) error {
	var err error
	if !captures {
		err = withHostLock(filepath.Dir(g.instance.Runtime), func() error { return ensureBPFFS(g.instance.Pins) })
		if err == nil {
			err = g.load()
		}
		if err == nil {
			return nil
		}
		if g.instance.Locks != LocksAny || g.pinned() || !lacksBPF() {
			return err
		}
		if g.data != nil {
			err = errors.Join(err, g.data.Unload())
		}
		g.log.Warn("no cgroup BPF: the guard captures alone", zap.Error(err))
	}
	// Programs of an earlier start would send connections to listeners that are
	// there no more.
	g.discard(g.instance.Pins)
	g.data = datapath.Absent(datapath.Options{PinDir: g.instance.Pins, CgroupRoot: g.tree.Point(), KeeperCgroup: g.home.Dir()})
	if g.instance.Name == servicePrefix {
		return g.data.AttachSlice(g.tagged.Dir())
	}
	return g.data.Attach(g.tagged.Dir())
}

// lacksBPF reports whether the kernel says that it has not what the programs
// need, or refuses the system call even to root.
func lacksBPF() bool {
	err := datapath.Supported()
	return errors.Is(err, datapath.ErrNotSupported) || errors.Is(err, unix.EPERM)
}

// capture makes a guard that was opened to guard alone capture as well.
func (g *gate) capture() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.oneLock() || g.state.Redirect != nil {
		return nil
	}
	if err := guard.RedirectSupported(); err != nil {
		return err
	}
	if err := g.guard.Hold(); err != nil {
		return err
	}
	g.state.Redirect = g.redirect()
	if err := g.guard.Apply(g.state); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	return nil
}

// exempt has the self-probe's second connection not redirected, for the guard to
// refuse.
func (g *gate) exempt(target netip.AddrPort) error {
	cg, err := g.tree.Cgroup(g.instance.ProbeCgroup())
	if err != nil {
		return err
	}
	r := *g.state.Redirect
	r.Probe = guard.Unredirected{Cgroup: guard.Cgroup{ID: cg.ID(), Level: cg.Level()}, To: target}
	state := g.state
	state.Redirect = &r
	if err := g.guard.Apply(state); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	g.state = state
	return nil
}
