// Package keeper is the privileged half of sallyport: it owns the kernel's
// programs and tables, the listeners, the root key and the audit files, starts
// the worker and the commands of `exec`, and proves again and again that the
// gate is shut. It parses nothing that a workload or an upstream wrote.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"sallyport/pkg/admin/socket"
	"sallyport/pkg/audit/file"
	"sallyport/pkg/ca"
	"sallyport/pkg/config"
	"sallyport/pkg/datapath"
	"sallyport/pkg/engine"
	"sallyport/pkg/keeper/store"
	"sallyport/pkg/netns"
	"sallyport/pkg/policy"
	"sallyport/pkg/workload"
)

// Options say what a Keeper keeps.
type Options struct {
	Instance Instance
	// ConfigPath is the file that Reload reads; empty: the built-in
	// configuration.
	ConfigPath string
	// Standalone is set for an `exec` without a daemon: free ports, no admin
	// and metrics listeners, and Audit in place of the configured file.
	Standalone bool
	// Apart is set where the worker is a service of its own, which connects; else
	// the keeper starts it.
	Apart bool
	// Store keeps listeners beyond the process; nil: nobody does.
	Store *store.Store
	// Audit, where it has a path, replaces the configured audit file.
	Audit file.Options
	// Version is the version of the binary.
	Version string
	Log     *zap.Logger
}

// A Keeper is one running instance.
type Keeper struct {
	options Options
	log     *zap.Logger
	gate    *gate
	// root is the certificate authority in use; a rotation puts another in its place.
	root   atomic.Pointer[ca.Root]
	trust  *ca.Trust
	issued atomic.Pointer[ca.Material]
	audit  *file.Files
	prober *prober
	// namespaces are the other network namespaces of workloads.
	namespaces *namespaces
	// own are the host's addresses.
	own *netns.AddressBook
	// admin is the socket of the admin API; nil for a standalone instance.
	admin *socket.Socket
	// metrics is the listener of /metrics once a worker has needed it; nil where
	// it is off. It belongs to whoever hands over.
	metrics *os.File

	engines  *engine.Engines
	registry *workload.Registry
	claims   claims

	mu sync.Mutex
	// config is the configuration in force, with its sources.
	config  *config.Config
	policy  *policy.Policy
	sources []config.File
	// configErr is what the last reload said.
	configErr error
	reloading sync.Mutex
	reporting sync.Mutex
	// aside are calls of the worker for which their caller did not wait; they end
	// with its connection at the latest.
	aside      sync.WaitGroup
	generation uint64
	worker     *process
	// workers are those that have connected: the one that serves, those that
	// wait and those that drain. Empty where we start them ourselves.
	workers []*process
	// prestarted is the first worker until it is taken.
	prestarted *prestarted
	// proven is the worker with which the self-probe last succeeded.
	proven *process
	// serving is set while a started worker answers.
	serving bool
	health  health
	// direct remembers what the kernel was told, to tell it only changes.
	direct   directState
	applying sync.Mutex
	// rejectedSeen and droppedSeen are what of the guard's refusals was recorded,
	// by cgroup; they belong to reportRejections.
	rejectedSeen, droppedSeen map[uint64]uint64

	// armed is closed once workers of their own can connect.
	armed chan struct{}
	// ready is closed once both probes answered as they must for the first time.
	ready     chan struct{}
	readyOnce sync.Once
	// told is closed once a worker was told of that.
	told     chan struct{}
	toldOnce sync.Once
	// prod asks for a comparison of both locks now.
	prod chan struct{}
	// reprobe asks for a self-probe now, reports that the worker be told.
	reprobe, reports chan struct{}
	// commands numbers the commands of the daemon, callers counts them by user.
	commands atomic.Uint64
	callers  callers
	// rotateAt is the size from which on the running worker rotates the audit file.
	rotateAt atomic.Int64
	running  running
	// events are the kernel's that wait for the worker.
	events chan datapath.Event
	// compared is when both locks were last compared, in ns since 1970.
	compared atomic.Int64
	// eventsLost counts kernel events that did not reach a worker.
	eventsLost atomic.Uint64
	foreign    foreignSockets
	concerns   concerns
	clock      clock
}

