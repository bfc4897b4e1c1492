package doctor

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
)

// software is what may meddle with packets, and what to know of it. Names are those
// of processes, which the kernel cuts at 15 bytes.
var software = []struct {
	process, what, remedy string
}{
	{"firewalld", "firewalld keeps its own nftables table; older versions flush everything on reload", "nothing: a flush is noticed and repaired, and BPF keeps the gate shut meanwhile; FlushAllOnReload=no avoids it"},
	{"ufw", "ufw reloads all of iptables", "nothing: a flush is noticed and repaired, and BPF keeps the gate shut meanwhile"},
	{"cilium-agent", "Cilium attaches BPF programs to the root of cgroup2 (socket load balancing)", "see the problems of sallyport status; socketLB.hostNamespaceOnly keeps it out of pods"},
	{"calico-node", "Calico may attach connect-time BPF programs to the root of cgroup2", "set bpfConnectTimeLoadBalancing: Disabled where connections of workloads fail"},
	{"kube-proxy", "kube-proxy rewrites nftables or iptables", "nothing: our table is apart, and what is changed in it is repaired"},
	{"NetworkManager", "NetworkManager manages links and resolv.conf", "nothing: a new resolv.conf is read as it comes"},
}

// otherSoftware names programs on this host that work on the same hooks and tables.
func otherSoftware(context.Context) []Result {
	names, err := processNames()
	if err != nil {
		return []Result{skipped(err.Error())}
	}
	var list []Result
	for _, s := range software {
		if slices.Contains(names, s.process) {
			list = append(list, warned(s.what, s.remedy))
		}
	}
	if len(list) == 0 {
		return []Result{ok("nothing known to work on the same tables and hooks")}
	}
	return list
}

// processNames gives the kernel's short names of all processes.
func processNames() ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		if comm, err := os.ReadFile("/proc/" + e.Name() + "/comm"); err == nil {
			names = append(names, strings.TrimSpace(string(comm)))
		}
	}
	return names, nil
}
