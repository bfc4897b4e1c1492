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

// OwnerOf reads a cgroup path. The deepest container wins, then the deepest
// service or scope, then the deepest slice: a cgroup that a unit made for
// itself (Delegate=) belongs to the unit, a container inside a unit to the
// container.
func OwnerOf(path string) Owner {
	if all := containersOf(path); len(all) > 0 {
		return Owner{Container: all[0].id}
	}
	names := strings.Split(strings.Trim(path, "/"), "/")
	slice := ""
	for i := len(names) - 1; i >= 0; i-- {
		name := unescapeCgroup(names[i])
		switch {
		case isUnit(name, ".service"), isUnit(name, ".scope"), isUnit(name, ".socket"),
			isUnit(name, ".mount"), isUnit(name, ".swap"):
			return Owner{Unit: name}
		case slice == "" && isUnit(name, ".slice"):
			slice = name
		}
	}
	return Owner{Unit: slice}
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
