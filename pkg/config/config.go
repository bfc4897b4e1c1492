// Package config turns YAML into a validated, immutable Config. Everything is
// strict: whatever the file says that is not understood is an error with its
// line and column, and all errors of all files are reported together.
package config

import (
	"net/netip"
	"time"

	"sallyport/pkg/policy/condition"
	"sallyport/pkg/policy/pattern"
)

// A Config is a whole, valid configuration with every default filled in. It is
// not changed after Parse; whoever needs another one takes a copy.
type Config struct {
	// Version is the format of the file: 1.
	Version int
	// Mode is the mode of the file: rules and workloads may narrow it.
	Mode Mode
	// Default decides where no rule matches.
	Default Action
	// StateDir holds what outlives a restart; TLS.CADir derives from it.
	StateDir string
	// RuntimeDir holds sockets and trust files; Admin.Socket derives from it.
	RuntimeDir string
	// BPFDir is where links and maps are pinned.
	BPFDir string
	// NFTTable is the name of the guard's table.
	NFTTable string
	// Slice is the cgroup below which workloads run.
	Slice    string
	Listen   Listen
	Admin    Admin
	Metrics  Metrics
	Log      Log
	TLS      TLS
	DNS      DNS
	Timeouts Timeouts
	Audit    Audit
	// UpstreamProxy is that of every rule without one of its own.
	UpstreamProxy UpstreamProxy
	Redis         Redis
	Cache         Cache
	Defaults      Defaults
	Workloads     []Workload
	Upstreams     []Upstream
	Rules         []Rule
}

// Listen holds the ports of the listeners, on loopback in each network
// namespace; 0 means any free one.
type Listen struct {
	TCP, DNS uint16
}

// Admin is the admin socket.
type Admin struct {
	// Socket is an absolute path of at most 107 bytes (sun_path of unix(7)).
	Socket string
	// Group may use it; where it does not exist only root may.
	Group string
}

// Metrics is the listener of /metrics, /healthz and /readyz.
type Metrics struct {
	// Listen is the address; the zero value means off.
	Listen netip.AddrPort
}

// Log is the daemon's own log, not the audit.
type Log struct {
	Level  LogLevel
	Format LogFormat
}

// TLS configures both sides of an inspected connection.
type TLS struct {
	// CADir holds the root and the issuing certificate.
	CADir string
	// UpstreamCAFiles are trusted for upstreams besides the system's roots.
	UpstreamCAFiles []string
	// MinVersion is the least version towards upstreams: tls.VersionTLS12 or
	// tls.VersionTLS13.
	MinVersion uint16
	// OnPinned says what happens to a client that rejected our certificate.
	OnPinned OnPinned
}

// DNS configures the resolver.
type DNS struct {
	// Upstreams are asked in order; none means those of the host's
	// resolv.conf. The port is 53 where the file names none.
	Upstreams []netip.AddrPort
	// Original asks the server that the workload asked first, inside the
	// workload's network namespace, where that server is the namespace's own.
	Original bool
	// AllowUnlisted resolves names that no rule lists.
	AllowUnlisted bool
}

// Timeouts are the bounds of waiting. All are positive but Drain and
// StreamIdle, where 0 means "not at all" and "no limit".
type Timeouts struct {
	// Connect bounds one attempt to reach an upstream, TLS included.
	Connect time.Duration
	// ResponseHeader bounds the wait for the head of a response.
	ResponseHeader time.Duration
	// Idle closes a connection on which no exchange is open.
	Idle time.Duration
	// Sniff bounds the wait for a workload's first bytes.
	Sniff time.Duration
	// Drain bounds the end of running exchanges when the worker stops.
	Drain time.Duration
	// StreamIdle closes an open exchange, stream or tunnel that is silent.
	StreamIdle time.Duration
}

// RuleTimeouts are the timeouts that a rule may set; nil is not set.
type RuleTimeouts struct {
	Connect, ResponseHeader, StreamIdle *time.Duration
}

// Over gives t with what r sets in its place. A nil r changes nothing.
func (r *RuleTimeouts) Over(t Timeouts) Timeouts {
	if r == nil {
		return t
	}
	if r.Connect != nil {
		t.Connect = *r.Connect
	}
	if r.ResponseHeader != nil {
		t.ResponseHeader = *r.ResponseHeader
	}
	if r.StreamIdle != nil {
		t.StreamIdle = *r.StreamIdle
	}
	return t
}

