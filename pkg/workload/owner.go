package workload

import (
	"strings"
)

// An Owner is what a cgroup belongs to as its path tells; at most one field is
// set, none for a plain cgroup.
type Owner struct {
	// Unit is the systemd unit with its suffix, as systemctl shows it:
	// "mcp-github.service", "run\x2d1.scope".
	Unit string
	// Container is the container's id in full.
	Container string
}

// OwnerOf reads a cgroup path from its top, where only root makes cgroups: the
// first element that is a unit with processes or a container is the owner, as for
// systemd itself (cg_path_get_unit), and without one the deepest slice. What comes
// further down can be made by who runs there (Delegate=, a user's own manager, an
// engine in a container) and could bear any name.
func OwnerOf(path string) Owner {
	unit, parent := "", ""
	engine := false
	for element := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if id := containerID(element, parent); id != "" {
			return Owner{Container: id}
		}
		parent = element
		name := unescapeCgroup(element)
		switch {
		case engine: // its containers are somewhere below
		case hasProcesses(name):
			if !isEngine(name) {
				return Owner{Unit: name}
			}
			unit, engine = name, true
		case isUnit(name, ".slice"):
			unit = name
		}
	}
	return Owner{Unit: unit}
}

// hasProcesses reports whether a name is that of a unit with processes of its own.
func hasProcesses(name string) bool {
	return isUnit(name, ".service") || isUnit(name, ".scope") || isUnit(name, ".socket") ||
		isUnit(name, ".mount") || isUnit(name, ".swap")
}

// isEngine reports whether a unit is a container engine's: what it makes below
// itself are its containers.
func isEngine(name string) bool {
	switch name {
	case "docker.service", "containerd.service", "podman.service", "crio.service", "cri-docker.service",
		"k3s.service", "k3s-agent.service", "rke2-server.service", "rke2-agent.service", "kubelet.service":
		return true
	}
	return false
}

// A claim is a container's id in a path, which ends with it.
type claim struct{ id, path string }

// containersOf gives the containers that a path names, the deepest first.
func containersOf(path string) (all []claim) {
	names := strings.Split(strings.Trim(path, "/"), "/")
	for i := len(names) - 1; i >= 0; i-- {
		parent := ""
		if i > 0 {
			parent = names[i-1]
		}
		if id := containerID(names[i], parent); id != "" {
			all = append(all, claim{id, "/" + strings.Join(names[:i+1], "/")})
		}
	}
	return all
}

// unescapeCgroup undoes systemd's cg_escape: names that could be taken for a
// control file get one "_" in front.
func unescapeCgroup(name string) string { return strings.TrimPrefix(name, "_") }

func isUnit(name, suffix string) bool {
	return len(name) > len(suffix) && strings.HasSuffix(name, suffix)
}

// UnescapeUnit undoes systemd's \xHH in a unit name (systemd.unit(5)), so that
// a pattern can name `mcp-github.service` although the cgroup is
// `mcp\x2dgithub.service`. Anything else stays as it is.
func UnescapeUnit(name string) string {
	if !strings.Contains(name, `\x`) {
		return name
	}
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] == '\\' && i+3 < len(name) && name[i+1] == 'x' {
			hi, lo := unhex(name[i+2]), unhex(name[i+3])
			if hi >= 0 && lo >= 0 {
				b.WriteByte(byte(hi<<4 | lo))
				i += 3
				continue
			}
		}
		b.WriteByte(name[i])
	}
	return b.String()
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// Lengths of container ids in hexadecimal digits: sha256 for the engines, half
// of it for old cri-o and nerdctl test builds, and rkt-like short ids never.
const (
	longID  = 64
	shortID = 32
)

// scopePrefixes are what engines put before the id in a scope's name. The
// conmon helper of podman and cri-o runs in a scope too ("crio-conmon-ID"); it
// is no container, and its prefix does not leave a bare id.
var scopePrefixes = [...]string{"docker-", "libpod-payload-", "libpod-", "cri-containerd-", "crio-", "nerdctl-", "buildkit-"}

// containerID is the id that a path element names, "" if it is none. Engines
// write PREFIX-ID.scope under systemd, and a bare ID or PREFIX-ID below a
// directory of theirs otherwise.
func containerID(name, parent string) string {
	base, isScope := strings.CutSuffix(name, ".scope")
	for _, prefix := range scopePrefixes {
		if id, ok := strings.CutPrefix(base, prefix); ok && isID(id) {
			return id
		}
	}
	// containerd with the systemd driver and an explicit slice names its
	// units "ID.scope" or, seen from inside the CRI, "SLICE:cri-containerd:ID".
	if i := strings.LastIndexByte(base, ':'); i >= 0 && isID(base[i+1:]) {
		return base[i+1:]
	}
	if !isID(base) {
		return ""
	}
	// A bare id: below /docker, /NAMESPACE of containerd, /libpod_parent,
	// /kubepods/…/podUID, /ecs/TASK. 64 digits are only ever an id; fewer
	// need a parent that says so.
	if len(base) == longID || isScope || isContainerParent(parent) {
		return base
	}
	return ""
}

func isContainerParent(name string) bool {
	switch name {
	case "docker", "libpod_parent", "k8s.io", "default", "moby", "buildkit", "ecs":
		return true
	}
	return strings.HasPrefix(name, "pod") || strings.HasPrefix(name, "kubepods")
}

func isID(s string) bool {
	if len(s) != longID && len(s) != shortID {
		return false
	}
	for i := 0; i < len(s); i++ {
		if unhex(s[i]) < 0 {
			return false
		}
	}
	return true
}
