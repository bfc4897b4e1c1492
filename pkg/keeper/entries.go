package keeper

import (
	"sallyport/pkg/config"
	"sallyport/pkg/workload"
)

// entries turns the configured workloads into the registry's form.
func entries(c *config.Config) []workload.Entry {
	out := make([]workload.Entry, len(c.Workloads))
	for i, w := range c.Workloads {
		out[i] = workload.Entry{Key: w.Key, Name: w.Name}
		if w.Match == nil {
			continue
		}
		out[i].Match = workload.Match{
			Units:    globs(w.Match.Unit),
			Cgroups:  globs(w.Match.Cgroup),
			Commands: globs(w.Match.Command),
			Users:    globs(w.Match.User),
		}
		for _, c := range w.Match.Containers {
			m := workload.ContainerMatch{Names: globs(c.Name), Images: globs(c.Image), Labels: make(map[string][]string, len(c.Labels))}
			for _, l := range c.Labels {
				m.Labels[l.Key] = globs(l.Values)
			}
			out[i].Match.Containers = append(out[i].Match.Containers, m)
		}
	}
	return out
}

// globs gives the patterns as they were written.
func globs(gs config.Globs) []string {
	out := make([]string, len(gs))
	for i, g := range gs {
		out[i] = g.String()
	}
	return out
}