// Audit says where events go and what a failure of that means.
type Audit struct {
	Sinks     []Sink
	File      AuditFile
	Syslog    AuditSyslog
	OnFailure OnFailure
}

// AuditFile is the sink "file".
type AuditFile struct {
	Path string
	// MaxSize in bytes, at least MinAuditFileSize: then the file is rotated.
	MaxSize Size
	// MaxFiles counts the rotated files that are kept, 1 to 1000.
	MaxFiles int
}

// MinAuditFileSize is the least audit.file.max_size: the largest event must
// fit into one file.
const MinAuditFileSize Size = 1 << 20

// Defaults hold for each rule that does not set that key itself.
type Defaults struct {
	Stages
	UpstreamProxy *UpstreamProxy
	UpstreamTLS   *UpstreamTLS
	Timeouts      *RuleTimeouts
}

// A Workload is one entry of `workloads`, in file order.
type Workload struct {
	// Key is the entry's own name.
	Key string
	// Name is the name that the workload goes by, or a template with {unit},
	// {container} or {command}: one workload for each of them. Key by default.
	Name string
	// Match says which things it is; nil where only --workload names it.
	Match *WorkloadMatch
	// Mode is "" where the entry does not narrow the file's mode.
	Mode Mode
	// Listen are the ports on which it may answer connections from elsewhere.
	Listen []uint16
}

// A WorkloadMatch describes things by globs; all keys that are set must hold.
type WorkloadMatch struct {
	Unit   Globs
	Cgroup Globs
	// Command is compared with the whole command line given to exec.
	Command Globs
	// User is compared with the peer that asked.
	User Globs
	// Containers are descriptions, of which one must hold.
	Containers []ContainerMatch
}

// A ContainerMatch describes containers by what their engine, Docker or Podman,
// knows of them; all keys that are set must hold. A container that no engine
// knows matches none.
type ContainerMatch struct {
	Name Globs
	// Image is compared with the image as it was given to run.
	Image Globs
	// Labels must all be there, each with one of its values; in order of the keys.
	Labels []LabelMatch
}

// A LabelMatch holds where a container has that label with one of the values.
type LabelMatch struct {
	Key    string
	Values Globs
}

// A Rule decides what matches it. Rules are in order: the first decides.
type Rule struct {
	// Name is unique.
	Name  string
	Match Match
	// Private are prefixes inside refused address classes that this rule's
	// names may resolve to.
	Private  []netip.Prefix
	Action   Action
	Handling Handling
	// Mode is "" where the rule does not narrow the workload's mode.
	Mode Mode
	// Timeouts are the rule's own or, where it has none, those of `defaults`.
	Timeouts *RuleTimeouts
	// UpstreamProxy is the rule's own or that of `defaults`; nil: the file's.
	UpstreamProxy *UpstreamProxy
	// UpstreamTLS is the rule's own or that of `defaults`; nil: none.
	UpstreamTLS *UpstreamTLS
	// Stages are the rule's own, key by key, or those of `defaults`; of a rule
	// that denies, or whose handling is not inspect, there are none.
	Stages
	// Without are the keys of the stages that are off for this rule, whatever
	// `defaults` has.
	Without []string
}

// A Match holds when every key that is set holds; of a list any one must.
type Match struct {
	Workloads Globs
	// Hosts are canonical: "name", "*.name" or "*".
	Hosts []pattern.Host
	// CIDRs are of the address that is dialled; IPv4 is never mapped.
	CIDRs     []netip.Prefix
	Ports     []PortRange
	Protocols []Protocol
	Methods   Globs
	Paths     []pattern.Path
	Headers   []HeaderMatch
	// When is a condition on the request; nil: none.
	When *condition.Condition
}

// NeedsRequest reports whether a key of m looks at the HTTP request.
func (m *Match) NeedsRequest() bool {
	return len(m.Methods) > 0 || len(m.Paths) > 0 || len(m.Headers) > 0 || m.When != nil
}

// A HeaderMatch holds when a field of that name matches one of the globs.
type HeaderMatch struct {
	// Name is in canonical MIME form.
	Name   string
	Values Globs
}

// A PortRange holds the ports First to Last, both included.
type PortRange struct {
	First, Last uint16
}

// Contains reports whether port lies in the range.
func (r PortRange) Contains(port uint16) bool { return r.First <= port && port <= r.Last }