// LoadConfig reads the configuration; without a path it is the built-in one in
// the given mode.
func LoadConfig(path string, builtin config.Mode) (*config.Config, []config.File, error) {
	if path == "" {
		return config.Default(builtin), nil, nil
	}
	return config.Load(path)
}

// builtin is the mode without a configuration file. An `exec` of its own then
// observes; the daemon enforces, so that a lost file does not open the gate.
func (o *Options) builtin() config.Mode {
	if o.Standalone {
		return config.Observe
	}
	return config.Enforce
}

// Open sets the instance up, with its gate shut. Run makes it serve; Close
// leaves the gate shut, Remove takes everything away. It sets the process's
// umask.
func Open(o Options) (*Keeper, error) {
	// The modes of files are what the code says: trust files that a command
	// cannot read are no trust, whatever umask its caller has.
	unix.Umask(0o022)
	c, sources, err := LoadConfig(o.ConfigPath, o.builtin())
	if err != nil {
		return nil, err
	}
	p, err := policy.Compile(c)
	if err != nil {
		return nil, err
	}
	if o.Standalone {
		c.Listen = config.Listen{}
	}
	k := &Keeper{
		options: o, log: o.Log, config: c, policy: p, sources: sources, generation: 1,
		armed: make(chan struct{}), ready: make(chan struct{}), told: make(chan struct{}), prod: make(chan struct{}, 1), reprobe: make(chan struct{}, 1), reports: make(chan struct{}, 1),
		events: make(chan datapath.Event, eventQueue),
	}
	// The authority is only files; it is ready by the time that the kernel is.
	authority := make(chan error, 1)
	go func() { authority <- k.openAuthority() }()
	k.gate, err = openGate(o.Instance, c, o.Store, o.Log.Named("gate"))
	if err == nil && !o.Apart {
		k.prestart() // in our own cgroup, which we are in now
	}
	if aerr := <-authority; err == nil && aerr != nil {
		k.dropWorker()
		k.gate.abandon(false)
		err = aerr
	}
	if err != nil {
		return nil, err
	}
	if err := k.furnish(); err != nil {
		k.dropWorker()
		k.gate.abandon(false)
		return nil, err
	}
	if why := k.gate.replaced; why != nil {
		k.note("programs and maps of another version replaced: " + why.Error())
	}
	return k, nil
}

// openAuthority opens the certificate authority and builds the trust directory.
func (k *Keeper) openAuthority() error {
	root, err := ca.OpenRoot(k.config.TLS.CADir)
	if err != nil {
		return err
	}
	k.root.Store(root)
	m, err := root.Issue(time.Now())
	if err != nil {
		return err
	}
	k.issued.Store(&m)
	k.trust, err = ca.NewTrust(ca.TrustOptions{
		Shared:    filepath.Join(k.config.StateDir, trustDir),
		Workloads: k.options.Instance.Trust(),
		Root:      root.PEM(),
		Log:       k.log.Named("trust"),
	})
	if err != nil {
		return err
	}
	return k.trust.Build()
}

// furnish opens what needs the gate or the configuration.
func (k *Keeper) furnish() (err error) {
	if k.engines, err = engine.New(engine.Sockets[:]...); err != nil {
		return err
	}
	if k.registry, err = workload.NewRegistry(entries(k.config), k.gate.tree, k.engines); err != nil {
		return err
	}
	k.openClaims()
	if k.own, err = netns.NewAddressBook(nil); err != nil {
		return fmt.Errorf("host addresses: %w", err)
	}
	if slices.Contains(k.config.Audit.Sinks, config.SinkFile) {
		if k.audit, err = file.Open(k.auditOptions()); err != nil {
			return err
		}
	}
	k.prober, err = openProber(k.gate, k.rejected)
	if err != nil {
		return err
	}
	if k.namespaces, err = k.openNamespaces(); err != nil {
		return err
	}
	if !k.options.Standalone {
		k.admin, err = k.listenUnix(storedAdmin, socket.Options{Path: k.config.Admin.Socket, Group: k.config.Admin.Group})
		if err != nil {
			return err
		}
		if k.admin.Warning != "" {
			k.log.Warn(k.admin.Warning)
		}
	}
	if err := k.gate.setOwnAddresses(k.servedAddresses()...); err != nil {
		return fmt.Errorf("bpf: own addresses: %w", err)
	}
	return k.applyDirect()
}

