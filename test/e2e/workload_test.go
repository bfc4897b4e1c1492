package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// nobody is an ordinary user: its uid and gid.
const nobody = 65534

// below makes a cgroup below the host's slice and gives its directory.
func (h *host) below(cgroup string) string {
	h.t.Helper()
	dir := filepath.Join(cgroupRoot(), h.slice, cgroup)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	return dir
}

// inside prepares a command in a cgroup below the slice: a workload that
// nothing but the kernel's rules confines. As uid 0 it has every capability.
func (h *host) inside(cgroup string, uid int, argv ...string) *exec.Cmd {
	h.t.Helper()
	return h.as(uid, append([]string{"bash", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, h.below(cgroup)}, asUser(uid, argv)...)...)
}

// outside prepares a command that no cgroup of ours holds.
func (h *host) outside(uid int, argv ...string) *exec.Cmd {
	h.t.Helper()
	return h.as(uid, asUser(uid, argv)...)
}

func (h *host) as(uid int, argv ...string) *exec.Cmd {
	c := h.command(argv...)
	if uid != 0 {
		c.Env = append(c.Env, "HOME=/tmp", "USER=nobody")
	}
	return c
}

func asUser(uid int, argv []string) []string {
	if uid == 0 {
		return argv
	}
	id := strconv.Itoa(uid)
	return append([]string{"setpriv", "--reuid", id, "--regid", id, "--clear-groups", "--"}, argv...)
}
