package keeper

import (
	"slices"
	"strings"
	"time"
)

// A refusedNamespace is one that has no listeners although something tagged runs
// in it, or that is tried again and not proven yet.
type refusedNamespace struct {
	workload string
	why      string
	until    time.Time
	pause    time.Duration
}

// refuse notes why a namespace is refused, and when it is tried again.
func (n *namespaces) refuse(inode uint64, s *sighting, why string, now time.Time) {
	r := n.refused[inode]
	if r == nil {
		r = &refusedNamespace{workload: n.workloadOf(s), pause: openAgain / 2}
		n.refused[inode] = r
	}
	r.why, r.pause = why, min(2*r.pause, openLatest)
	r.until = now.Add(r.pause)
}

// refusals are sentences for status, one for each workload and cause.
func (n *namespaces) refusals() []string {
	var all []string
	for _, r := range n.refused {
		sentence := r.workload + ": " + r.why + ": everything in that network namespace is refused"
		if !slices.Contains(all, sentence) {
			all = append(all, sentence)
		}
	}
	slices.Sort(all)
	if len(all) > maxNamespacesNamed {
		all = append(all[:maxNamespacesNamed], "more workloads have network namespaces in which everything is refused")
	}
	return all
}

// workloadOf names the workload of a sighting for a person.
func (n *namespaces) workloadOf(s *sighting) string {
	path := s.workload.Path()
	id, err := n.k.registry.Identify(s.members[0].in.ID())
	if err != nil || strings.HasSuffix(path, "/"+id.Name) {
		return path
	}
	return id.Name + " (" + path + ")"
}
