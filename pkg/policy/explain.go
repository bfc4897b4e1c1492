package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// An Explanation is a decision with the way to it.
type Explanation struct {
	Decision Decision
	// Steps are the rules in order up to the one that decided.
	Steps []Step
	// Hint tells how to allow what was refused; "" where nothing was.
	Hint string
}

// A Step is one rule that was looked at.
type Step struct {
	Rule string
	// Matched is true for the rule that decided only.
	Matched bool
	// Why says which key did not hold, or what the rule decided.
	Why string
}

// Explain decides as Decide does and tells of each rule on the way why it was
// passed over. It is for people; it allocates.
func (p *Policy) Explain(q *Query) Explanation {
	e := Explanation{Decision: p.Decide(q)}
	if p != nil {
		e.Steps = p.steps(q)
	}
	if e.Decision.Verdict != Allow {
		e.Hint = Hint(q, &e.Decision)
	}
	return e
}

func (p *Policy) steps(q *Query) []Step {
	var ask asked
	p.ask(&ask, q, q.HTTP)
	var steps []Step
	for i := range p.rules {
		r := &p.rules[i]
		out, k := fails, hostsKey
		if r.matchesHost(q.Host) {
			out, k = p.check(r, &ask)
		}
		switch {
		case out == fails || out == unknown && r.allow:
			steps = append(steps, Step{Rule: r.name, Why: r.passedOver(out, k, &ask)})
			continue
		case out == ambiguous:
			return append(steps, Step{r.name, true, "refuses: the path has " + ask.path.Ambiguous()})
		case out == broken:
			return append(steps, Step{r.name, true, "refuses: when gives no answer: " + ask.fault})
		case out == unknown:
			return append(steps, Step{r.name, true, "denies: " + r.passedOver(out, k, &ask)})
		case r.allow:
			return append(steps, Step{r.name, true, "allows, handling " + r.handling.String()})
		default:
			return append(steps, Step{r.name, true, "denies"})
		}
	}
	return steps
}

// passedOver says which key kept the rule from deciding.
func (r *rule) passedOver(out outcome, k key, a *asked) string {
	if out == unknown {
		switch k {
		case cidrsKey:
			return "cidrs: no address is known"
		case protocolsKey:
			return "protocols: the protocol is not known yet"
		default:
			return "it looks at requests, and the connection shows none (protocols: [http, https] would limit it to those that do)"
		}
	}
	switch k {
	case portsKey:
		return fmt.Sprintf("ports: %d is not among %v", a.port, portTexts(r))
	case protocolsKey:
		return "protocols: " + a.protocol.String() + " is not among them"
	case workloadsKey:
		return fmt.Sprintf("workloads: %q matches none of them", a.workload)
	case hostsKey:
		if a.host == "" {
			return "hosts: no name is known"
		}
		return fmt.Sprintf("hosts: %s matches none of %s", a.host, abridged(r.hosts))
	case unjudgedKey:
		return "cidrs: the name goes by an upstream proxy, so no address of it is known"
	case cidrsKey:
		return fmt.Sprintf("cidrs: %s lies in none of %s", abridged(a.addrs), abridged(r.cidrs))
	case methodsKey:
		return fmt.Sprintf("methods: %q matches none of %s", a.http.Method, abridged(r.methods.globs))
	case headersKey:
		return "headers: one is missing or has another value"
	case whenKey:
		return "when: " + clip(r.when.String(), 200) + " does not hold"
	default:
		return fmt.Sprintf("paths: %s matches none of %s", clip(a.http.Path, 200), abridged(r.paths))
	}
}

func portTexts(r *rule) string {
	texts := make([]string, len(r.ports))
	for i, p := range r.ports {
		if texts[i] = fmt.Sprint(p.First); p.First != p.Last {
			texts[i] = fmt.Sprintf("%d-%d", p.First, p.Last)
		}
	}
	return abridged(texts)
}

// abridged lists at most eight values.
func abridged[T any](values []T) string {
	more := ""
	if len(values) > 8 {
		more = fmt.Sprintf(" and %d more", len(values)-8)
		values = values[:8]
	}
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = fmt.Sprint(v)
	}
	return strings.Join(texts, ", ") + more
}

// clip bounds a text that a workload wrote.
func clip(s string, longest int) string {
	if len(s) <= longest {
		return s
	}
	return s[:longest] + "…"
}

// Classes names the address classes that keep an address from being dialled,
// for a person; "" where none does.
func (d *Decision) Classes(addr netip.Addr, own func(netip.Addr) bool) string {
	if d.rule == nil {
		return ""
	}
	if ok, left := d.rule.exempt.Permit(addr, own); !ok && left != 0 {
		return left.String()
	}
	return ""
}
