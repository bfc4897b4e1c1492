package tag

import (
	"fmt"
	"strings"

	"sallyport/pkg/ca"
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
	for _, m := range c.Mounts {
		args = append(args, "--volume="+m.Source+":"+m.Target+":ro")
	}
	for _, e := range c.Environment {
		args = append(args, "--env="+e)
	}
	return args
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
	var volumes []string
	for _, m := range c.Mounts {
		volumes = append(volumes, m.Source+":"+m.Target+":ro")
	}
	list("volumes", volumes)
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
