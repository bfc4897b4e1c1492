// Package protocol names what the keeper and the worker say to each other.
// Both are the same binary at the same version, so there is no negotiation:
// an unknown method or member is an error.
package protocol

import (
	"fmt"
	"net/netip"
	"time"

	"sallyport/pkg/ca"
	"sallyport/pkg/config"
	"sallyport/pkg/datapath"
	"sallyport/pkg/workload"
)

// YieldTimeout bounds Yield, whoever asks for it: on a starved host too. It is shorter
// than TimeoutStopSec= of the units. What a worker has accepted is lost if it is killed
// because it did not answer.
const YieldTimeout = 8 * time.Second

// What the keeper asks of the worker.
const (
	// Start hands over everything that the worker needs; it returns when the
	// worker serves.
	Start = "start"
	// Configure brings a validated configuration; the worker swaps it in.
	Configure = "configure"
	// Renew brings a new issuing certificate.
	Renew = "renew"
	// Kernel is a notice with events of the ring buffer.
	Kernel = "kernel"
	// Health is a notice with what the keeper found out about enforcement.
	Health = "health"
	// Stop asks the worker to drain and leave.
	Stop = "stop"
	// Yield asks a worker that is a service of its own to give up its listeners now
	// and to drain by itself; it returns when the listeners are given up and
	// whoever was accepted is known.
	Yield = "yield"
	// Rotated is a notice: another worker has put the audit file aside.
	Rotated = "rotated"
	// Refused is a notice: the keeper does not take this worker.
	Refused = "refused"
)

// What the worker asks of the keeper. None of it can open the gate.
const (
	// Identify names the workload of a flow.
	Identify = "identify"
	// Snapshot reads the kernel's figures.
	Snapshot = "snapshot"
	// Rotate puts the audit file aside and gives an empty one; Reopen gives the
	// one that has the name now.
	Rotate = "rotate"
	Reopen = "reopen"
	// Reload reads the configuration again.
	Reload = "reload"
	// Leave says that the worker has given up its listeners: the next one may
	// have them.
	Leave = "leave"
)

// What the main process of a worker's service asks of the worker, besides Yield
// and Reload.
const (
	// Ping asks how it is.
	Ping = "ping"
)

// What a worker says of itself before it serves and after.
const (
	StatusWaiting   = "waiting for sallyport-keeper.service"
	StatusConnected = "waiting for another worker to give up the listeners"
	StatusDraining  = "draining"
)

// PingResult is the result of Ping.
type PingResult struct {
	// Ready is set once the self-probe has proven what this worker serves.
	Ready bool `json:"ready"`
	// Left is set once the listeners are given up.
	Left bool `json:"left"`
	// Status is a line for a person.
	Status string `json:"status"`
}

// A Role says what a descriptor of Start is for.
type Role string

// The roles. Listeners of both families have the same role.
const (
	RoleTCP      Role = "tcp"
	RoleDNS      Role = "dns"
	RoleAccepted Role = "accepted"
	RoleAskers   Role = "askers"
	RoleAudit    Role = "audit"
	RoleAdmin    Role = "admin"
	RoleMetrics  Role = "metrics"
	// RoleCounters is the file of rate limits; none for an exec.
	RoleCounters Role = "counters"
)

// StartArgs is the argument of Start; Roles names its descriptors in order.
type StartArgs struct {
	Roles  []Role        `json:"roles"`
	Config Configuration `json:"config"`
	Issuer ca.Material   `json:"issuer"`
	// Standalone is set for an `exec` without a daemon.
	Standalone bool `json:"standalone"`
	// Netns is the cookie of the network namespace of the listeners.
	Netns uint64 `json:"netns"`
	// Probe is what the self-probe connects to.
	Probe Probe `json:"probe"`
	// Listeners are our own addresses: never a destination.
	Listeners []netip.AddrPort `json:"listeners"`
	// Slice is the path of the tagged cgroup, below the cgroup2 mount.
	Slice string `json:"slice"`
	// AdminGroup is the gid that may read over the admin socket; -1: none.
	AdminGroup int `json:"admin_group"`
	// AuditEnd is the last line of the audit so far, and AuditTorn says that the
	// file ends in the middle of one.
	AuditEnd  []byte `json:"audit_end"`
	AuditTorn bool   `json:"audit_torn"`
	// Version is the version of the binary.
	Version string `json:"version"`
	// Redirected says that the guard captures: the keeper knows where connections
	// wanted to go.
	Redirected bool `json:"redirected,omitempty"`
	// Health is what is known so far.
	Health HealthArgs `json:"health"`
}

// A Source is one configuration file as it was read.
type Source struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
}

