package config

import "time"

// An Upstream is an entry of `upstreams`: targets that stand in for a host.
type Upstream struct {
	Name      string
	Algorithm Algorithm
	// HashOn is set for ConsistentHash.
	HashOn  HashKey
	Targets []Target
	// PreserveHost forwards the request's own Host; else it is the target's.
	// SNI and the verified name are always the target's.
	PreserveHost bool
	// SlowStart is how long a target that has come back takes to its full weight.
	SlowStart time.Duration
	Active    ActiveCheck
	Passive   PassiveCheck
}

// An Algorithm chooses a target.
type Algorithm string

// The algorithms.
const (
	RoundRobin     Algorithm = "round_robin"
	LeastConn      Algorithm = "least_conn"
	Random         Algorithm = "random"
	ConsistentHash Algorithm = "consistent_hash"
)

// A HashKey is what requests to one target have in common.
type HashKey struct {
	By HashBy
	// Header is in canonical MIME form, for HashHeader.
	Header string
}

// HashBy is the kind of a HashKey.
type HashBy string

// The kinds of hash keys.
const (
	HashWorkload HashBy = "workload"
	HashPath     HashBy = "path"
	// HashHeader is written header:NAME.
	HashHeader HashBy = "header"
)

// A Target is a host:port with its weight, 0 to 65535; 0 gets nothing.
type Target struct {
	// Host is canonical: a name or an address.
	Host   string
	Port   uint16
	Weight int
}

// A CheckType is how a target is asked.
type CheckType string

// The types of checks.
const (
	CheckHTTP  CheckType = "http"
	CheckHTTPS CheckType = "https"
	CheckTCP   CheckType = "tcp"
)

// An ActiveCheck asks targets by itself. Fields and meaning are Kong's: a
// threshold or an interval of 0 is off.
type ActiveCheck struct {
	// Type is "" where the port says it: https on 443, else http.
	Type     CheckType
	HTTPPath string
	Timeout  time.Duration
	// Statuses are of a healthy target; any other is a failure.
	Statuses []int
	Healthy  struct {
		Interval  time.Duration
		Successes int
	}
	Unhealthy struct {
		Interval                            time.Duration
		HTTPFailures, TCPFailures, Timeouts int
	}
}

// A PassiveCheck goes by what requests met.
type PassiveCheck struct {
	// Statuses are failures.
	Statuses  []int
	Unhealthy struct {
		HTTPFailures, TCPFailures, Timeouts int
	}
	// RecoverAfter is when a target is tried again without active checks; 0:
	// never.
	RecoverAfter time.Duration
}
