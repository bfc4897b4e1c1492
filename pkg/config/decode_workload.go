package config

import (
	"fmt"
	"slices"
	"strings"

	"sallyport/pkg/policy/pattern"
)

// nameBytes are those of a workload's name beside letters and digits: what unit
// and container names have.
const nameBytes = "_-.@:+\\"

// placeholders are what a workload's name may hold.
var placeholders = []string{"{unit}", "{container}", "{command}"}

// workloads reads the entries in file order.
func (d *decoder) workloads(n *node) []Workload {
	switch {
	case n.kind != mapping:
		d.add(n.place, "workloads: want a mapping of names, found %s", n.found())
		return nil
	case len(n.entries) > MaxWorkloads:
		d.add(n.place, "workloads: more than %d", MaxWorkloads)
		return nil
	case len(n.entries) == 0:
		return nil
	}
	all := make([]Workload, 0, len(n.entries))
	for _, e := range n.entries {
		if err := checkIdentifier(e.key, MaxName, nameBytes); err != nil {
			d.add(e.place, "workload %q %v", e.key, err)
			continue
		}
		w := Workload{Key: e.key, Name: e.key}
		if !e.value.isNull() {
			d.workload(e.value, &w)
		}
		all = append(all, w)
	}
	return all
}

func (d *decoder) workload(n *node, w *Workload) {
	d.object(n, "workloads{}",
		field{"match", func(n *node) { w.Match = d.workloadMatch(n) }},
		field{"name", func(n *node) { d.workloadName(n, &w.Name) }},
		field{"mode", func(n *node) { word(d, n, "workloads{}.mode", &w.Mode, Enforce, Observe) }},
		field{"listen", func(n *node) {
			d.items(n, "workloads{}.listen", func(n *node) {
				var port uint16
				if d.port(n, "workloads{}.listen", 1, &port); port != 0 {
					w.Listen = append(w.Listen, port)
				}
			})
		}},
	)
}

func (d *decoder) workloadMatch(n *node) *WorkloadMatch {
	m := &WorkloadMatch{}
	if n.kind == mapping && len(n.entries) == 0 {
		d.add(n.place, "match: empty: leave the key out where only --workload names the workload")
	}
	const path = "workloads{}.match"
	glob := func(key string, into *Globs) field {
		return field{key, func(n *node) { *into = d.globs(n, path+"."+key) }}
	}
	d.object(n, path,
		glob("unit", &m.Unit),
		glob("cgroup", &m.Cgroup),
		glob("command", &m.Command),
		glob("user", &m.User),
		field{"container", func(n *node) {
			d.few(n, path+".container", MaxFew, func(n *node) { m.Containers = append(m.Containers, d.containerMatch(n, path+".container")) })
		}},
	)
	return m
}

func (d *decoder) containerMatch(n *node, path string) (m ContainerMatch) {
	d.object(n, path,
		field{"name", func(n *node) { m.Name = d.globs(n, path+".name") }},
		field{"image", func(n *node) { m.Image = d.globs(n, path+".image") }},
		field{"label", func(n *node) { m.Labels = d.labels(n, path+".label") }},
	)
	if n.kind == mapping && len(n.entries) == 0 {
		d.add(n.place, "%sempty: give name, image or label", prefix(path))
	}
	return m
}

// labels reads K=V, V being a glob; of several with one key any will do.
func (d *decoder) labels(n *node, path string) []LabelMatch {
	var all []LabelMatch
	d.few(n, path, MaxFew, func(n *node) {
		s, ok := d.text(n, path)
		if !ok {
			return
		}
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" || strings.TrimSpace(key) != key {
			d.add(n.place, "%swant a label such as tier=front, found %q", prefix(path), s)
			return
		}
		g, err := pattern.ParseGlob(value)
		if err != nil {
			d.add(n.place, "%sthe glob %q %v", prefix(path), value, err)
			return
		}
		i := slices.IndexFunc(all, func(l LabelMatch) bool { return l.Key == key })
		if i < 0 {
			i = len(all)
			all = append(all, LabelMatch{Key: key})
		}
		all[i].Values = append(all[i].Values, g)
	})
	slices.SortFunc(all, func(a, b LabelMatch) int { return strings.Compare(a.Key, b.Key) })
	return all
}

// workloadName reads a name that may hold placeholders.
func (d *decoder) workloadName(n *node, into *string) {
	s, ok := d.text(n, "workloads{}.name")
	if !ok {
		return
	}
	literal := s
	for _, p := range placeholders {
		literal = strings.ReplaceAll(literal, p, "x")
	}
	if i := strings.IndexAny(literal, "{}"); i >= 0 {
		d.add(n.place, "name: %q: want {unit}, {container} or {command} and no other braces", s)
		return
	}
	if err := checkIdentifier(literal, MaxName, nameBytes); err != nil {
		d.add(n.place, "name: %q %v", s, err)
		return
	}
	*into = s
}

// NameGlob matches every name that the entry can give: its name, with whatever
// may stand for a placeholder.
func (w *Workload) NameGlob() pattern.Glob {
	name := strings.ReplaceAll(w.Name, `\`, `\\`)
	for _, p := range placeholders {
		name = strings.ReplaceAll(name, p, "*")
	}
	g, err := pattern.ParseGlob(name)
	if err != nil {
		panic(fmt.Sprintf("config: name %q of a workload: %v", w.Name, err))
	}
	return g
}
