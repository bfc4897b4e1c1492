package keeper

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"sallyport/pkg/config"
	"sallyport/pkg/datapath"
	"sallyport/pkg/guard"
	"sallyport/pkg/policy"
	"sallyport/pkg/workload"
)

// maxDirectCgroups bounds the cgroups for which the kernel is told exceptions.
// Beyond, a cgroup has none and everything of it goes through the worker.
const maxDirectCgroups = 4096

// directState is what the kernel was told of exceptions.
type directState struct {
	rules   []datapath.DirectRule
	tagged  []guard.Cgroup
	inbound []guard.Inbound
	told    bool
}

// applyDirect tells both locks what the cgroups that exist now may reach
// without us, and where they may be reached, if that has changed. The guard
// knows each cgroup directly below the tagged one by itself, so that it counts
// what it rejects for each.
func (k *Keeper) applyDirect() error {
	k.applying.Lock()
	defer k.applying.Unlock()
	k.mu.Lock()
	c, p := k.config, k.policy
	k.mu.Unlock()
	want := directState{told: true}
	children, err := k.gate.tagged.Children()
	if err != nil {
		return err
	}
	for _, cg := range children[:min(len(children), maxDirectCgroups)] {
		want.tag(cg)
	}
	want.tag(k.prober.cgroup)
	hosts, nets := split(k.own.Prefixes())
	if hasExceptions(c) {
		cgroups, _, err := k.belowAll(maxDirectCgroups)
		if err != nil {
			return err
		}
		for _, cg := range cgroups {
			id, err := k.registry.Identify(cg.ID())
			if errors.Is(err, workload.ErrGone) {
				continue
			} else if err != nil {
				return fmt.Errorf("identify %s: %w", cg.Path(), err)
			}
			rules := apartFrom(nets, p.DirectRules(id.Name, hosts))
			ports := inboundPorts(c, id)
			if len(rules) == 0 && len(ports) == 0 {
				continue
			}
			want.tag(cg)
			for _, r := range rules {
				want.rules = append(want.rules, directRule(cg.ID(), r))
			}
			for _, port := range ports {
				want.inbound = append(want.inbound, guard.Inbound{Cgroup: cg.ID(), Port: port})
			}
		}
	}
	slices.SortFunc(want.tagged, func(a, b guard.Cgroup) int { return cmp.Compare(a.ID, b.ID) })
	if k.direct.told && slices.Equal(k.direct.rules, want.rules) && slices.Equal(k.direct.tagged, want.tagged) && slices.Equal(k.direct.inbound, want.inbound) {
		return nil
	}
	if err := k.gate.setDirect(want.rules, want.tagged, want.inbound); err != nil {
		return err
	}
	k.direct = want
	return nil
}

// tag adds a cgroup that the guard has to know by itself.
func (s *directState) tag(cg workload.Cgroup) {
	g := guard.Cgroup{ID: cg.ID(), Level: cg.Level()}
	if !slices.Contains(s.tagged, g) {
		s.tagged = append(s.tagged, g)
	}
}

// split tells the host's addresses from whole local networks.
func split(own []netip.Prefix) (hosts []netip.Addr, nets []netip.Prefix) {
	for _, p := range own {
		if p.IsSingleIP() {
			hosts = append(hosts, p.Addr())
		} else {
			nets = append(nets, p)
		}
	}
	return hosts, nets
}

// apartFrom drops the rules that touch a network which is local to the host:
// what is the host's own is never reached directly.
func apartFrom(nets []netip.Prefix, rules []policy.DirectRule) []policy.DirectRule {
	return slices.DeleteFunc(rules, func(r policy.DirectRule) bool {
		return slices.ContainsFunc(nets, func(n netip.Prefix) bool { return n.Overlaps(r.Prefix) && !n.Addr().IsLoopback() })
	})
}

// hasExceptions reports whether any workload can have exceptions at all.
func hasExceptions(c *config.Config) bool {
	return slices.ContainsFunc(c.Rules, func(r config.Rule) bool { return r.Handling == config.Direct }) ||
		slices.ContainsFunc(c.Workloads, func(w config.Workload) bool { return len(w.Listen) > 0 })
}

// inboundPorts gives the ports on which a workload may answer other hosts.
func inboundPorts(c *config.Config, id workload.Identity) []uint16 {
	for _, w := range c.Workloads {
		if w.Key == id.Entry {
			return w.Listen
		}
	}
	return nil
}

func directRule(cgroup uint64, r policy.DirectRule) datapath.DirectRule {
	protocol := datapath.TCP
	if r.Protocol == policy.UDP {
		protocol = datapath.UDP
	}
	return datapath.DirectRule{Cgroup: cgroup, Prefix: r.Prefix, First: r.First, Last: r.Last, Protocol: protocol, Rule: r.Rule}
}

// belowAll lists the tagged cgroups and all below them, at most n; where there are
// more they take turns, and no workload costs another its places.
func (k *Keeper) belowAll(n int) (all []workload.Cgroup, cut []*turn, err error) {
	cut, err = byTurnsBelow(k.gate.taggedCgroups(), n, func(t *turn) bool {
		all = append(all, t.cgroup)
		return true
	})
	return all, cut, err
}

// below lists a cgroup and all below it, at most n.
func below(cg workload.Cgroup, n int) ([]workload.Cgroup, error) {
	list := []workload.Cgroup{cg}
	for i := 0; i < len(list) && len(list) < n; i++ {
		children, err := list[i].Children()
		if errors.Is(err, workload.ErrGone) {
			continue
		} else if err != nil {
			return nil, err
		}
		list = append(list, children...)
	}
	return list[:min(len(list), n)], nil
}
