package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/config"
	"sallyport/pkg/keeper/protocol"
)

// roomInterval is how often is looked at what the host has left of what we need.
const roomInterval = 5 * time.Second

const (
	// diskLeast is what a file system of ours must have left: a batch of audit
	// lines, the counters of rate limits, the trust directory of a workload.
	diskLeast = 16 << 20
	// filesLeast are its inodes.
	filesLeast = 256
	// nearlyFull is from how many per cent on a bounded thing of the host is a
	// problem.
	nearlyFull = 90
)

// watchRoom tells of disks, descriptors and tables of the host that are nearly full,
// of certificates near their end, and of programs of others at our hooks.
func (k *Keeper) watchRoom(ctx context.Context) error {
	tick := time.NewTicker(roomInterval)
	defer tick.Stop()
	for {
		k.concern("disk", k.disks()...)
		k.concern("host", fullHost(k.hostResources())...)
		k.watchCertificates()
		k.watchOthers()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// disks tells of the file systems of ours that are nearly full.
func (k *Keeper) disks() (problems []string) {
	k.mu.Lock()
	c := k.config
	k.mu.Unlock()
	type place struct{ what, dir string }
	places := []place{{"state_dir", c.StateDir}, {"runtime_dir", c.RuntimeDir}}
	if o := k.auditOptions(); slices.Contains(c.Audit.Sinks, config.SinkFile) {
		places = append(places, place{"audit", filepath.Dir(o.Path)})
	}
	for _, p := range places {
		var st unix.Statfs_t
		if err := unix.Statfs(p.dir, &st); err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				problems = append(problems, fmt.Sprintf("%s %s: %v", p.what, p.dir, err))
			}
			continue
		}
		if why := scarce(&st); why != "" {
			problems = append(problems, fmt.Sprintf("%s %s has %s left; make room, or the audit and counters of rate limits cannot be written", p.what, p.dir, why))
		}
	}
	return problems
}

// scarce says what a file system has too little of, "" for nothing. A small one
// may be a tenth full at most; file systems without a number of inodes say 0.
func scarce(st *unix.Statfs_t) string {
	size, free := st.Blocks*uint64(st.Bsize), st.Bavail*uint64(st.Bsize)
	if free < min(diskLeast, size/10) {
		return strconv.FormatUint(free>>10, 10) + " KiB"
	}
	if st.Files > 0 && st.Ffree < min(filesLeast, st.Files/10) {
		return strconv.FormatUint(st.Ffree, 10) + " inodes"
	}
	return ""
}

// Names of the host's resources, as metrics and status have them.
const (
	keeperDescriptors = "keeper_descriptors"
	workerDescriptors = "worker_descriptors"
	conntrackEntries  = "conntrack"
	tcpPorts          = "ephemeral_ports"
)

// hostResources says how full those things of the host are that we cannot do
// without. What this host does not have is left out.
func (k *Keeper) hostResources() []protocol.Resource {
	var list []protocol.Resource
	add := func(name string, entries, capacity int) {
		if capacity > 0 {
			list = append(list, protocol.Resource{Name: name, Entries: entries, Capacity: capacity})
		}
	}
	if n, most, err := descriptors(os.Getpid()); err == nil {
		add(keeperDescriptors, n, most)
	}
	k.mu.Lock()
	w := k.worker
	k.mu.Unlock()
	if w != nil {
		if n, most, err := descriptors(w.pid); err == nil {
			add(workerDescriptors, n, most)
		}
	}
	if most, err := readNumber("/proc/sys/net/netfilter/nf_conntrack_max"); err == nil {
		if n, err := readNumber("/proc/sys/net/netfilter/nf_conntrack_count"); err == nil {
			add(conntrackEntries, n, most)
		}
	}
	if n, most, err := ports(); err == nil {
		add(tcpPorts, n, most)
	}
	return list
}

// fullHost says what of it is nearly full, and what to do.
func fullHost(list []protocol.Resource) (problems []string) {
	remedies := map[string]string{
		keeperDescriptors: "raise LimitNOFILE= of sallyport-keeper.service",
		workerDescriptors: "raise LimitNOFILE= of sallyport.service; new connections are refused when none is left",
		conntrackEntries:  "raise net.netfilter.nf_conntrack_max; the kernel drops new connections when it is full",
		tcpPorts:          "widen net.ipv4.ip_local_port_range; connections fail when none is left",
	}
	for _, r := range list {
		if r.Entries*100 >= r.Capacity*nearlyFull {
			problems = append(problems, fmt.Sprintf("%s: %d of %d in use; %s", r.Name, r.Entries, r.Capacity, remedies[r.Name]))
		}
	}
	return problems
}

// descriptors counts those of a process, and gives its limit.
func descriptors(pid int) (n, most int, err error) {
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		// Another user's process needs CAP_SYS_RESOURCE.
		data, rerr := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/limits")
		if rerr != nil {
			return 0, 0, rerr
		}
		if limit, err = limitValues(string(data), "Max open files"); err != nil {
			return 0, 0, err
		}
	}
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	// The size of the directory is their number since Linux 6.2.
	if info, err := os.Stat(dir); err == nil && info.Size() > 0 {
		return int(info.Size()), int(min(limit.Cur, 1<<31)), nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	return len(names), int(min(limit.Cur, 1<<31)), err
}

// ports counts the TCP sockets of the host's namespace, those that wait among
// them, against its ephemeral ports. Connections to different servers can share a
// port, so this errs on the side of a warning.
func ports() (n, most int, err error) {
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return 0, 0, err
	}
	var first, last int
	if _, err := fmt.Sscan(string(data), &first, &last); err != nil {
		return 0, 0, err
	}
	if data, err = os.ReadFile("/proc/net/sockstat"); err != nil {
		return 0, 0, err
	}
	return tcpSockets(string(data)), last - first + 1, nil
}

// tcpSockets reads "TCP: inuse N orphan N tw N …" of /proc/net/sockstat.
func tcpSockets(sockstat string) (n int) {
	for line := range strings.Lines(sockstat) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "TCP:" {
			continue
		}
		for i := 1; i+1 < len(fields); i += 2 {
			if v, err := strconv.Atoi(fields[i+1]); err == nil && (fields[i] == "inuse" || fields[i] == "tw") {
				n += v
			}
		}
	}
	return n
}

func readNumber(path string) (int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}
