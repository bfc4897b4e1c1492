package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/keeper/protocol"
)

const (
	// proofBatch is how many namespaces one probing process enters.
	proofBatch = 32
	// proofTries is how often a namespace may fail before it is refused: a machine
	// without time for a probe is no open gate.
	proofTries = 2
	// compareSlow is how long one comparison of a table may take. A workload that is
	// root in its namespace may fill it with tables of its own.
	compareSlow = 500 * time.Millisecond
)

// prove makes the self-probe's connections inside every open namespace now and
// then, and at once where that is due.
func (n *namespaces) prove(ctx context.Context) error {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		regular := false
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			regular = true
		case <-n.proof:
		}
		if !n.k.waitServing(ctx) {
			return nil
		}
		var due []*namespace
		again := false
		for _, ns := range n.all() {
			ns.mu.Lock()
			wants := regular || !ns.proven
			ns.mu.Unlock()
			if !wants {
				continue
			}
			if !n.isInformed(ns.cookie) {
				continue // nobody answers there yet; who tells the worker asks for the proof
			}
			due = append(due, ns)
		}
		for len(due) > 0 && ctx.Err() == nil {
			batch := due[:min(len(due), proofBatch)]
			due = due[len(batch):]
			again = n.proveBatch(ctx, batch) || again
		}
		if again {
			time.AfterFunc(probeAgain, n.prodProof)
		}
	}
}

// proveBatch probes some namespaces with one process. It reports whether one is to
// be probed again soon.
func (n *namespaces) proveBatch(ctx context.Context, batch []*namespace) (again bool) {
	var files []*os.File
	var inside []*namespace
	var before []uint64
	for _, ns := range batch {
		ns.mu.Lock()
		if ns.closed {
			ns.mu.Unlock()
			continue
		}
		refused, err := n.refusedProbes(ns)
		fd := -1
		if err == nil {
			fd, err = duplicate(int(ns.file.Fd()))
		}
		ns.mu.Unlock()
		if err != nil {
			again = n.judge(ns, fmt.Errorf("self-probe: %w", err)) || again
			continue
		}
		files = append(files, os.NewFile(uintptr(fd), "netns"))
		inside, before = append(inside, ns), append(before, refused)
	}
	if len(inside) == 0 {
		return again
	}
	worker := n.k.currentWorker()
	parent := ctx
	ctx, cancel := context.WithTimeout(parent, probeTimeout)
	defer cancel()
	pid, out, err := n.proofTurn.take(ctx, n.k.prober.run, files)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err == nil && len(lines) != 2*len(inside) {
		err = fmt.Errorf("the probe process said %q", out)
	}
	if ctx.Err() != nil && err == nil {
		err = ctx.Err()
	}
	if err != nil && parent.Err() != nil {
		return false
	}
	if n.k.currentWorker() != worker || worker == nil {
		return true // whoever should have answered has gone meanwhile
	}
	for i, ns := range inside {
		if err != nil {
			again = n.judge(ns, fmt.Errorf("self-probe: %w", err)) || again
			continue
		}
		again = n.judge(ns, n.verdict(ns, before[i], pid, lines[2*i], lines[2*i+1])) || again
	}
	return again
}

// verdict is nil if both connections in a namespace ended as they must, or it was
// closed meanwhile.
func (n *namespaces) verdict(ns *namespace, before uint64, pid int, captured, blocked string) error {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.closed {
		return nil
	}
	rejected := func() (uint64, error) { return n.refusedProbes(ns) }
	return n.k.prober.verdict(ns.target, before, rejected, pid, captured, blocked)
}

// refusedProbes reads how many packets of the self-probe the guard refused; ns.mu
// is held.
func (n *namespaces) refusedProbes(ns *namespace) (uint64, error) {
	c, err := ns.guard.Counters()
	return c.Cgroups[n.k.prober.cgroup.ID()], err
}

// judge notes what came of a probe. A namespace in which the locks cannot be
// proven is refused. It reports whether it is to be probed again.
func (n *namespaces) judge(ns *namespace, err error) (again bool) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.closed {
		return false
	}
	if err == nil {
		if ns.ever && !ns.proven {
			n.k.note("enforcement proven by the self-probe in a network namespace of " + ns.name)
			n.k.prodReport()
		}
		ns.proven, ns.ever, ns.failures = true, true, 0
		return false
	}
	n.log.Warn("self-probe in a network namespace", zap.String("workload", ns.name), zap.Error(err))
	if ns.failures++; ns.failures < proofTries {
		return true
	}
	ns.broken = err
	n.prod()
	return false
}

