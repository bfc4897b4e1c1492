package agent

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/admin"
	"sallyport/pkg/audit"
	"sallyport/pkg/balance"
	"sallyport/pkg/ca"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/wire"
	"sallyport/pkg/metrics"
	"sallyport/pkg/proxy"
	"sallyport/pkg/resolver"
	"sallyport/pkg/stage"
	"sallyport/pkg/upstream"
)

// A worker is everything between an accepted connection and its audit event.
type worker struct {
	args       *protocol.StartArgs
	keeper     *wire.Peer
	log        *zap.Logger
	files      files
	audit      *audit.Log
	sinks      sinks
	metrics    *metrics.Metrics
	own        *own
	identities *identities
	leaves     *ca.Leaves
	pool       *upstream.Pool
	resolver   *resolver.Resolver
	stages     *stage.Set
	balance    *balance.Set
	proxy      *proxy.Proxy
	snapshots  *snapshots

	namespaces namespaces

	config atomic.Pointer[settings]
	report atomic.Pointer[protocol.HealthArgs]

	// serving ends when nothing more is accepted, working when what was accepted has
	// ended; the audit goes on until everything else ended.
	serving, working context.Context
	cancel, endWork  context.CancelFunc
	running, workers sync.WaitGroup
	auditor          sync.WaitGroup
	endLog           context.CancelFunc
}

// newWorker puts everything together; run starts it. It owns the descriptors in
// every case.
func newWorker(keeper *wire.Peer, args *protocol.StartArgs, descriptors []*os.File, newLogger func(level, format string) *zap.Logger) (*worker, error) {
	w := &worker{args: args, keeper: keeper}
	s, err := parse(&args.Config, nil)
	if err != nil {
		return nil, err
	}
	w.config.Store(s)
	w.log = newLogger(string(s.config.Log.Level), string(s.config.Log.Format))
	if args.Standalone {
		w.log = zap.NewNop() // standard error is the command's
	}
	if err := w.files.take(args, descriptors); err != nil {
		return nil, err
	}
	ours := args.Listeners
	if at := s.config.Metrics.Listen; at.IsValid() && !args.Standalone {
		ours = append(ours, at)
	}
	if w.own, err = newOwn(args.Netns, ours); err != nil {
		return nil, err
	}
	steps := []func() error{w.openAudit, w.openMetrics, w.openIdentities, w.openLeaves, w.openUpstream, w.openResolver, w.openStages, w.openBalance, w.openProxy}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	w.serving, w.cancel = context.WithCancel(context.Background())
	w.working, w.endWork = context.WithCancel(context.Background())
	w.setHealth(&args.Health)
	return w, nil
}

func (w *worker) openMetrics() error {
	w.snapshots = newSnapshots(w)
	w.metrics = metrics.New(metrics.Options{
		Version: w.args.Version, Revision: revision(), Datapath: w.snapshots, Guard: w.snapshots, Host: w.snapshots, Audit: w.audit,
		HTTP2Closed: func(yield func(string, uint64) bool) { w.proxy.HTTP2Closed(yield) },
		Targets:     w.targetHealth,
		Resources:   w.resources, Runtime: true,
	})
	w.metrics.SetReload(true, time.Now())
	return nil
}

// revision is the commit that the binary was built from, "" where the build did
// not know it.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}

func (w *worker) openIdentities() (err error) {
	w.identities, err = newIdentities(w.keeper)
	return err
}

func (w *worker) openLeaves() (err error) {
	w.leaves, err = ca.NewLeaves(w.args.Issuer, ca.DefaultLeaves)
	return err
}

func (w *worker) openUpstream() error {
	trust, err := trustOf(w.config.Load().config, &w.args.Config)
	if err != nil {
		return err
	}
	w.pool, err = upstream.New(upstream.Options{Trust: trust, ConnectTimeout: w.config.Load().config.Timeouts.Connect})
	return err
}

func (w *worker) openResolver() (err error) {
	w.resolver, err = resolver.New(resolver.Options{
		Askers:    &askers{origin: w.originSource(), identities: w.identities},
		Names:     &names{w},
		Recorder:  &dnsRecorder{w},
		Meter:     &dnsMeter{w.metrics},
		Upstreams: w.config.Load().config.DNS.Upstreams,
		Original:  w.config.Load().config.DNS.Original,
		Dial:      w.dialOriginal,
	})
	if err == nil {
		w.resolver.SetReserved(w.config.Load().policy.Proxied())
	}
	return err
}

