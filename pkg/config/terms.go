package config

import (
	"strconv"

	"sallyport/pkg/policy/pattern"
)

// A Mode says whether refusals are carried out; "" means not set here.
type Mode string

// The modes.
const (
	Enforce Mode = "enforce"
	Observe Mode = "observe"
)

// An Action is what a rule does with what matches it.
type Action string

// The actions.
const (
	Allow Action = "allow"
	Deny  Action = "deny"
)

// A Handling is what becomes of a connection that a rule allows.
type Handling string

// The handlings.
const (
	Inspect Handling = "inspect"
	Tunnel  Handling = "tunnel"
	Direct  Handling = "direct"
)

// A Protocol is what a rule may be limited to. TCP is any TCP connection, TLS
// any with TLS in it, HTTPS such a one that carries HTTP, HTTP one in clear.
type Protocol string

// The protocols.
const (
	HTTP  Protocol = "http"
	HTTPS Protocol = "https"
	TLSP  Protocol = "tls"
	TCP   Protocol = "tcp"
	UDP   Protocol = "udp"
)

// OnPinned says what becomes of a client that rejected our certificate.
type OnPinned string

// The answers to a client that rejected our certificate.
const (
	// PinnedBlock lets it fail again.
	PinnedBlock OnPinned = "block"
	// PinnedTunnel tunnels its next connections to that name for a while, where
	// no rule needs to see a request.
	PinnedTunnel OnPinned = "tunnel"
)

// OnFailure says what an audit event that cannot be written means.
type OnFailure string

// The answers to a failing audit.
const (
	// FailBlock stops the exchange.
	FailBlock OnFailure = "block"
	// FailContinue counts the loss and goes on.
	FailContinue OnFailure = "continue"
)

// A Sink is where audit events go.
type Sink string

// The sinks.
const (
	// SinkFile is the file of audit.file.
	SinkFile Sink = "file"
	// SinkJournald is the journal of the host's systemd.
	SinkJournald Sink = "journald"
	// SinkSyslog is the receiver of audit.syslog.
	SinkSyslog Sink = "syslog"
)

// A LogLevel is the least level that is logged.
type LogLevel string

// The levels.
const (
	LevelDebug LogLevel = "debug"
	LevelInfo  LogLevel = "info"
	LevelWarn  LogLevel = "warn"
	LevelError LogLevel = "error"
)

// A LogFormat is how log lines are written.
type LogFormat string

// The formats.
const (
	FormatJSON    LogFormat = "json"
	FormatConsole LogFormat = "console"
)

// A Size counts bytes.
type Size int64

// String writes the size so that the configuration reads it back.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if u.bytes > 1 && s != 0 && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// Globs match what any of them matches; none at all matches nothing.
type Globs []pattern.Glob

// Match reports whether one of the globs matches the whole of s.
func (g Globs) Match(s string) bool {
	for i := range g {
		if g[i].Match(s) {
			return true
		}
	}
	return false
}
