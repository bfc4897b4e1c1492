package convert

import (
	"fmt"
	"slices"
	"strings"

	"sallyport/pkg/config"
)

// A Draft is a configuration to be written. Rules come from Arrange.
type Draft struct {
	// Head are lines of comment above everything but version and default.
	Head []string
	// MinTLS is tls.min_version, "" for the default.
	MinTLS string
	// UpstreamCAFiles are tls.upstream_ca_files.
	UpstreamCAFiles []string
	// Redis is where shared counters are kept; nil for none.
	Redis *config.Redis
	// Timeouts are those of every rule without its own; nil for ours.
	Timeouts  *Timeouts
	Workloads []Workload
	Upstreams []Upstream
	Rules     []Rule
}

// Timeouts are written whole, since those of a rule take the place of all others.
type Timeouts = config.RuleTimeouts

// A Workload is an entry that nothing matches until somebody says what does.
type Workload struct {
	Name    string
	Comment []string
}

// An Upstream is an entry of upstreams.
type Upstream struct {
	config.Upstream
	Comment []string
	// HasActive and HasPassive are set where the source has such checks.
	HasActive, HasPassive bool
}

// A Rule is one rule of the draft.
type Rule struct {
	Name    string
	Comment []string
	Deny    bool
	Match   Match
	// Private are the address classes that are reached on purpose.
	Private  []string
	Stages   config.Stages
	Shared   []Shared
	Timeouts *Timeouts
	Cert     string
	Key      string
}

// A Shared is one counter of the source that several rules used together: the
// limits that come from it, by their index in Stages.
type Shared struct {
	// ID is the same for all rules that shared the counter.
	ID    string
	Place Place
	// What names the limit for a note.
	What string
	// Rate and Throttle are indexes, -1 for none.
	Rate, Throttle int
}

// A Match is what a rule of the draft looks at.
type Match struct {
	Workloads []string
	Hosts     []string
	Ports     []int
	Protocols []string
	Methods   []string
	Paths     []Pattern
	Headers   []Header
	// When is a condition in CEL, "" for none.
	When string
}

// A Header is a field with the globs of its values.
type Header struct {
	Name   string
	Values []string
}

// target identifies what a rule's requests are sent to.
func (m *Match) target() string {
	return fmt.Sprint(m.Hosts, m.Ports, m.Protocols)
}

// covers reports whether everything that o matches m matches too.
func (m *Match) covers(o *Match) bool {
	if m.target() != o.target() {
		return false
	}
	if m.When != "" && m.When != o.When {
		return false
	}
	if len(m.Workloads) > 0 && !subset(o.Workloads, m.Workloads) {
		return false
	}
	if len(m.Methods) > 0 && !subset(o.Methods, m.Methods) {
		return false
	}
	for _, h := range m.Headers {
		if !slices.ContainsFunc(o.Headers, func(x Header) bool { return h.covers(x) }) {
			return false
		}
	}
	if len(m.Paths) == 0 {
		return true
	}
	if len(o.Paths) == 0 {
		return false
	}
	for _, p := range o.Paths {
		if !slices.ContainsFunc(m.Paths, func(q Pattern) bool { return q.Covers(p) }) {
			return false
		}
	}
	return true
}

// everything reports whether m looks at nothing but where a request is sent.
func (m *Match) everything() bool {
	return len(m.Workloads) == 0 && len(m.Paths) == 0 && m.conditions() == 0
}

func (h Header) covers(o Header) bool {
	return h.Name == o.Name && (slices.Equal(h.Values, []string{"*"}) || len(o.Values) > 0 && subset(o.Values, h.Values))
}

// subset reports whether a holds something, and all of it is in b.
func subset(a, b []string) bool {
	return len(a) > 0 && !slices.ContainsFunc(a, func(s string) bool { return !slices.Contains(b, s) })
}

// conditions counts the keys beside hosts and paths.
func (m *Match) conditions() int {
	n := len(m.Headers)
	if m.When != "" {
		n++
	}
	if len(m.Methods) > 0 {
		n++
	}
	return n
}

// Name makes a text fit to be the name of a rule, workload or upstream.
func Name(s string) string {
	s = strings.Trim(strings.Map(func(c rune) rune {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
			return c
		default:
			return '-'
		}
	}, s), "-.")
	for strings.Contains(s, "--") {
		s = strings.ReplaceAll(s, "--", "-")
	}
	if len(s) > config.MaxName-10 {
		s = strings.Trim(s[:config.MaxName-10], "-.")
	}
	if s == "" {
		return "root"
	}
	return s
}

// Names gives each rule a name of its own.
type Names map[string]bool

// Unique gives the name, with a number behind it where it is taken.
func (n Names) Unique(name string) string {
	unique := name
	for i := 2; n[unique]; i++ {
		unique = fmt.Sprintf("%s-%d", name, i)
	}
	n[unique] = true
	return unique
}