// A Configuration is the configuration as bytes: both processes parse it with
// the same code. Without sources it is the built-in one.
type Configuration struct {
	Sources []Source `json:"sources"`
	// Builtin is the mode of the built-in one.
	Builtin config.Mode `json:"builtin"`
	// Roots are the files of tls.upstream_ca_files, PEM.
	Roots []Source `json:"roots"`
	// Certificates are the files of every upstream_tls, PEM, keys among them.
	Certificates []Source `json:"certificates"`
	// Passwords are the files of Config.NamedFiles: passwords of upstream proxies,
	// secrets that stages compare.
	Passwords []Source `json:"passwords"`
	// Generation counts the configurations that the keeper accepted.
	Generation uint64 `json:"generation"`
}

// A Probe is the self-probe as the worker has to know it: a flow of this
// cgroup to this address is answered with what the worker knows about it.
type Probe struct {
	Cgroup   uint64           `json:"cgroup"`
	Captured []netip.AddrPort `json:"captured"`
}

// IdentifyArgs is the argument of Identify.
type IdentifyArgs struct {
	Cgroup uint64 `json:"cgroup"`
	PID    uint32 `json:"pid"`
	// Exe asks for the executable as well.
	Exe bool `json:"exe"`
}

// IdentifyResult is the result of Identify.
type IdentifyResult struct {
	Identity workload.Identity `json:"identity"`
	// Exe is empty where the process has gone or its cgroup is another one.
	Exe string `json:"exe"`
}

// HealthArgs is the argument of Health.
type HealthArgs struct {
	EnforcementActive bool `json:"enforcement_active"`
	// Locks are how many locks, each of which keeps the gate shut by itself, are to
	// be in force.
	Locks int `json:"locks"`
	// Ready is set once everything works, probe included.
	Ready bool `json:"ready"`
	// Problems are sentences for `status`.
	Problems []string `json:"problems"`
	// Lifecycle are sentences for the audit: what was noticed and repaired.
	Lifecycle []string `json:"lifecycle"`
	// ConfigError is what the last reload said; empty after a good one.
	ConfigError string `json:"config_error"`
	// Elsewhere are the tagged cgroups outside of the slice.
	Elsewhere []string `json:"elsewhere,omitempty"`
}

// RefusedArgs is the argument of Refused.
type RefusedArgs struct {
	// Reason is a sentence for a person.
	Reason string `json:"reason"`
}

// StopArgs is the argument of Stop.
type StopArgs struct {
	// DrainSeconds bounds how long running exchanges may go on.
	DrainSeconds float64 `json:"drain_seconds"`
}

// SnapshotResult is the result of Snapshot.
type SnapshotResult struct {
	Flows []datapath.FlowStats `json:"flows"`
	// Refusals by the kernel's reason.
	Refusals map[string]uint64 `json:"refusals"`
	// EventsLost are the kernel's events that did not fit into their buffer.
	EventsLost    uint64     `json:"events_lost"`
	GuardRejected uint64     `json:"guard_rejected"`
	Resources     []Resource `json:"resources"`
	// Workloads are the cgroups in which something runs.
	Workloads []workload.Identity `json:"workloads"`
	// Notes are what a person must know of one of them, by its cgroup.
	Notes map[string][]string `json:"notes,omitempty"`
	// Living are the names of all workloads in which something runs, those of
	// nested cgroups among them; nil where there are too many to tell.
	Living []string `json:"living"`
	Host   Host     `json:"host"`
}

// A Resource says how full a bounded thing is.
type Resource struct {
	Name     string `json:"name"`
	Entries  int    `json:"entries"`
	Capacity int    `json:"capacity"`
}

// KernelArgs is the argument of Kernel.
type KernelArgs struct {
	// Events are all but the ends of captured flows, which are in Ended.
	Events []datapath.Event `json:"events"`
	Ended  []Ended          `json:"ended"`
	// Rejected is what the guard rejected since the last notice.
	Rejected []Rejected `json:"rejected"`
	// Foreign are sockets from outside that were found and ended.
	Foreign []Foreign `json:"foreign,omitempty"`
	// Lost counts events that the ring buffer or we had to drop since the last
	// notice.
	Lost uint64 `json:"lost"`
}

// ProbeAnswer is the line with which the worker answers the captured
// connection: what it knows about the flow. Only a true flow gives the line
// that the keeper expects.
func ProbeAnswer(dst netip.AddrPort, cgroup uint64, pid uint32) string {
	return fmt.Sprintf("captured dst=%s cgroup=%d pid=%d", dst, cgroup, pid)
}

// Rejected counts packets of one cgroup that the guard rejected: those that no
// program of ours saw before, as of a connected UDP socket (send(2) calls no
// cgroup program). The guard does not tell where they were going.
type Rejected struct {
	Cgroup  uint64 `json:"cgroup"`
	Packets uint64 `json:"packets"`
	// Inbound is set for attempts of others to connect to the cgroup's listeners.
	Inbound bool `json:"inbound"`
}