// guardLoop compares the tables of all namespaces with what they must be until
// ctx ends.
func (n *namespaces) guardLoop(ctx context.Context) error {
	for range every(ctx, watchInterval, nil) {
		for _, ns := range n.all() {
			if ctx.Err() != nil {
				return nil
			}
			n.repair(ns)
		}
		n.reportRejected()
	}
	return nil
}

// repair puts back what is missing in the table of a namespace.
func (n *namespaces) repair(ns *namespace) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	began := time.Now()
	if ns.closed || began.Before(ns.next) {
		return
	}
	problems, err := ns.guard.Check()
	if len(problems) > 0 && err == nil {
		err = ns.guard.Apply(ns.state)
	}
	took := time.Since(began)
	ns.next = began.Add(max(watchInterval/2, findRest*took))
	if took > compareSlow && !ns.ruled {
		err = errors.Join(err, fmt.Errorf("its nftables take %s to look through", took.Round(time.Millisecond)))
	}
	for _, p := range problems {
		n.log.Warn("enforcement repaired", zap.String("workload", ns.name), zap.Stringer("problem", p))
		n.k.note("repaired: guard in a network namespace of " + ns.name + ": " + p.String())
	}
	if err != nil {
		ns.broken = err
		n.prod()
	} else if len(problems) > 0 {
		ns.proven = false
		n.prodProof()
		n.k.prodReport()
	}
}

// unproven are sentences for namespaces in which something was repaired and not
// proven since.
func (n *namespaces) unproven() []string {
	var all []string
	for _, ns := range n.all() {
		ns.mu.Lock()
		if ns.ever && !ns.proven && len(all) < maxNamespacesNamed {
			all = append(all, "a network namespace of "+ns.name+": not proven again since something was repaired")
		}
		ns.mu.Unlock()
	}
	return all
}

const (
	// countedEach is how many tables are read for their counters in one interval, and
	// countEvery how often each of them: unlike a comparison that takes several
	// questions to the kernel.
	countedEach = 32
	countEvery  = 4 * time.Second
)

// reportRejected tells the worker what the tables rejected since the last time.
func (n *namespaces) reportRejected() {
	if n.k.currentWorker() == nil {
		return
	}
	all := n.all()
	news := make(map[protocol.Rejected]uint64)
	type seen struct {
		ns                *namespace
		rejected, dropped map[uint64]uint64
	}
	var told []seen
	now := time.Now()
	for _, ns := range all {
		if len(told) >= countedEach {
			break // the others next time: the order is that of a map
		}
		ns.mu.Lock()
		if ns.closed || now.Before(ns.nextCount) {
			ns.mu.Unlock()
			continue
		}
		ns.nextCount = now.Add(countEvery)
		c, err := ns.guard.Counters()
		if err == nil {
			for _, r := range newlyRejected(c.Cgroups, ns.rejected, n.k.prober.cgroup.ID()) {
				news[protocol.Rejected{Cgroup: r.Cgroup}] += r.Packets
			}
			for _, r := range newlyRejected(c.InboundCgroups, ns.dropped, n.k.prober.cgroup.ID()) {
				news[protocol.Rejected{Cgroup: r.Cgroup, Inbound: true}] += r.Packets
			}
			told = append(told, seen{ns, c.Cgroups, c.InboundCgroups})
		}
		ns.mu.Unlock()
	}
	if len(news) > 0 {
		args := protocol.KernelArgs{}
		for r, packets := range news {
			r.Packets = packets
			args.Rejected = append(args.Rejected, r)
		}
		if err := n.k.tell(protocol.Kernel, args); err != nil {
			n.log.Warn("rejected packets were not recorded", zap.Error(err))
			return
		}
	}
	for _, s := range told {
		s.ns.mu.Lock()
		s.ns.rejected, s.ns.dropped = s.rejected, s.dropped
		s.ns.mu.Unlock()
	}
}

// rejectedPackets counts what all tables refused, those of closed namespaces
// among them.
func (n *namespaces) rejectedPackets() uint64 {
	n.mu.Lock()
	sum := n.rejected
	n.mu.Unlock()
	for _, ns := range n.all() {
		sum += n.refusedIn(ns)
	}
	return sum
}

func (n *namespaces) refusedIn(ns *namespace) uint64 {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.closed {
		return 0
	}
	c, err := ns.guard.Counters()
	if err != nil {
		return ns.counted
	}
	ns.counted = c.Rejected()
	return ns.counted
}

// count keeps what the table of a namespace has counted, which is about to be
// closed.
func (n *namespaces) count(ns *namespace) {
	refused := n.refusedIn(ns)
	n.mu.Lock()
	n.rejected += refused
	n.mu.Unlock()
}
