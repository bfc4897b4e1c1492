package tag

import (
	"fmt"
	"slices"
	"strings"

	"sallyport/pkg/ca"
	"sallyport/pkg/workload"
)

// A Kind is what a tag names.
type Kind string

// The kinds. A tagged unit's is its drop-in, not a record.
const (
	// KindUnit is a systemd unit.
	KindUnit Kind = "unit"
	// KindCgroup is a path below the cgroup2 mount, with all below it.
	KindCgroup Kind = "cgroup"
	// KindContainer is a container's name or id, KindLabel a label of it, K=V.
	KindContainer Kind = "container"
	KindLabel     Kind = "label"
	// KindProcess is a process, which is moved at once: nothing is kept of it.
	KindProcess Kind = "pid"
)

// UnmarshalText implements encoding.TextUnmarshaler. What a newer program may have
// written is an error: to pass it over would let go what was tagged.
func (k *Kind) UnmarshalText(text []byte) error {
	switch v := Kind(text); v {
	case KindUnit, KindCgroup, KindContainer, KindLabel, KindProcess:
		*k = v
		return nil
	default:
		return fmt.Errorf("tags of kind %q are not known", text)
	}
}

// A Record is one tag as it is kept for the next start of what it names.
type Record struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
	// Workload is the value of --workload; "" keeps the own name.
	Workload string `json:"workload,omitempty"`
	// ID is set for a cgroup that is not made again: the tag ends with it. Boot is
	// the boot in which it has that id.
	ID   uint64 `json:"id,omitempty"`
	Boot string `json:"boot,omitempty"`
	// Allow are the openings of a unit, Kept the variables that it keeps.
	Allow []Opening `json:"-"`
	Kept  []ca.Kept `json:"-"`
}

// Match is what the tag holds for, now and later: nothing for a process.
func (r Record) Match() workload.Match {
	switch r.Kind {
	case KindProcess:
		return workload.Match{}
	case KindUnit:
		if before, after, ok := strings.Cut(r.Name, "@."); ok {
			// The drop-in of a template is that of each instance.
			return workload.Match{Units: []string{workload.Quote(before) + "@*." + workload.Quote(after)}}
		}
		return workload.Match{Units: []string{workload.Quote(r.Name)}}
	case KindCgroup:
		p := workload.Quote(r.Name)
		return workload.Match{Cgroups: []string{p, p + "/**"}}
	case KindContainer:
		names := []string{workload.Quote(r.Name)}
		if isShortID(r.Name) {
			names = append(names, r.Name+"*")
		}
		return workload.Match{Containers: []workload.ContainerMatch{{Names: names}}}
	case KindLabel:
		key, value, _ := strings.Cut(r.Name, "=")
		return workload.Match{Containers: []workload.ContainerMatch{{Labels: map[string][]string{key: {workload.Quote(value)}}}}}
	}
	panic(fmt.Sprintf("tag: kind %q", string(r.Kind)))
}

// shortID is how much of a container's id engines print.
const shortID = 12

func isShortID(name string) bool {
	return len(name) >= shortID && strings.Trim(name, "0123456789abcdef") == ""
}

// Named gives the registry's form, the more special cgroup first.
func Named(tags []Record) []workload.Named {
	tags = slices.Clone(tags)
	slices.SortStableFunc(tags, func(a, b Record) int {
		if a.Kind == KindCgroup && b.Kind == KindCgroup {
			return len(b.Name) - len(a.Name)
		}
		return 0
	})
	named := make([]workload.Named, len(tags))
	for i, r := range tags {
		named[i] = workload.Named{Match: r.Match(), Workload: r.Workload}
	}
	return named
}

// Names reports whether a unit's tag is that of this unit; that of a template is
// that of its instances.
func (r Record) Names(unit string) bool {
	if before, after, ok := strings.Cut(r.Name, "@."); ok {
		return strings.HasPrefix(unit, before+"@") && strings.HasSuffix(unit, "."+after)
	}
	return r.Name == unit
}
