package keeper

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/audit/file"
	"sallyport/pkg/ca"
	"sallyport/pkg/config"
	"sallyport/pkg/keeper/protocol"
)

const (
	// maxWithoutWorker is how long new connections wait in the listeners while
	// no worker runs. Then the listeners are closed and connects fail at once.
	maxWithoutWorker = 10 * time.Second
	// attendInterval is how often a worker is asked whether it still answers.
	attendInterval = time.Second
	// workerStart bounds the start of a worker.
	workerStart = 10 * time.Second
)

// supervise keeps a worker running: a new one at once after the first end, and
// later ever slower, at least every 5 s.
func (k *Keeper) supervise(ctx context.Context) error {
	var pause time.Duration
	lost := time.Now()
	for first := true; ; first = false {
		started := time.Now()
		err := k.runWorker(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if first && !k.isReady() {
			return err // a start that fails is reported, not repeated
		}
		if time.Since(started) > maxWithoutWorker {
			pause = 0
			lost = time.Now()
		}
		k.log.Error("the worker ended", zap.Error(err), zap.Duration("next_start_in", pause))
		k.note("worker ended: " + err.Error())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		if time.Since(lost) > maxWithoutWorker && k.gate.listening() {
			k.gate.unlisten()
			k.note("no worker for 10 s: listeners closed")
		}
		pause = min(2*pause+100*time.Millisecond, 5*time.Second)
	}
}

// runWorker starts one worker and waits for its end.
func (k *Keeper) runWorker(ctx context.Context) error {
	// The worker is stopped by us, after it drained, not by the context.
	alive, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	w, err := k.takeWorker(alive)
	if err != nil {
		return err
	}
	if err := k.handOver(ctx, w); err != nil {
		cancel()
		<-w.done
		return fmt.Errorf("start worker: %w", err)
	}
	k.setWorker(w)
	var attending sync.WaitGroup
	hangs := make(chan error, 1)
	attending.Go(func() { hangs <- k.attend(alive, w) })
	var hung error
	select {
	case <-w.done:
	case hung = <-hangs:
	case <-ctx.Done():
		k.drain(w)
	}
	k.setWorker(nil)
	cancel()
	<-w.done
	attending.Wait()
	if hung != nil {
		return hung
	}
	if w.err == nil {
		w.err = errors.New("worker ended")
	}
	return w.err
}

// attend asks the worker again and again whether it is there, and returns an
// error when it does not answer: a process that hangs serves as little as one
// that has ended, and connections must not wait for it for ever.
func (k *Keeper) attend(ctx context.Context, w *process) error {
	for range every(ctx, attendInterval, nil) {
		asked, cancel := context.WithTimeout(ctx, maxWithoutWorker)
		_, err := w.peer.Call(asked, protocol.Health, k.healthArgs(), nil, nil)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return fmt.Errorf("the worker did not answer for %s and was replaced", maxWithoutWorker)
		}
	}
	return nil
}

// drain lets running exchanges end, within timeouts.drain. A standalone instance
// stops because its command has ended: nobody is left who waits for an answer.
func (k *Keeper) drain(w *process) {
	k.mu.Lock()
	limit := k.config.Timeouts.Drain
	k.mu.Unlock()
	if k.options.Standalone {
		limit = 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit+2*time.Second)
	defer cancel()
	if _, err := w.peer.Call(ctx, protocol.Stop, protocol.StopArgs{DrainSeconds: limit.Seconds()}, nil, nil); err != nil {
		k.log.Warn("worker did not drain", zap.Error(err))
	}
}

// handOver gives a new worker everything it needs and waits until it serves.
func (k *Keeper) handOver(ctx context.Context, w *process) error {
	ctx, cancel := context.WithTimeout(ctx, workerStart)
	defer cancel()
	if !k.gate.listening() {
		if err := k.relisten(); err != nil {
			return err
		}
	}
	roles, files, err := k.gate.ls.files()
	defer func() { closeFiles(files) }()
	if err != nil {
		return err
	}
	add := func(role protocol.Role, f *os.File, err error) error {
		if err != nil {
			return fmt.Errorf("%s descriptor: %w", role, err)
		}
		if f != nil {
			roles, files = append(roles, role), append(files, f)
		}
		return nil
	}
	var accepted, askers *os.File
	var err1, err2 error
	if !k.gate.oneLock() {
		accepted, err1 = k.gate.data.AcceptedMap()
		askers, err2 = k.gate.data.AskerMap()
	}
	audit, end, err3 := k.auditFile()
	admin, err4 := k.adminListener()
	metrics, err5 := k.metricsListener()
	counters, err7 := k.counters()
	if err := errors.Join(
		add(protocol.RoleAccepted, accepted, err1),
		add(protocol.RoleAskers, askers, err2),
		add(protocol.RoleAudit, audit, err3),
		add(protocol.RoleAdmin, admin, err4),
		add(protocol.RoleMetrics, metrics, err5),
		add(protocol.RoleCounters, counters, err7),
	); err != nil {
		return err
	}
	args, err := k.startArgs(roles, end)
	if err != nil {
		return err
	}
	if _, err := w.peer.Call(ctx, protocol.Start, args, files, nil); err != nil {
		return err
	}
	return nil
}

