package keeper

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/guard"
	"sallyport/pkg/netns"
	"sallyport/pkg/workload"
)

// maxLocal bounds the addresses that are local to a namespace: the worker is told
// each of them.
const maxLocal = 1024

// A namespace is a network namespace of workloads with our listeners and table in
// it. Its sockets keep it alive: it is given up as soon as nothing tagged runs
// there, not when it ends.
type namespace struct {
	cookie, inode uint64
	file          *os.File
	// ruled says that it belongs to our own user namespace: no workload is root
	// there.
	ruled bool
	ls    *listeners
	// target is where the self-probe's second connection arrives, if the guard lets
	// it pass.
	target *net.TCPListener
	book   *netns.AddressBook
	// stop ends the watch of addresses, which watching waits for.
	stop     context.CancelFunc
	watching sync.WaitGroup

	// These belong to the goroutine that looks for namespaces.
	workload uint64
	seen     time.Time

	mu      sync.Mutex
	closed  bool
	guard   *guard.Guard
	state   guard.State
	name    string // for a person
	cgroups map[uint64]struct{}
	// local counts the changes of what is local.
	local int
	// proven says that a self-probe succeeded inside and nothing had to be repaired
	// since; ever, that one did at all. failures counts those since.
	proven, ever bool
	failures     int
	broken       error
	// rejected and dropped are what of the guard's refusals was recorded.
	rejected, dropped map[uint64]uint64
	counted           uint64 // of all refusals, as last read
	// next is when the table is compared again, nextCount when its counters are read.
	next, nextCount time.Time
}

// openNamespace opens a namespace that was seen: listeners, table, and then the
// entry by which the kernel sends connections there.
func (n *namespaces) openNamespace(inode uint64, s *sighting) (_ *namespace, err error) {
	ns := &namespace{inode: inode, workload: s.workload.ID(), cgroups: s.cgroups, name: n.workloadOf(s), seen: time.Now()}
	defer func() {
		if err != nil {
			ns.release(true)
			err = errors.Join(err, ns.dropListeners())
		}
	}()
	if ns.file, err = n.openFile(inode, s); err != nil {
		return nil, err
	}
	if ns.ruled, err = netns.SameRuler(ns.file); err != nil {
		return nil, err
	}
	// Without it nobody can be reached on loopback, and a namespace that was just
	// made has it down. It leads nowhere but to the namespace itself.
	if _, err := netns.RaiseLoopback(ns.file); err != nil {
		return nil, err
	}
	if err := n.listenIn(ns); err != nil {
		return nil, err
	}
	if ns.book, err = netns.NewAddressBook(ns.file); err != nil {
		return nil, err
	}
	if len(ns.book.Prefixes()) > maxLocal {
		return nil, fmt.Errorf("more than %d addresses are local to it", maxLocal)
	}
	if ns.guard, err = guard.New(guard.Options{
		Table: n.k.gate.instance.Table, Netns: ns.file,
		Held: n.k.gate.oneLock(), Idle: n.k.gate.instance.Locks == LocksBPF,
	}); err != nil {
		return nil, err
	}
	ns.state = n.stateFor(ns)
	if err := ns.guard.Apply(ns.state); err != nil {
		return nil, err
	}
	if err := mark(n.k.gate.data, ns.target); err != nil {
		return nil, err
	}
	if err := ns.ls.register(n.k.gate.data, addrPort(ns.target.Addr())); err != nil {
		return nil, err
	}
	n.watchAddresses(ns)
	return ns, nil
}

