package keeper

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"sync"

	"go.uber.org/zap"

	"sallyport/pkg/config"
	"sallyport/pkg/datapath"
	"sallyport/pkg/guard"
	"sallyport/pkg/keeper/store"
	"sallyport/pkg/workload"
)

// A gate is the kernel's half of an instance: programs, maps, table, cgroups
// and listeners. Without a worker it refuses everything, and it outlives the
// process: whoever dies, the gate stays shut.
type gate struct {
	instance Instance
	tree     *workload.Tree
	tagged   workload.Cgroup
	home     workload.Cgroup
	// came is where the keeper was before it moved into home.
	came  workload.Cgroup
	data  *datapath.Datapath
	guard *guard.Guard
	lock  *os.File
	log   *zap.Logger
	// store keeps listeners beyond this process; nil: nobody does.
	store *store.Store
	// first says that there was no tagged cgroup before.
	first bool
	// replaced says why pinned programs of an earlier start were not taken over; nil
	// where they were, or there were none.
	replaced error
	// adopted says that the guard may hold more than state: what an earlier keeper
	// let through.
	adopted bool

	mu sync.Mutex
	// elsewhere are the tagged cgroups outside of the slice, by path.
	elsewhere map[string]workload.Cgroup
	ls        *listeners
	// probe is where the self-probe's second connection is sent.
	probe netip.AddrPort
	// state is what the guard must hold now.
	state guard.State
	// others takes over exceptions for the tables of other network namespaces,
	// before BPF knows them.
	others func(guard.State)
}