// rejected reads how many packets of the self-probe the guard refused.
func (k *Keeper) rejected() (uint64, error) {
	c, err := k.gate.guard.Counters()
	return c.Cgroups[k.prober.cgroup.ID()], err
}

// auditOptions says which audit file this instance writes.
func (k *Keeper) auditOptions() file.Options {
	if k.options.Audit.Path != "" {
		return k.options.Audit
	}
	a := k.config.Audit.File
	return file.Options{Path: a.Path, UID: -1, GID: -1, MaxFiles: a.MaxFiles}
}

// Ready is closed once the worker serves, the self-probe succeeded, and the worker,
// which answers for the status, was told so.
func (k *Keeper) Ready() <-chan struct{} { return k.told }

// Armed is closed once the gate is shut, the listeners are held and a worker that
// is a service of its own can connect.
func (k *Keeper) Armed() <-chan struct{} { return k.armed }

// Run serves until ctx ends, then lets running exchanges drain. It returns
// early only if the instance cannot be kept.
func (k *Keeper) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	start := func(name string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	if k.options.Apart {
		start("workers", k.superviseApart)
	} else {
		start("worker", k.supervise)
	}
	start("watch", k.watch)
	start("tidy", k.tidy)
	start("rejected packets", k.reportRejections)
	start("guard notices", func(ctx context.Context) error { return k.gate.guard.Watch(ctx, k.prodWatch) })
	start("probe", k.probeLoop)
	start("network namespaces", k.namespaces.run)
	start("guards of network namespaces", k.namespaces.guardLoop)
	start("probes of network namespaces", k.namespaces.prove)
	start("worker of network namespaces", k.namespaces.tellLoop)
	start("reports", k.reportLoop)
	start("kernel events", k.forwardEvents)
	start("issuing certificate", func(ctx context.Context) error { return ca.Renew(ctx, k.currentRoot, k.renew) })
	start("trust", k.trust.Run)
	start("host addresses", func(ctx context.Context) error {
		return k.own.Run(ctx, func([]netip.Prefix) { k.prodWatch() })
	})
	start("exec", k.serveExec)
	start("hidden sockets", k.hideAgain)
	start("cgroups outside of the slice", k.watchClaims)
	start("foreign sockets", k.watchForeign)
	start("room", k.watchRoom)
	start("clock", k.watchClock)
	start("configuration file", k.watchConfig)
	<-ctx.Done()
	wg.Wait()
	k.aside.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// Close ends this process's part and leaves the gate shut.
func (k *Keeper) Close() {
	k.closeFiles()
	k.namespaces.release()
	k.gate.release()
}

// closeFiles closes what is neither the kernel's nor the worker's.
func (k *Keeper) closeFiles() {
	k.dropWorker()
	k.prober.close()
	if k.audit != nil {
		k.audit.Close()
	}
	if k.admin != nil {
		k.leaveUnix(k.admin)
	}
	if k.metrics != nil {
		k.metrics.Close()
	}
}

// Remove takes the instance away from the host. It fails with a *Busy while
// something runs in the tagged cgroup.
func (k *Keeper) Remove(ctx context.Context) error {
	k.closeFiles()
	if err := k.gate.remove(ctx); err != nil {
		return err
	}
	return k.namespaces.remove()
}

// prodWatch asks for a comparison now instead of at the next tick.
func (k *Keeper) prodWatch() {
	select {
	case k.prod <- struct{}{}:
	default:
	}
}