// openFile opens the namespace of a sighting by a process of which it is certain
// that it is a tagged one in there. It returns netns.ErrGone where none is left.
func (n *namespaces) openFile(inode uint64, s *sighting) (*os.File, error) {
	for _, m := range s.members {
		f, err := netns.OpenProven(m.pid, func() error {
			at, err := n.k.gate.tree.OfProcess(m.pid)
			if err == nil && at.ID() != m.in.ID() {
				err = netns.ErrGone // to another cgroup
			}
			return err
		})
		if errors.Is(err, netns.ErrGone) || errors.Is(err, workload.ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if now, err := netns.Inode(f); err == nil && now == inode {
			return f, nil
		}
		f.Close()
	}
	return nil, netns.ErrGone
}

// listenIn opens the sockets. The configured ports are those of loopback in each
// namespace; where a program inside has one of them, any other will do, since
// nobody there names it.
func (n *namespaces) listenIn(ns *namespace) (err error) {
	n.k.mu.Lock()
	ports := n.k.config.Listen
	n.k.mu.Unlock()
	st := n.k.options.Store
	ns.ls, err = openListeners(st, ns.file, ports.TCP, ports.DNS)
	if errors.Is(err, unix.EADDRINUSE) {
		ns.ls, err = openListeners(st, ns.file, 0, 0)
	}
	if err != nil {
		return err
	}
	ns.cookie = ns.ls.cookie
	port := uint16(0)
	if n.k.gate.oneLock() {
		port = n.k.prober.to.blocked.Port() // no program rewrites it
	}
	ns.target, err = netns.ListenTCP(ns.file, netip.AddrPortFrom(loopback4, port))
	return err
}

// watchAddresses keeps what is local current.
func (n *namespaces) watchAddresses(ns *namespace) {
	ctx, cancel := context.WithCancel(context.Background())
	ns.stop = cancel
	ns.watching.Go(func() {
		err := ns.book.Run(ctx, func(local []netip.Prefix) {
			ns.mu.Lock()
			ns.local++
			if len(local) > maxLocal {
				ns.broken = fmt.Errorf("more than %d addresses are local to it", maxLocal)
			}
			ns.mu.Unlock()
			n.prodTell()
		})
		if err != nil && ctx.Err() == nil {
			ns.mu.Lock()
			ns.broken = err
			ns.mu.Unlock()
			n.prod()
		}
	})
}

// isProven reports whether a self-probe succeeded inside.
func (ns *namespace) isProven() bool {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.proven
}

// dropListeners closes the listeners for good.
func (ns *namespace) dropListeners() error {
	if ns.ls == nil {
		return nil
	}
	return ns.ls.drop()
}

// release gives back what this process holds of it; with keep the table stays.
func (ns *namespace) release(keep bool) error {
	if ns.stop != nil {
		ns.stop()
		ns.watching.Wait()
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.closed = true
	var err error
	if ns.guard != nil {
		if !keep {
			err = ns.guard.Delete()
		}
		ns.guard.Close()
	}
	if ns.target != nil {
		ns.target.Close()
	}
	if ns.file != nil {
		ns.file.Close()
	}
	return err
}

// closeNamespace takes everything of ours out of a namespace. The table stays
// where something tagged still runs: the other lock alone refuses everything
// there.
func (n *namespaces) closeNamespace(ns *namespace, keep bool) error {
	err := n.k.gate.data.RemoveListeners(ns.cookie)
	return errors.Join(err, ns.dropListeners(), ns.release(keep))
}

// stateFor gives what the table of a namespace must be.
func (n *namespaces) stateFor(ns *namespace) guard.State {
	state, redirect := n.exceptionsFor(ns.cgroups)
	state.Redirect = redirect
	state.Listeners, state.Resolvers = ns.ls.addresses()
	return state
}

// exceptionsFor gives what the table of a namespace holds besides our listeners: of
// the exceptions those of the cgroups that are there. Every tagged cgroup is
// guarded, wherever its processes are now.
func (n *namespaces) exceptionsFor(cgroups map[uint64]struct{}) (state guard.State, redirect *guard.Redirect) {
	n.mu.Lock()
	all := n.exceptions
	n.mu.Unlock()
	there := func(id uint64) bool {
		_, ok := cgroups[id]
		return ok || id == 0
	}
	probe := n.k.prober.cgroup.ID()
	roots := slices.Collect(maps.Values(n.k.gate.data.Tagged()))
	for _, c := range all.Tagged {
		if slices.Contains(roots, c.ID) || c.ID == probe || there(c.ID) {
			state.Tagged = append(state.Tagged, c)
		}
	}
	for _, d := range all.Direct {
		if there(d.Cgroup) {
			state.Direct = append(state.Direct, d)
		}
	}
	for _, in := range all.Inbound {
		if there(in.Cgroup) {
			state.Inbound = append(state.Inbound, in)
		}
	}
	return state, all.Redirect
}