// Missing says which parts of the host an instance needs and does not have; the
// errors name them.
func Missing() error {
	var errs []error
	if err := datapath.Supported(); err != nil {
		errs = append(errs, err)
	}
	if err := guard.Supported(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// openGate shuts the gate: from its return, whatever runs in the tagged cgroup
// reaches nothing. State that an earlier keeper of the same instance left is
// taken over, so that there is no moment without a lock.
func openGate(i Instance, c *config.Config, st *store.Store, log *zap.Logger) (g *gate, err error) {
	g = &gate{instance: i, log: log, store: st}
	defer func() {
		if err == nil {
			return
		}
		// Asking costs as much as loading, so only a failure asks.
		missing := Missing()
		g.abandon(missing != nil)
		g = nil
		if missing != nil {
			err = fmt.Errorf("this host cannot be guarded: %w (%w); sallyport doctor says more", missing, err)
		}
	}()
	if g.tree, err = workload.FindTree(); err != nil {
		return g, err
	}
	if g.lock, err = i.LockSoon(); err != nil {
		return g, err
	}
	if err := g.goHome(); err != nil {
		return g, err
	}
	_, err = g.tree.Cgroup(i.Tagged)
	g.first = errors.Is(err, workload.ErrGone)
	if g.tagged, err = ensureCgroup(g.tree, i.Tagged); err != nil {
		return g, fmt.Errorf("tagged cgroup: %w", err)
	}
	g.recallElsewhere()
	// The two locks do not need each other, and each takes its time.
	captures := g.captures()
	guarded := make(chan error, 1)
	go func() { guarded <- g.guardAndListen(c, captures) }()
	err = g.loadOrCapture(captures)
	if gerr := <-guarded; err == nil {
		err = gerr
	}
	if err == nil {
		err = g.capture()
	}
	if err != nil {
		return g, err
	}
	if err := g.attachElsewhere(); err != nil {
		return g, err
	}
	if err := g.ls.register(g.data, g.probe); err != nil {
		return g, fmt.Errorf("bpf: listeners: %w", err)
	}
	return g, nil
}

// guardAndListen opens the listeners and makes the table, in one transaction
// with all that the guard has to know from the beginning.
func (g *gate) guardAndListen(c *config.Config, captures bool) (err error) {
	if err := g.newGuard(captures); err != nil {
		return err
	}
	if g.ls, err = openListeners(g.store, nil, c.Listen.TCP, c.Listen.DNS); err != nil {
		return err
	}
	g.state.Listeners, g.state.Resolvers = g.ls.addresses()
	known := []string{g.instance.ProbeCgroup()}
	if g.instance.Name != servicePrefix {
		known = append(known, g.instance.Command())
	}
	var below []guard.Cgroup
	for _, path := range known {
		cg, err := ensureCgroup(g.tree, path)
		if err != nil {
			return err
		}
		below = append(below, guard.Cgroup{ID: cg.ID(), Level: cg.Level()})
	}
	g.state.Tagged = g.withTagged(below)
	// What an earlier keeper let through beside our listeners stays until we know
	// what that is: taking it away would reset those connections.
	g.adopted = true
	if err := g.guard.Adopt(g.state); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	return nil
}

// withTagged gives the tagged cgroups and those below them that the guard knows by
// themselves, in one order.
func (g *gate) withTagged(below []guard.Cgroup) []guard.Cgroup {
	below = slices.SortedFunc(slices.Values(below), func(a, b guard.Cgroup) int { return cmp.Compare(a.ID, b.ID) })
	all := []guard.Cgroup{{ID: g.tagged.ID(), Level: g.tagged.Level()}}
	for _, cg := range g.sortedElsewhere() {
		all = append(all, guard.Cgroup{ID: cg.ID(), Level: cg.Level()})
	}
	for _, cg := range below {
		if !slices.Contains(all, cg) {
			all = append(all, cg)
		}
	}
	return all
}

// listen opens the listeners and lets the tagged cgroup reach them.
func (g *gate) listen(tcpPort, dnsPort uint16) error {
	ls, err := openListeners(g.store, nil, tcpPort, dnsPort)
	if err != nil {
		return err
	}
	if err := ls.register(g.data, g.probe); err != nil {
		ls.drop()
		return fmt.Errorf("bpf: listeners: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	state := g.state
	state.Listeners, state.Resolvers = ls.addresses()
	if err := g.guard.Apply(state); err != nil {
		ls.drop()
		return fmt.Errorf("guard: %w", err)
	}
	g.state, g.ls = state, ls
	return nil
}

// setProbe tells the kernel about the self-probe: connections of this cgroup to
// probeBlocked go to target.
func (g *gate) setProbe(cgroup uint64, target netip.AddrPort) error {
	if err := g.data.SetProbe(datapath.Probe{Cgroup: cgroup, Blocked: probeBlocked}); err != nil {
		return fmt.Errorf("bpf: self-probe: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.probe = target
	if g.oneLock() {
		return g.exempt(target)
	}
	return g.ls.register(g.data, target)
}

// unlisten closes the listeners: from now on connects fail at once.
func (g *gate) unlisten() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ls == nil {
		return
	}
	// There are no programs where they could not be loaded.
	if g.data != nil {
		if err := g.data.RemoveListeners(g.ls.cookie); err != nil {
			g.log.Error("remove listeners", zap.Error(err))
		}
	}
	if err := g.ls.drop(); err != nil {
		g.log.Error("stored listeners", zap.Error(err))
	}
	g.ls = nil
}

// listening reports whether the listeners are open.
func (g *gate) listening() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ls != nil
}

// setDirect lets the tagged cgroups reach these destinations without us, in
// both locks: first the guard, then BPF, so that a connection which BPF passes
// is not cut by the other.
func (g *gate) setDirect(rules []datapath.DirectRule, tagged []guard.Cgroup, inbound []guard.Inbound) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	state := g.state
	state.Tagged = g.withTagged(tagged)
	state.Inbound = inbound
	state.Direct = nil
	for _, r := range rules {
		p := guard.TCP
		if r.Protocol == datapath.UDP {
			p = guard.UDP
		}
		state.Direct = append(state.Direct, guard.Direct{Cgroup: r.Cgroup, Prefix: r.Prefix, First: r.First, Last: r.Last, Protocol: p})
	}
	if !sameExceptions(&state, &g.state) {
		if err := g.guard.Apply(state); err != nil {
			return fmt.Errorf("guard: %w", err)
		}
		g.state = state
		if g.others != nil {
			g.others(state)
		}
	}
	if err := g.data.SetDirect(rules); err != nil {
		return fmt.Errorf("bpf: direct rules: %w", err)
	}
	ports := make([]datapath.InboundPort, len(inbound))
	for i, p := range inbound {
		ports[i] = datapath.InboundPort{Cgroup: p.Cgroup, Port: p.Port}
	}
	if err := g.data.SetInbound(ports); err != nil {
		return fmt.Errorf("bpf: inbound ports: %w", err)
	}
	return nil
}

// sameExceptions reports whether two states let the same through beside our
// listeners.
func sameExceptions(a, b *guard.State) bool {
	return slices.Equal(a.Tagged, b.Tagged) && slices.Equal(a.Inbound, b.Inbound) && slices.Equal(a.Direct, b.Direct)
}

// setOwnAddresses refuses connects whose real target is one of ours.
func (g *gate) setOwnAddresses(more ...netip.AddrPort) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	own := slices.Clone(more)
	if g.ls != nil {
		tcp, dns := g.ls.addresses()
		own = append(append(own, tcp...), dns...)
	}
	return g.data.SetOwnAddresses(own)
}

// repair compares both locks with what they must be and puts back what is
// missing. It returns what it found, in sentences.
func (g *gate) repair() []string {
	var found []string
	if problems, err := g.data.Verify(); err != nil {
		found = append(found, "bpf: "+err.Error())
	} else if len(problems) > 0 {
		for _, p := range problems {
			found = append(found, "bpf: "+p.String())
		}
		if err := g.data.Repair(); err != nil {
			found = append(found, "bpf: repair failed: "+err.Error())
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if problems, err := g.guard.Check(); err != nil {
		found = append(found, "guard: "+err.Error())
	} else if len(problems) > 0 {
		for _, p := range problems {
			found = append(found, "guard: "+p.String())
		}
		if err := g.guard.Apply(g.state); err != nil {
			found = append(found, "guard: repair failed: "+err.Error())
		}
	}
	return found
}

// release gives back what this process holds and leaves the gate shut.
func (g *gate) release() {
	if g.ls != nil {
		g.ls.close()
	}
	if g.guard != nil {
		g.guard.Close()
	}
	if g.data != nil {
		g.data.Close()
	}
	if g.tree != nil {
		g.tree.Close()
	}
	if g.lock != nil {
		g.lock.Close()
	}
}

// ensureCgroup makes a cgroup, or gives the one that is there.
func ensureCgroup(tree *workload.Tree, path string) (workload.Cgroup, error) {
	cg, err := tree.Create(path)
	if errors.Is(err, fs.ErrExist) {
		return tree.Cgroup(path)
	}
	return cg, err
}
