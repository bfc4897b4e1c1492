package audit

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A Filter says which events or flows are wanted: the flags --workload,
// --verdict, --reason, --rule, --host, --kind and --since of `flows` and `tail`.
// An event passes when each list that is not empty has an entry that fits it.
type Filter struct {
	// Workloads, Rules and Hosts are globs: "*" stands for any text. Workloads
	// are compared with the name, unit, container and cgroup; hosts without case
	// with every name of the event (dst, SNI, Host, DNS) and its address.
	Workloads, Rules, Hosts []string
	// Verdicts and Reasons are names of package policy or the kernel's reasons.
	Verdicts, Reasons []string
	Kinds             []Kind
	// Since leaves out what began earlier; zero: nothing.
	Since time.Time
}

// A Subject is what a Filter looks at.
type Subject struct {
	Time                  time.Time
	Kind                  Kind // 0: not judged by kind
	Verdict, Reason, Rule string
	Workload              Workload
	IP                    netip.Addr
	Hosts                 [4]string
}

// Match reports whether e is wanted.
func (f *Filter) Match(e *Event) bool {
	return f.MatchSubject(&Subject{
		Time: e.Time, Kind: e.Kind, Verdict: e.Verdict, Reason: e.Reason, Rule: e.Rule, Workload: e.Workload,
		IP: e.Dst.IP, Hosts: [4]string{e.Dst.Host, e.TLS.SNI, e.HTTP.Host, e.DNS.Name},
	})
}

// MatchSubject reports whether s is wanted.
func (f *Filter) MatchSubject(s *Subject) bool {
	switch {
	case s.Time.Before(f.Since):
		return false
	case len(f.Kinds) > 0 && s.Kind != 0 && !slices.Contains(f.Kinds, s.Kind):
		return false
	case len(f.Verdicts) > 0 && !slices.Contains(f.Verdicts, s.Verdict):
		return false
	case len(f.Reasons) > 0 && !slices.Contains(f.Reasons, s.Reason):
		return false
	case len(f.Rules) > 0 && !anyGlob(f.Rules, s.Rule):
		return false
	case len(f.Workloads) > 0 && !anyGlob(f.Workloads, s.Workload.Name, s.Workload.Unit, s.Workload.Container, s.Workload.Cgroup):
		return false
	case len(f.Hosts) > 0:
		return f.matchHost(s)
	}
	return true
}

func (f *Filter) matchHost(s *Subject) bool {
	for _, host := range s.Hosts {
		if host == "" {
			continue
		}
		host = strings.ToLower(strings.TrimSuffix(host, "."))
		name, port, hasPort := strings.Cut(host, ":")
		if anyGlobFold(f.Hosts, host) || hasPort && !strings.Contains(port, ":") && anyGlobFold(f.Hosts, name) {
			return true
		}
	}
	return s.IP.IsValid() && anyGlobFold(f.Hosts, s.IP.Unmap().String())
}

// The names of a Filter's parts as flags and query parameters.
const (
	flagWorkload = "workload"
	flagVerdict  = "verdict"
	flagReason   = "reason"
	flagRule     = "rule"
	flagHost     = "host"
	flagKind     = "kind"
	flagSince    = "since"
)

// maxPatterns bounds what a client may ask of each event.
const maxPatterns = 64

// Values gives the filter in the form of the admin API.
func (f *Filter) Values() url.Values {
	v := url.Values{}
	add := func(name string, list []string) {
		if len(list) > 0 {
			v[name] = slices.Clone(list)
		}
	}
	add(flagWorkload, f.Workloads)
	add(flagVerdict, f.Verdicts)
	add(flagReason, f.Reasons)
	add(flagRule, f.Rules)
	add(flagHost, f.Hosts)
	for _, k := range f.Kinds {
		v.Add(flagKind, k.String())
	}
	if !f.Since.IsZero() {
		v.Set(flagSince, f.Since.UTC().Format(time.RFC3339Nano))
	}
	return v
}

// ParseFilter reads what Values gave, or the flags of a command: every value may
// also be a list with commas; since is a duration before now ("10m"), a date, or
// a time in RFC 3339. The error names the value and what is possible.
func ParseFilter(v url.Values, now time.Time) (Filter, error) {
	f := Filter{
		Workloads: split(v[flagWorkload]),
		Rules:     split(v[flagRule]),
		Hosts:     split(v[flagHost]),
		Verdicts:  split(v[flagVerdict]),
		Reasons:   split(v[flagReason]),
	}
	kinds := split(v[flagKind])
	for _, list := range [][]string{f.Workloads, f.Rules, f.Hosts, f.Verdicts, f.Reasons, kinds} {
		if len(list) > maxPatterns {
			return Filter{}, fmt.Errorf("a filter has %d values, at most %d are possible", len(list), maxPatterns)
		}
	}
	for i, verdict := range f.Verdicts {
		switch verdict {
		case "allow", "deny", "would_deny":
		case "would-deny":
			f.Verdicts[i] = "would_deny"
		default:
			return Filter{}, fmt.Errorf("unknown verdict %q; it is one of allow, deny, would_deny", verdict)
		}
	}
	for _, name := range kinds {
		k, err := ParseKind(name)
		if err != nil {
			return Filter{}, err
		}
		f.Kinds = append(f.Kinds, k)
	}
	var err error
	f.Since, err = parseSince(v.Get(flagSince), now)
	return f, err
}

func split(values []string) []string {
	var list []string
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
	}
	return list
}

func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		if d < 0 {
			d = -d
		}
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf(`since %q is neither a duration ("10m", "24h") nor a time ("2006-01-02", "2006-01-02T15:04:05Z")`, s)
}

func anyGlob(patterns []string, values ...string) bool {
	for _, p := range patterns {
		for _, v := range values {
			if v != "" && glob(p, v) {
				return true
			}
		}
	}
	return false
}

func anyGlobFold(patterns []string, value string) bool {
	for _, p := range patterns {
		if glob(strings.ToLower(p), value) {
			return true
		}
	}
	return false
}

// glob compares with "*" as any text, also none. It takes time linear in
// pattern times text, whatever the pattern.
func glob(pattern, text string) bool {
	star, mark := -1, 0
	p, t := 0, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && pattern[p] == text[t]:
			p++
			t++
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
