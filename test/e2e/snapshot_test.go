package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// A snapshot is what a host has that sallyport could leave behind, a line each.
type snapshot []string

// snapshot looks at the host. Audit files are left out: they stay.
func (h *host) snapshot() snapshot {
	h.t.Helper()
	var s snapshot
	add := func(kind, text string) {
		for line := range strings.Lines(text) {
			s = append(s, kind+" "+strings.TrimRight(line, "\n"))
		}
	}
	add("nft", h.sh("nft list tables; nft -t list ruleset | grep -c .").stdout)
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", h.pid))
	if err != nil {
		h.t.Fatal(err)
	}
	add("mount", string(mounts))
	add("file", h.sh(`find /run /var/lib /etc/sallyport /var/log /tmp /srv /sys/fs/bpf -xdev -printf '%p %m %U %G\n' 2>/dev/null | grep -v -e audit -e /var/log/sallyport -e ' /srv/policy' -e /srv/daemon | sort`).stdout)
	for _, p := range h.processes() {
		add("process", p.String())
	}
	for _, cg := range h.cgroups() {
		add("cgroup", cg)
	}
	return s
}

// cgroupRoot is where cgroup2 is mounted on this machine.
var cgroupRoot = sync.OnceValue(func() string {
	b, _ := os.ReadFile("/proc/mounts")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	return "/sys/fs/cgroup"
})

// cgroups lists the cgroups of the machine that were made for this host's
// configuration. Those of an exec without one are named after a pid: see
// execCgroups.
func (h *host) cgroups() []string {
	all, _ := filepath.Glob(cgroupRoot() + "/" + h.name + "*")
	under, _ := filepath.Glob(cgroupRoot() + "/" + strings.ReplaceAll(h.name, "-", "_") + "*")
	return append(all, under...)
}

// execCgroups lists the cgroups of an exec whose wrapper has this pid.
func execCgroups(pid int) []string {
	all, _ := filepath.Glob(fmt.Sprintf("%s/*-exec-%d*", cgroupRoot(), pid))
	return all
}

// minus gives the lines that are only in s.
func (s snapshot) minus(other snapshot) snapshot {
	var d snapshot
	for _, line := range s {
		if !slices.Contains(other, line) {
			d = append(d, line)
		}
	}
	return d
}

// A kernelObject is a BPF link, map or program by its id, which the kernel
// does not use again soon.
type kernelObject struct{ kind, id string }

func (o kernelObject) String() string { return o.kind + " " + o.id }

// pinnedObjects lists the BPF objects that are pinned on the host, and those
// that they use.
func (h *host) pinnedObjects() []kernelObject {
	h.t.Helper()
	r := h.sh(`shopt -s globstar nullglob
for p in /sys/fs/bpf/sallyport/**; do
  [ -f "$p" ] || continue
  for k in link map; do bpftool -j $k show pinned "$p" 2>/dev/null | grep -q '"id"' && echo "$k $(bpftool -j $k show pinned "$p")"; done
done
true`)
	var found []kernelObject
	add := func(kind string, id int) {
		o := kernelObject{kind, strconv.Itoa(id)}
		if id != 0 && !slices.Contains(found, o) {
			found = append(found, o)
		}
	}
	for line := range strings.Lines(r.stdout) {
		kind, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		var o struct {
			ID     int `json:"id"`
			ProgID int `json:"prog_id"`
		}
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			h.t.Fatalf("bpftool: %v in %q", err, text)
		}
		add(kind, o.ID)
		add("prog", o.ProgID)
		if o.ProgID != 0 {
			var p struct {
				MapIDs []int `json:"map_ids"`
			}
			out, err := exec.Command("bpftool", "-j", "prog", "show", "id", strconv.Itoa(o.ProgID)).CombinedOutput()
			if err == nil {
				err = json.Unmarshal(out, &p)
			}
			if err != nil {
				h.t.Fatalf("bpftool prog %d: %v: %s", o.ProgID, err, out)
			}
			for _, id := range p.MapIDs {
				add("map", id)
			}
		}
	}
	return found
}

// remaining gives those objects that still exist, and those of which it cannot be told.
func remaining(objects []kernelObject) []kernelObject {
	return slices.DeleteFunc(slices.Clone(objects), func(o kernelObject) bool {
		id, err := strconv.ParseUint(o.id, 10, 32)
		if err != nil {
			return false
		}
		var found io.Closer
		switch o.kind {
		case "link":
			found, err = link.NewFromID(link.ID(id))
		case "map":
			found, err = ebpf.NewMapFromID(ebpf.MapID(id))
		case "prog":
			found, err = ebpf.NewProgramFromID(ebpf.ProgramID(id))
		}
		if err == nil {
			found.Close()
		}
		return errors.Is(err, os.ErrNotExist)
	})
}

// goneWithin fails unless everything that came since before is gone in time:
// files, mounts, tables, processes, cgroups and BPF objects.
func (h *host) goneWithin(within time.Duration, before snapshot, objects []kernelObject, wrapper int) {
	h.t.Helper()
	start := time.Now()
	for {
		// What is looked at is not older than this.
		tooLate := late(start, within)
		left := h.snapshot().minus(before)
		if wrapper != 0 {
			left = append(left, execCgroups(wrapper)...)
		}
		for _, o := range remaining(objects) {
			left = append(left, o.String())
		}
		if len(left) == 0 {
			return
		}
		if tooLate {
			h.t.Fatalf("not gone within %s:\n%s", time.Since(start).Round(time.Millisecond), strings.Join(left, "\n"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}
