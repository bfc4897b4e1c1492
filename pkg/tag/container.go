package tag

import (
	"fmt"
	"strings"

	"sallyport/pkg/ca"
	"sallyport/pkg/config"
)

// An Engine is who starts a container.
type Engine string

// The engines, and docker's compose file.
const (
	Docker  Engine = "docker"
	Podman  Engine = "podman"
	Compose Engine = "compose"
)

// ParseEngine reads the value of --engine.
func ParseEngine(s string) (Engine, error) {
	switch e := Engine(s); e {
	case Docker, Podman, Compose:
		return e, nil
	}
	return "", fmt.Errorf("engine %q is none of docker, podman, compose", s)
}

// A Container is what a container needs to be captured and to trust.
type Container struct {
	// Slice is the parent of its cgroup.
	Slice string
	// Name and Labels are what the workload's match demands.
	Name        string
	Labels      []string
	Mounts      []ca.Mount
	Environment []string
}

// ContainerFor gives what a container needs; of a configured workload also what its
// match demands. A workload without a container to match is an error: nothing would
// give the container its name.
func (h *Host) ContainerFor(workload string) (*Container, error) {
	set, _ := Variables(nil, h.Trust)
	c := &Container{Slice: h.Config.Slice, Mounts: mountsOf(h.Trust), Environment: set}
	if workload == "" {
		return c, nil
	}
	for _, w := range h.Config.Workloads {
		if w.Key != workload {
			continue
		}
		if w.Match != nil {
			for _, m := range w.Match.Containers {
				if c.of(m) {
					return c, nil
				}
			}
		}
		return nil, fmt.Errorf("workload %s has no match.container with a name or label that is no pattern: add one, so that the container is recognised", workload)
	}
	return nil, fmt.Errorf("workload %q is not configured: add it with match: { container: { name: … } }", workload)
}

// of takes the name and labels that a match demands; false where one of them is a
// pattern, or an image decides alone.
func (c *Container) of(m config.ContainerMatch) bool {
	literal := func(globs config.Globs) (string, bool) {
		for _, g := range globs {
			if s := g.String(); !strings.ContainsAny(s, "*?[{\\") {
				return s, true
			}
		}
		return "", false
	}
	name, labels := "", []string(nil)
	if len(m.Name) > 0 {
		var ok bool
		if name, ok = literal(m.Name); !ok {
			return false
		}
	}
	for _, l := range m.Labels {
		value, ok := literal(l.Values)
		if !ok {
			return false
		}
		labels = append(labels, l.Key+"="+value)
	}
	if name == "" && len(labels) == 0 {
		return false
	}
	c.Name, c.Labels = name, labels
	return true
}

// Args are the flags for `docker run` and `podman run`, one option and its value
// a word each.
func (c *Container) Args() []string {
	args := []string{"--cgroup-parent=" + c.Slice}
	if c.Name != "" {
		args = append(args, "--name="+c.Name)
	}
	for _, l := range c.Labels {
		args = append(args, "--label="+l)
	}
	for _, v := range c.volumes() {
		args = append(args, "--volume="+v)
	}
	for _, e := range c.Environment {
		args = append(args, "--env="+e)
	}
	return args
}

// volumes are the mounts as engines take them.
func (c *Container) volumes() []string {
	volumes := make([]string, len(c.Mounts))
	for i, m := range c.Mounts {
		volumes[i] = m.Source + ":" + m.Target + ":ro"
	}
	return volumes
}

// Text is what container-args prints.
func (c *Container) Text(e Engine) string {
	var b strings.Builder
	if e != Compose {
		for _, a := range c.Args() {
			b.WriteString(shellQuote(a) + "\n")
		}
		return b.String()
	}
	fmt.Fprintf(&b, "cgroup_parent: %s\n", yamlQuote(c.Slice))
	if c.Name != "" {
		fmt.Fprintf(&b, "container_name: %s\n", yamlQuote(c.Name))
	}
	list := func(key string, items []string) {
		if len(items) == 0 {
			return
		}
		b.WriteString(key + ":\n")
		for _, i := range items {
			// Compose expands variables in values.
			b.WriteString("  - " + yamlQuote(strings.ReplaceAll(i, "$", "$$")) + "\n")
		}
	}
	list("labels", c.Labels)
	list("volumes", c.volumes())
	list("environment", c.Environment)
	return b.String()
}

// shellQuote makes one word for a POSIX shell.
func shellQuote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=./:,@%+") == "" && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// yamlQuote makes a YAML scalar.
func yamlQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
