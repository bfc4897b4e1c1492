package keeper

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"sallyport/pkg/ca"
	"sallyport/pkg/workload"
)

// maxEnviron bounds what is read of an environment: execve(2) passes 6 MiB at most.
const maxEnviron = 6 << 20

// trustMissing says what a container lacks of our trust, "" if nothing: the mount
// of the trust directory and each variable, as its first process has them.
func (k *Keeper) trustMissing(cg workload.Cgroup) string {
	pid, err := firstProcess(cg)
	if err != nil || pid == 0 {
		return "" // it ends or begins; the next status tells
	}
	mounts, environ, err := trustOf(pid)
	if err != nil {
		return ""
	}
	return missingTrust(mounts, environ, filepath.Base(k.trust.Shared().Path()))
}

// firstProcess is the oldest process of a cgroup and all below it: the least
// number among those that the reader sees.
func firstProcess(cg workload.Cgroup) (int, error) {
	cgroups, err := below(cg, maxDirectCgroups)
	if err != nil {
		return 0, err
	}
	first := 0
	var start uint64
	for _, c := range cgroups {
		pids, err := c.Procs()
		if err != nil {
			continue
		}
		for _, pid := range pids {
			p, err := workload.LookUp(pid)
			if err == nil && (first == 0 || p.Start < start) {
				first, start = pid, p.Start
			}
		}
	}
	return first, nil
}

// trustOf reads a process's mounts and the environment that it was started with.
func trustOf(pid int) ([]workload.Mount, []string, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	f, err := os.Open(dir + "/mountinfo")
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	mounts, err := workload.ParseMountinfo(f)
	if err != nil {
		return nil, nil, err
	}
	e, err := os.Open(dir + "/environ")
	if err != nil {
		return nil, nil, err
	}
	defer e.Close()
	data, err := io.ReadAll(io.LimitReader(e, maxEnviron))
	if err != nil {
		return nil, nil, err
	}
	var environ []string
	for v := range bytes.SplitSeq(data, []byte{0}) {
		if len(v) > 0 {
			environ = append(environ, string(v))
		}
	}
	return mounts, environ, nil
}

// missingTrust compares. name is that of the shared trust directory, 16 hex digits
// of our root's hash: a mount whose root has it is ours.
func missingTrust(mounts []workload.Mount, environ []string, name string) string {
	var points []string
	for _, m := range mounts {
		if slices.Contains(strings.Split(m.Root, "/"), name) {
			points = append(points, m.Point)
		}
	}
	if len(points) == 0 {
		return "no trust directory is mounted; see container-args"
	}
	// What is set stays whatever it says: a user's own value is kept.
	unset, _ := ca.Environment(environ, ca.Paths{Bundle: "-", Root: "-"})
	var names []string
	for _, u := range unset {
		n, _, _ := strings.Cut(u, "=")
		names = append(names, n)
	}
	if len(names) > 0 {
		return fmt.Sprintf("%s not set; see container-args", strings.Join(names, ", "))
	}
	return ""
}
