package nginx

import (
	"regexp"
	"slices"
	"strings"

	"sallyport/pkg/convert"
)

// access finds who and which methods could pass.
func (b *build) access() bool {
	c, l := b.c, b.l
	restricted := false
	var reason []string
	var at convert.Place
	for _, d := range l.level("allow", "deny") {
		if d.arg(0) == "all" {
			if d.name == "deny" && len(reason) == 0 {
				c.changed(d.Place, "%s: deny all: nobody could pass; left out", l.show())
				return false
			}
			restricted = restricted || d.name == "deny"
			if len(reason) > 0 {
				reason = append(reason, d.name+" all")
			}
			break
		}
		if len(reason) == 0 {
			at = d.Place
		}
		restricted = restricted || d.name == "deny"
		reason = append(reason, d.name+" "+d.arg(0))
	}
	if restricted && len(reason) > 0 {
		b.gates = append(b.gates, convert.Gate{Callers: true, Place: at, Reason: strings.Join(reason, ", ")})
		c.lost(at, "allow and deny: not carried: addresses of callers say nothing here (cidrs are of the origin): name the programs that may ask in `workloads`; until then the rules allow nobody")
	}
	for _, name := range callerDirectives {
		if d := l.last(name); d != nil && d.arg(0) != "off" {
			b.gates = append(b.gates, convert.Gate{Callers: true, Place: d.Place, Reason: strings.Join(append([]string{name}, d.args...), " ")})
		}
	}
	for _, d := range l.level("limit_conn") {
		b.gates = append(b.gates, convert.Gate{Place: d.Place, Reason: "limit_conn " + strings.Join(d.args, " ")})
	}
	if !b.methods() {
		return false
	}
	for s := l.scope; s != nil; s = s.outer {
		for _, d := range s.children("if") {
			b.condition(d)
		}
	}
	return true
}

// methods carries limit_except and proxy_method.
func (b *build) methods() bool {
	c, l := b.c, b.l
	m := &b.rule.Match
	for _, d := range l.children("limit_except") {
		m.Methods = narrowed(m.Methods, withHead(d.args))
		inner := &scope{d, nil}
		if denied := inner.children("deny"); len(denied) == 0 || denied[0].arg(0) != "all" || len(inner.children("allow")) > 0 {
			c.lost(d.Place, "limit_except: who may use other methods is not carried: nobody may; name workloads in a rule of their own for those")
		}
	}
	if d := l.last("proxy_method"); d != nil {
		method := strings.ToUpper(d.arg(0))
		if strings.Contains(method, "$") {
			c.lost(d.Place, "proxy_method %s: not carried; left out", d.arg(0))
			return false
		}
		c.changed(d.Place, "proxy_method: nginx sent %s whatever it was asked; the program has to send that itself", method)
		m.Methods = []string{method}
	}
	return true
}

// withHead adds HEAD where there is GET, as limit_except does.
func withHead(methods []string) (all []string) {
	for _, m := range methods {
		all = append(all, strings.ToUpper(m))
	}
	if slices.Contains(all, "GET") && !slices.Contains(all, "HEAD") {
		all = append(all, "HEAD")
	}
	return all
}

// narrowed keeps what is in both lists; no list is all.
func narrowed(a, b []string) []string {
	if len(a) == 0 {
		return b
	}
	both := slices.DeleteFunc(slices.Clone(a), func(s string) bool { return !slices.Contains(b, s) })
	if len(both) == 0 {
		// Nothing passes: a method that nobody has.
		return []string{"NONE"}
	}
	return both
}

// onlyMethods is the condition by which methods are refused.
var onlyMethods = regexp.MustCompile(`^\^?\(?([A-Z]+(?:\|[A-Z]+)*)\)?\$?$`)

// condition carries the one condition that has a counterpart. Any other closes
// the rule until somebody has looked.
func (b *build) condition(d *directive) {
	c := b.c
	text := strings.Join(d.args, " ")
	inner := strings.TrimSuffix(strings.TrimPrefix(text, "("), ")")
	refuses := len(d.block) == 1 && d.block[0].name == "return" && len(d.block[0].args) > 0 && (d.block[0].arg(0)[:1] == "4" || d.block[0].arg(0)[:1] == "5")
	if fields := strings.Fields(inner); refuses && len(fields) == 3 && fields[0] == "$request_method" && fields[1] == "!~" {
		anchored := strings.HasPrefix(fields[2], "^") && strings.HasSuffix(fields[2], "$") && (!strings.Contains(fields[2], "|") || strings.HasPrefix(fields[2], "^("))
		if m := onlyMethods.FindStringSubmatch(strings.Trim(fields[2], `"'`)); m != nil {
			b.rule.Match.Methods = narrowed(b.rule.Match.Methods, strings.Split(m[1], "|"))
			if !anchored {
				c.changed(d.Place, "if %s: without ^( )$ it also passed methods that only contain these names; those do not pass here", text)
			}
			return
		}
	}
	b.gates = append(b.gates, convert.Gate{Place: d.Place, Reason: "if " + text})
	c.lost(d.Place, "if %s: not carried: write what it asked as methods, headers or paths of the rule; until you name workloads the rules here allow nobody", text)
}
