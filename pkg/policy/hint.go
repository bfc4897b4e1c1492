package policy

import (
	"net/netip"
	"strconv"
	"strings"

	"sallyport/pkg/policy/address"
	"sallyport/pkg/policy/pattern"
)

// MaxHint bounds a hint in bytes, so that it fits into a DNS answer and a log
// line.
const MaxHint = 600

// Hint tells in one line how to allow what d refused, with the YAML to add;
// "" for a reason that no rule can change. It holds nothing secret: what the
// workload asked for, and names of rules.
func Hint(q *Query, d *Decision) string {
	text := ""
	switch d.Reason {
	case NoRule:
		text = "no rule allows this; add to rules: " + advice(q, d)
	case RuleDenied:
		if d.why != "" {
			text = "the condition `when` of rule " + strconv.Quote(d.Rule) + " gives no answer, which refuses: " + clipPlain(d.why, 200)
			break
		}
		text = "rule " + strconv.Quote(d.Rule) + " denies this; to allow it put before that rule: " + advice(q, d)
		if q.HTTP == nil && d.rule != nil && d.rule.needsRequest && q.Protocol != AnyTCP {
			text += "; or limit " + strconv.Quote(d.Rule) + " with protocols: [http, https], since it looks at requests and this connection shows none"
		}
	case AddressDenied:
		text = addressAdvice(q, d)
	case AmbiguousPath:
		why := d.why
		if why == "" {
			why = "more than one meaning"
		}
		text = "the path has " + why + ", so rule " + strconv.Quote(d.Rule) + " cannot judge it; send it in normal form"
	case ProtocolDenied:
		if q.Protocol != UDP {
			return ""
		}
		text = "UDP leaves only by a rule with cidrs, protocols: [udp] and handling: direct"
	default:
		return ""
	}
	if len(text) > MaxHint {
		return ""
	}
	return text
}

// advice writes a rule that would allow the query.
func advice(q *Query, d *Decision) string {
	var b flowWriter
	b.open()
	b.field("name", quoteFlow(ruleName(q)))
	b.key("match")
	b.open()
	if q.Workload != "" && d.policy.names(q.Workload) {
		b.field("workloads", "["+quoteFlow(q.Workload)+"]")
	}
	switch {
	case q.Host != "":
		b.field("hosts", "["+quoteFlow(q.Host)+"]")
	case len(q.Addrs) > 0:
		b.field("cidrs", "["+quoteFlow(q.Addrs[0].Unmap().String())+"]")
	}
	if q.Port != 0 {
		b.field("ports", "["+strconv.Itoa(int(q.Port))+"]")
	}
	if q.HTTP != nil {
		if isToken(q.HTTP.Method) {
			b.field("methods", "["+quoteFlow(q.HTTP.Method)+"]")
		}
		if path := pathAdvice(q.HTTP.Path); path != "" {
			b.field("paths", "["+quoteFlow(path)+"]")
		}
	}
	b.close()
	b.field("action", "allow")
	if q.HTTP == nil && (q.Protocol == TCP || q.Protocol == TLS) && d.policy != nil && d.policy.bindingDefaults {
		// Under handling inspect the rule would take over stages for HTTP only.
		b.field("handling", "tunnel")
	}
	b.close()
	return b.String()
}

// ruleName makes a name for the rule out of the host or the address.
func ruleName(q *Query) string {
	name := q.Host
	if name == "" && len(q.Addrs) > 0 {
		name = q.Addrs[0].Unmap().String()
	}
	name = strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '-'
	}, name)
	return strings.Trim("allow-"+clipPlain(name, 40), "-")
}

// pathAdvice gives a pattern that matches the path: itself, or what lies below
// its first segment where it is long.
func pathAdvice(raw string) string {
	path, _, _ := strings.Cut(raw, "?")
	r := pattern.NormalisePath(path)
	path = strings.ReplaceAll(r.Forward(), "*", "%2A")
	if r.Ambiguous() != "" || path[0] != '/' {
		return ""
	}
	if len(path) > 80 {
		first, _, _ := strings.Cut(path[1:], "/")
		if len(first) > 60 {
			return ""
		}
		path = "/" + first + "/**"
	}
	return path
}

// names reports whether an entry of `workloads` can give this name: rules may
// speak of such only.
func (p *Policy) names(workload string) bool {
	if p == nil {
		return false
	}
	for i := range p.workloads {
		if p.workloads[i].name.Match(workload) {
			return true
		}
	}
	return false
}

// addressAdvice names the address that was refused first and its class.
func addressAdvice(q *Query, d *Decision) string {
	var exempt address.Exemptions
	if d.rule != nil {
		exempt = d.rule.exempt
	}
	for _, addr := range q.Addrs {
		if d.rule != nil && d.rule.allow && len(d.rule.cidrs) > 0 && !d.rule.hasAddress(addr.Unmap()) {
			continue
		}
		ok, classes := exempt.Permit(addr, func(netip.Addr) bool { return false })
		what := classes.String()
		if ok {
			what = "host's own"
		}
		addr = addr.Unmap()
		entry := netip.PrefixFrom(addr, addr.BitLen()).String()
		text := what + " address " + addr.String()
		if q.Host != "" && q.Host != addr.String() {
			text = q.Host + " is at the " + text
		} else {
			text = "the target is the " + text
		}
		if d.Rule == "" {
			return text + "; only a rule that names it can allow it: " + advice(&Query{Workload: q.Workload, Addrs: []netip.Addr{addr}, Port: q.Port}, d)
		}
		return text + "; to allow it add to rule " + strconv.Quote(d.Rule) + ": private: [" + quoteFlow(entry) + "]"
	}
	return "no address of the target lies in the cidrs of rule " + strconv.Quote(d.Rule)
}

// A flowWriter writes YAML in flow style.
type flowWriter struct {
	strings.Builder
	comma bool
}

func (b *flowWriter) open()  { b.WriteByte('{'); b.comma = false }
func (b *flowWriter) close() { b.WriteByte('}'); b.comma = true }

func (b *flowWriter) key(name string) {
	if b.comma {
		b.WriteString(", ")
	}
	b.WriteString(name + ": ")
	b.comma = true
}

func (b *flowWriter) field(name, value string) {
	b.key(name)
	b.WriteString(value)
}

// quoteFlow quotes what would not stand for itself between [ and ].
func quoteFlow(s string) string {
	plain := s != "" && ('a' <= s[0] && s[0] <= 'z' || 'A' <= s[0] && s[0] <= 'Z' || s[0] == '/')
	for i := range len(s) {
		c := s[i]
		plain = plain && ('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("/.-_~%=+@", c) >= 0)
	}
	switch s {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n":
		plain = false
	}
	if plain {
		return s
	}
	return strconv.Quote(s)
}

func isToken(s string) bool {
	if s == "" || len(s) > 32 {
		return false
	}
	return strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_") == ""
}

func clipPlain(s string, longest int) string {
	return s[:min(len(s), longest)]
}