// auditFile gives the audit's file and how it ends; nil where no sink is one.
func (k *Keeper) auditFile() (*os.File, file.End, error) {
	if k.audit == nil {
		return nil, file.End{}, nil
	}
	end, err := k.auditEnd()
	if err != nil {
		return nil, end, err
	}
	f, err := k.audit.Descriptor()
	return f, end, err
}

// auditEnd looks at the end of the audit. A worker that drains may be writing just
// now: the kernel shows a part of what it writes, and that is not torn.
func (k *Keeper) auditEnd() (file.End, error) {
	end, err := k.audit.End()
	for range 10 {
		if err != nil || !end.Torn || len(k.draining()) == 0 {
			break
		}
		time.Sleep(2 * time.Millisecond)
		end, err = k.audit.End()
	}
	return end, err
}

func (k *Keeper) startArgs(roles []protocol.Role, end file.End) (*protocol.StartArgs, error) {
	conf, err := k.configuration()
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	k.rotateAt.Store(int64(k.config.Audit.File.MaxSize))
	k.mu.Unlock()
	tcp, dns := k.gate.ls.addresses()
	return &protocol.StartArgs{
		Roles:      roles,
		Config:     *conf,
		Issuer:     *k.issued.Load(),
		Standalone: k.options.Standalone,
		Netns:      k.gate.ls.cookie,
		Probe:      protocol.Probe{Cgroup: k.prober.cgroup.ID(), Captured: []netip.AddrPort{k.prober.to.captured}},
		Listeners:  append(tcp, dns...),
		Slice:      k.gate.tagged.Path(),
		AdminGroup: k.adminGroup(),
		AuditEnd:   end.Line,
		AuditTorn:  end.Torn,
		Version:    k.options.Version,
		Health:     k.healthArgs(),
		Redirected: k.gate.oneLock(),
	}, nil
}

// configuration gives the configuration in force as bytes for the worker.
func (k *Keeper) configuration() (*protocol.Configuration, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := &protocol.Configuration{Generation: k.generation, Builtin: k.options.builtin()}
	for _, s := range k.sources {
		out.Sources = append(out.Sources, protocol.Source{Name: s.Name, Data: s.Data})
	}
	roots, err := readRoots(k.config)
	if err != nil {
		return nil, err
	}
	out.Roots = roots
	if out.Passwords, err = readPasswords(k.config); err != nil {
		return nil, err
	}
	out.Certificates, err = readCertificates(k.config)
	return out, err
}

// readRoots reads tls.upstream_ca_files, which the worker may not be able to.
func readRoots(c *config.Config) ([]protocol.Source, error) {
	var out []protocol.Source
	for _, name := range c.TLS.UpstreamCAFiles {
		data, err := readBounded(name, "")
		if err != nil {
			return nil, fmt.Errorf("tls.upstream_ca_files: %w", err)
		}
		out = append(out, protocol.Source{Name: name, Data: data})
	}
	return out, nil
}

// relisten opens the listeners again after they were closed.
func (k *Keeper) relisten() error {
	k.mu.Lock()
	ports := k.config.Listen
	k.mu.Unlock()
	if err := k.gate.listen(ports.TCP, ports.DNS); err != nil {
		return err
	}
	return k.gate.setOwnAddresses(k.servedAddresses()...)
}

// servedAddresses are the addresses of ours that are not listeners for
// workloads.
func (k *Keeper) servedAddresses() []netip.AddrPort {
	if k.options.Standalone || !k.config.Metrics.Listen.IsValid() {
		return nil
	}
	return []netip.AddrPort{k.config.Metrics.Listen}
}

// adminGroup is the group that may read over the admin socket, -1 for none.
func (k *Keeper) adminGroup() int {
	if k.admin == nil {
		return -1
	}
	return k.admin.GroupID
}

// adminListener duplicates the listener of the admin socket; nil where there is
// none.
func (k *Keeper) adminListener() (*os.File, error) {
	if k.admin == nil {
		return nil, nil
	}
	return k.admin.Listener.File()
}

// renew hands a new issuing certificate to the worker.
func (k *Keeper) renew(m ca.Material) error {
	k.issued.Store(&m)
	return k.tell(protocol.Renew, m)
}

// tell calls a method of the worker, if one runs.
func (k *Keeper) tell(method string, args any) error {
	k.mu.Lock()
	w := k.worker
	k.mu.Unlock()
	if w == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), workerStart)
	defer cancel()
	_, err := w.peer.Call(ctx, method, args, nil, nil)
	return err
}

func (k *Keeper) isReady() bool {
	select {
	case <-k.ready:
		return true
	default:
		return false
	}
}
