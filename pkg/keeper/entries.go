package keeper

import (
	"strings"

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
		m := workload.Match{
			Units:    globs(w.Match.Unit),
			Cgroups:  globs(w.Match.Cgroup),
			Commands: globs(w.Match.Command),
			Users:    globs(w.Match.User),
		}
		if ct := w.Match.Container; ct != nil {
			m.Containers = []workload.ContainerMatch{{Names: globs(ct.Name), Images: globs(ct.Image), Labels: labels(ct.Label)}}
		}
		out[i].Match = m
	}
	return out
}

// labels splits globs written K=V by their key.
func labels(gs config.Globs) map[string][]string {
	if len(gs) == 0 {
		return nil
	}
	out := make(map[string][]string, len(gs))
	for _, g := range globs(gs) {
		k, v, _ := strings.Cut(g, "=")
		out[k] = append(out[k], v)
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
