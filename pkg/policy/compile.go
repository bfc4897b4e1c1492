package policy

import (
	"fmt"
	"net/netip"

	"sallyport/pkg/config"
	"sallyport/pkg/policy/address"
	"sallyport/pkg/policy/condition"
	"sallyport/pkg/policy/pattern"
)

// A rule is one rule ready to be compared.
type rule struct {
	name     string
	index    int
	allow    bool
	handling Handling
	mode     Mode
	hasMode  bool
	// set is the index of the rule's workloads among Policy.sets; -1: any.
	set       int32
	protocols protocolSet
	// needsRequest is true where methods, paths or headers are given, or a stage
	// without which nothing may pass.
	needsRequest bool
	hosts        []pattern.Host
	cidrs        []netip.Prefix
	exempt       address.Exemptions
	ports        []config.PortRange
	methods      methodSet
	paths        []pattern.Path
	headers      []config.HeaderMatch
	when         *condition.Condition
	timeouts     config.Timeouts
	// detour is nil where the rule's connections go by no proxy.
	detour *detour
	// upstream names the targets that stand in for the rule's hosts, "" for none.
	upstream string
	// stages is true where the rule does something with requests.
	stages bool
	// certificate is shown to upstreams that ask for one, nil for none.
	certificate *config.UpstreamTLS
}

// needsInspection reports whether the rule does something that it can do only
// where the TLS of its connections is ours.
func (r *rule) needsInspection() bool {
	return r.needsRequest || r.stages || r.certificate != nil
}

// ruleless stands for the file's default: it narrows and exempts nothing.
var ruleless = &rule{set: -1}

// A workloadSet is a list of globs that rules share.
type workloadSet struct {
	exact []string
	globs []pattern.Glob
}

func (s *workloadSet) match(workload string) bool {
	for _, name := range s.exact {
		if name == workload {
			return true
		}
	}
	for i := range s.globs {
		if s.globs[i].Match(workload) {
			return true
		}
	}
	return false
}

// A workloadMode is the mode of what an entry of `workloads` can name.
type workloadMode struct {
	name pattern.Glob
	mode Mode
}

// A protocolSet has a bit for each Protocol.
type protocolSet uint8

func (p Protocol) bit() protocolSet { return 1 << p }

// anyTCP is every protocol over TCP.
const anyTCP protocolSet = 1<<AnyTCP | 1<<HTTP | 1<<HTTPS | 1<<TLS | 1<<TCP

// Compile turns a valid configuration into a Policy. It fails only for a value
// that config.Parse would not give.
func Compile(c *config.Config) (*Policy, error) {
	p := &Policy{
		rules:         make([]rule, len(c.Rules)),
		open:          c.Default == config.Allow,
		allowUnlisted: c.DNS.AllowUnlisted,
		timeouts:      c.Timeouts,

		bindingDefaults: c.Defaults.Binding(),
	}
	var err error
	if p.mode, _, err = mode(c.Mode); err != nil {
		return nil, err
	}
	for i := range c.Workloads {
		w := &c.Workloads[i]
		m, set, err := mode(w.Mode)
		if err != nil {
			return nil, fmt.Errorf("workload %s: %w", w.Key, err)
		}
		if !set {
			m = p.mode
		}
		p.workloads = append(p.workloads, workloadMode{w.NameGlob(), m})
	}
	sets := make(map[string]int32)
	detours := make(map[*config.UpstreamProxy]*detour)
	p.proxyNames = make(map[string]bool)
	for _, u := range c.UpstreamProxies() {
		detours[u] = newDetour(u)
		if !pattern.IsAddress(u.Host) {
			p.proxyNames[u.Host] = true
		}
	}
	p.proxied, p.detour = len(detours) > 0, detours[c.ProxyOf(nil)]
	for i := range c.Rules {
		if err := p.compileRule(&p.rules[i], &c.Rules[i], sets); err != nil {
			return nil, fmt.Errorf("rule %s: %w", c.Rules[i].Name, err)
		}
		p.rules[i].index = i + 1
		p.rules[i].detour = detours[c.ProxyOf(&c.Rules[i])]
		p.rules[i].certificate = c.CertificateOf(&c.Rules[i])
		p.proxied = p.proxied || c.Rules[i].Upstream != ""
	}
	p.index()
	return p, nil
}

func (p *Policy) compileRule(r *rule, c *config.Rule, sets map[string]int32) error {
	m := &c.Match
	*r = rule{
		name: c.Name, allow: c.Action == config.Allow, set: p.set(m.Workloads, sets),
		// What is no HTTP would go past the stages, and no target could be asked.
		needsRequest: m.NeedsRequest() || c.Binding(), upstream: c.Upstream, stages: c.NeedsRequest(), hosts: m.Hosts, cidrs: m.CIDRs,
		exempt: address.Exempt(m.CIDRs, c.Private), ports: m.Ports,
		methods: compileMethods(m.Methods), paths: m.Paths, headers: m.Headers, when: m.When,
		timeouts: c.Timeouts.Over(p.timeouts),
	}
	var err error
	if r.mode, r.hasMode, err = mode(c.Mode); err != nil {
		return err
	}
	switch c.Handling {
	case config.Inspect, "":
		r.handling = Inspect
	case config.Tunnel:
		r.handling = Tunnel
	case config.Direct:
		r.handling = Direct
	default:
		return fmt.Errorf("unknown handling %q", c.Handling)
	}
	if c.Action != config.Allow && c.Action != config.Deny {
		return fmt.Errorf("unknown action %q", c.Action)
	}
	if r.protocols, err = protocols(m.Protocols); err != nil {
		return err
	}
	return nil
}

// mode also reports whether one is set.
func mode(m config.Mode) (Mode, bool, error) {
	switch m {
	case "":
		return Enforce, false, nil
	case config.Enforce:
		return Enforce, true, nil
	case config.Observe:
		return Observe, true, nil
	default:
		return Enforce, false, fmt.Errorf("unknown mode %q", m)
	}
}

// protocols gives what a rule covers: tls covers https, tcp covers all.
func protocols(list []config.Protocol) (set protocolSet, err error) {
	if len(list) == 0 {
		return anyTCP, nil
	}
	for _, p := range list {
		switch p {
		case config.HTTP:
			set |= HTTP.bit()
		case config.HTTPS:
			set |= HTTPS.bit()
		case config.TLSP:
			set |= TLS.bit() | HTTPS.bit()
		case config.TCP:
			set |= anyTCP
		case config.UDP:
			set |= UDP.bit()
		default:
			return 0, fmt.Errorf("unknown protocol %q", p)
		}
	}
	return set, nil
}

// set gives the index of a list of workload globs; equal lists share one, so
// that each is compared with a workload at most once for a decision.
func (p *Policy) set(globs config.Globs, known map[string]int32) int32 {
	if len(globs) == 0 {
		return -1
	}
	key := ""
	for _, g := range globs {
		key += g.String() + "\x00"
	}
	if i, ok := known[key]; ok {
		return i
	}
	var s workloadSet
	for _, g := range globs {
		if name, ok := g.Exact(); ok {
			s.exact = append(s.exact, name)
		} else {
			s.globs = append(s.globs, g)
		}
	}
	i := int32(len(p.sets))
	p.sets = append(p.sets, s)
	known[key] = i
	return i
}
