package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/test/outside"
)

// tagged runs sallyport tag or untag with the daemon's configuration.
func (h *host) tagging(args ...string) result {
	h.t.Helper()
	return h.run(h.sallyport(append(args, "--config", daemonConfig)...))
}

// apart makes a cgroup beside the host's slice and gives its path below the mount.
func (h *host) apart(name string) string {
	h.t.Helper()
	path := "/" + h.name + "-" + name
	h.t.Cleanup(func() { outside.RemoveCgroups(filepath.Join(cgroupRoot(), path)) })
	return path
}

// at prepares a command in a cgroup anywhere, which is made for it.
func (h *host) at(path string, uid int, argv ...string) *exec.Cmd {
	h.t.Helper()
	dir := filepath.Join(cgroupRoot(), path)
	return h.as(uid, append([]string{"bash", "-c", `mkdir -p "$0" && echo $$ > "$0/cgroup.procs" && exec "$@"`, dir}, asUser(uid, argv)...)...)
}

// sleeper starts a process in a cgroup that does nothing, and gives its number.
func (h *host) sleeper(path string) int {
	h.t.Helper()
	c := h.at(path, nobody, "sleep", "600")
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	procs := filepath.Join(cgroupRoot(), path, "cgroup.procs")
	pid := 0
	eventually(h.t, 5*time.Second, "the sleeper runs in "+path, func() bool {
		data, _ := os.ReadFile(procs)
		lines := strings.Fields(string(data))
		if len(lines) != 1 {
			return false
		}
		comm, _ := os.ReadFile("/proc/" + lines[0] + "/comm")
		pid, _ = strconv.Atoi(lines[0])
		return strings.TrimSpace(string(comm)) == "sleep"
	})
	return pid
}

// watches reports whether the keeper has seen a cgroup: it asks for notices of what is
// made in it (inotify(7)), which its own table shows (proc_pid_fdinfo(5)).
func (d *daemon) watches(path string) bool {
	d.h.t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(cgroupRoot(), path), &st); err != nil {
		d.h.t.Fatal(err)
	}
	watch := fmt.Sprintf(" ino:%x ", st.Ino)
	tables, _ := filepath.Glob("/proc/" + strconv.Itoa(d.pid) + "/fdinfo/*")
	return slices.ContainsFunc(tables, func(name string) bool {
		info, _ := os.ReadFile(name)
		return strings.Contains(string(info), "inotify wd:") && strings.Contains(string(info), watch)
	})
}

// workloadNotes gives the notes of the status by cgroup.
func (h *host) workloadNotes() map[string]string {
	h.t.Helper()
	var s struct {
		Workloads []struct{ Name, Cgroup, Note string }
	}
	h.statusInto(&s)
	notes := make(map[string]string)
	for _, w := range s.Workloads {
		notes[w.Cgroup] = w.Name + ": " + w.Note
	}
	return notes
}

const tagPolicy = `
workloads:
  tools: {}
  front: { match: { cgroup: "/%[1]s-front/*" } }
rules:
  - { name: tools, match: { workloads: [tools], hosts: [api.example.com], protocols: [http] }, action: allow }
  - { name: front, match: { workloads: [front], hosts: [api.example.com], protocols: [http] }, action: allow }
`

var curlAPI = []string{"curl", "-4sS", "-m", "10", "--resolve", "api.example.com:80:" + originV4, "http://api.example.com/"}

// auditFree reports whether the last exchange of a cgroup is not from just now.
func (h *host) auditFree(path string) bool {
	n := h.workloadNotes()
	_, ok := n[path]
	return !ok
}
