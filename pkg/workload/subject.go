package workload

import (
	"path/filepath"
	"strings"
)

// A subject is what entries are compared with.
type subject struct {
	id        Identity
	program   string // base name of the command's program
	container Container
	// proven says that an engine vouches for the container; placed, that its id
	// stands where only root makes cgroups.
	proven, placed bool
}

// A foundContainer is what engines say of a cgroup.
type foundContainer struct {
	id        string
	container Container
	// missed says that the path names a container that no engine vouches for, now.
	missed bool
}

// container asks whose the cgroup is where an entry needs to know. A path alone
// proves nothing: who may make cgroups below its own can name one after another
// container. So the deepest counts whose first process is there.
func (r *Registry) container(path string, t *Tag) (f foundContainer) {
	if t != nil && len(t.Argv) > 0 || r.containers == nil || !r.asks.Load() {
		return f
	}
	for _, c := range containersOf(path) {
		known, err := r.containers.Container(c.id)
		if err == nil && (known.Cgroup == c.path || strings.HasPrefix(known.Cgroup, c.path+"/")) {
			return foundContainer{id: c.id, container: known}
		}
		f.missed = true
	}
	return f
}

func newSubject(path string, t *Tag, found *foundContainer) *subject {
	s := &subject{id: Identity{Cgroup: path, Confined: true}}
	if t != nil && len(t.Argv) > 0 {
		s.id.Command = commandLine(t.Argv)
		s.program = filepath.Base(t.Argv[0])
		s.id.User = t.User
		s.id.Confined = !t.Unconfined
		return s
	}
	owner := OwnerOf(path)
	s.id.Unit, s.id.Container = owner.Unit, owner.Container
	s.placed = owner.Container != ""
	if found.id != "" {
		s.id.Container, s.container, s.proven = found.id, found.container, true
	}
	return s
}

// commandLine is what `command` is compared with.
func commandLine(argv []string) string {
	line := strings.Join(argv, " ")
	if len(line) > maxCommand {
		line = line[:maxCommand]
	}
	return line
}