func (w *worker) openProxy() (err error) {
	s := w.config.Load()
	w.proxy, err = proxy.New(proxy.Options{
		Origin:     w.originSource(),
		Identities: w.identities,
		Resolver:   w.resolver,
		Leaves:     w.leaves,
		Audit:      w.audit,
		Own:        w.own,
		Metrics:    w.metrics,
		Upstream:   w.pool,
		Log:        w.log.Named("proxy"),
		DNS:        w.serveDNS,
		Probe:      w.probe,
		Standins:   w.resolver,
	}, s.proxySettings(s.config.Timeouts))
	return err
}

// run starts everything; failed is told when something that must go on ends.
func (w *worker) run(failed func(error)) {
	logging, endLog := context.WithCancel(context.Background())
	w.endLog = endLog
	w.auditor.Go(func() {
		if err := w.audit.Run(logging); err != nil {
			failed(fmt.Errorf("audit: %w", err))
		}
	})
	begin := func(all *sync.WaitGroup, ctx context.Context, name string, f func(context.Context) error) {
		all.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				w.log.Error("ended", zap.String("part", name), zap.Error(err))
				failed(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	work := func(name string, f func(context.Context) error) { begin(&w.workers, w.working, name, f) }
	work("memory", keepMemory)
	work("host addresses", func(ctx context.Context) error { return w.own.book.Run(ctx, nil) })
	work("upstream pool", w.pool.Run)
	work("resolver", w.resolver.Run)
	work("stages", w.stages.Run)
	work("health checks", w.balance.Run)
	work("proxy", w.proxy.Run)
	start := func(name string, f func(context.Context) error) { begin(&w.running, w.serving, name, f) }
	for _, l := range w.files.tcp {
		start("listener", func(ctx context.Context) error { return w.proxy.Serve(ctx, l) })
	}
	for _, c := range w.files.dns {
		start("dns", func(ctx context.Context) error { return w.resolver.ServeUDP(ctx, c, w.args.Netns) })
	}
	if w.files.admin != nil {
		start("admin", w.serveAdmin)
	}
	if w.files.metrics != nil {
		web := admin.Web{Metrics: w.metrics.Handler(), Ready: w.Ready, Log: w.log.Named("web")}
		start("metrics", func(ctx context.Context) error { return web.Serve(ctx, w.files.metrics) })
	}
	w.audit.Record(&audit.Event{Kind: audit.Lifecycle, Mode: string(w.config.Load().config.Mode), Message: "worker started, version " + w.args.Version})
}

// stop ends accepting, lets running exchanges go on for the time given, and then
// writes what is left of the audit.
func (w *worker) stop(drain time.Duration) error {
	s := w.config.Load()
	timeouts := s.config.Timeouts
	timeouts.Drain = drain
	w.proxy.Apply(s.proxySettings(timeouts))
	w.cancel()
	w.running.Wait()
	w.endWork()
	w.workers.Wait()
	if err := w.stages.Close(); err != nil {
		w.log.Warn("stages", zap.Error(err))
	}
	w.audit.Record(&audit.Event{Kind: audit.Lifecycle, Message: "worker stopped"})
	w.endLog()
	w.auditor.Wait()
	return w.sinks.close()
}

// setHealth takes what the keeper found out.
func (w *worker) setHealth(h *protocol.HealthArgs) {
	old := w.report.Swap(h)
	w.metrics.SetEnforcementActive(h.EnforcementActive)
	w.metrics.SetLocks(h.Locks)
	if h.ConfigError != "" && (old == nil || old.ConfigError != h.ConfigError) {
		w.metrics.SetReload(false, time.Now())
	}
	for _, sentence := range h.Lifecycle {
		w.audit.Record(&audit.Event{Kind: audit.Lifecycle, Message: sentence})
	}
}

// resources lists every bounded thing of both processes.
func (w *worker) resources() []metrics.Resource {
	r := append(w.proxy.Resources(), w.identities.resources()...)
	r = append(r, metrics.Resource{Name: "leaves", Entries: uint64(w.leaves.Entries()), Capacity: uint64(w.leaves.Capacity())})
	for _, f := range w.resolver.Figures() {
		r = append(r, metrics.Resource{Name: f.Name, Entries: uint64(f.Entries), Capacity: uint64(f.Capacity)})
	}
	r = append(r, w.checkResource())
	r = append(r, w.stageResources()...)
	return append(r, w.snapshots.resources()...)
}
