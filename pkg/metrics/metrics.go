// Package metrics counts what happens on the hot path and shows it, together
// with snapshots of the kernel's figures, on one Prometheus page.
//
// The hot path holds handles (Workload, Rule): it looks a name up once per
// connection and then only adds to atomics. Everything else is read when the
// page is asked for: each collector is one file and owns the names of its
// families. Dashboards rely on names and labels; testdata/page.txt shows them all.
package metrics

import (
	"iter"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sallyport/pkg/exchange"
)

const namespace = "sallyport"

// Options says where the figures come from. A source that is nil leaves its
// families out of the page.
type Options struct {
	// Version and Revision are shown by build_info.
	Version, Revision string
	// Datapath, Guard and Audit are asked once per page, at the same time by at
	// most one.
	Datapath Datapath
	Guard    Guard
	Host     Host
	Audit    Audit
	// HTTP2Closed gives how often HTTP/2 connections and streams were ended to
	// protect us, by cause; nil: none.
	HTTP2Closed iter.Seq2[string, uint64]
	// Targets walks the targets of all upstreams; nil: none.
	Targets iter.Seq[Target]
	// Resources lists every bounded thing outside this package.
	Resources func() []Resource
	// Runtime adds the go_ and process_ families of this process.
	Runtime bool
	// Now is the clock by which workloads leave; nil: time.Now.
	Now func() time.Time
}

// Metrics is everything on the page.
type Metrics struct {
	o        Options
	table    table
	registry *prometheus.Registry

	enforcement atomic.Bool
	locks       atomic.Int32
	reload      reload
	handshakes  [sides][results]atomic.Uint64
	foreign     foreignSockets
	cache       [exchange.CacheStatuses]atomic.Uint64
}

// New makes the page. It starts nothing.
func New(o Options) *Metrics {
	if o.Now == nil {
		o.Now = time.Now
	}
	m := &Metrics{o: o, registry: prometheus.NewRegistry()}
	m.table.init(o.Now)
	m.registry.MustRegister(
		newFlowCollector(m),
		newRequestCollector(m),
		newDeniedCollector(m),
		newLimitedCollector(m),
		newCacheCollector(m),
		newTLSCollector(m),
		newDNSCollector(m),
		newResourceCollector(m),
		newStateCollector(m),
		newForeignCollector(m),
	)
	if o.Datapath != nil {
		m.registry.MustRegister(newBPFCollector(o.Datapath))
	}
	if o.HTTP2Closed != nil {
		m.registry.MustRegister(newHTTP2Collector(o.HTTP2Closed))
	}
	if o.Targets != nil {
		m.registry.MustRegister(newTargetCollector(o.Targets))
	}
	if o.Guard != nil {
		m.registry.MustRegister(newGuardCollector(o.Guard))
	}
	if o.Host != nil {
		m.registry.MustRegister(newHostCollector(o.Host))
	}
	if o.Audit != nil {
		m.registry.MustRegister(newAuditCollector(o.Audit))
	}
	if o.Runtime {
		m.registry.MustRegister(
			collectors.NewGoCollector(),
			collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		)
	}
	return m
}

// The page's own bounds: a scrape that hangs must not gather others behind it.
const (
	maxScrapes    = 4
	scrapeTimeout = 10 * time.Second
)

// Handler serves the page. A collector that fails leaves its families out and
// the rest of the page stays. Above 4 requests at a time it answers 503.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
		Timeout:             scrapeTimeout,
	})
}

// Gatherer gives the families to tests and to other ways of export.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// SetEnforcementActive is what the self-probe found last.
func (m *Metrics) SetEnforcementActive(active bool) { m.enforcement.Store(active) }

// SetLocks is how many locks are to be in force.
func (m *Metrics) SetLocks(n int) { m.locks.Store(int32(n)) }

// SetReload is the outcome of the last reload, the one at start too.
func (m *Metrics) SetReload(ok bool, at time.Time) { m.reload.set(ok, at) }

func goVersion() string { return runtime.Version() }
