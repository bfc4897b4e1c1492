package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"sallyport/pkg/admin"
	"sallyport/pkg/config"
	"sallyport/pkg/confine"
	"sallyport/pkg/datapath"
	"sallyport/pkg/engine"
	"sallyport/pkg/guard"
	"sallyport/pkg/resolver"
	"sallyport/pkg/systemd"
	"sallyport/pkg/workload"
)

// A Doctor looks at this host with one configuration.
type Doctor struct {
	Config *config.Config
	// Start runs a command with the trust that a workload gets and gives its
	// output; nil leaves the runtimes out.
	Start func(ctx context.Context, argv, env []string) (output string, err error)
	// Serve opens the HTTPS server that the runtimes shake hands with.
	Serve func() (*Handshakes, error)
	// Daemon asks the running service for its status; nil: none is asked. Its error
	// is admin.ErrNotRunning where none runs.
	Daemon func(context.Context) (*admin.Status, error)
	// Units asks the service manager; nil where there is none.
	Units func(ctx context.Context, name string) (*systemd.Unit, error)
}

func (d *Doctor) sections() []section {
	return []section{
		{"host", []check{
			{name: "kernel", run: d.kernel},
			{name: "cgroup2", run: d.cgroup},
			{name: "bpf", run: d.bpf},
			{name: "bpffs", run: d.bpffs},
			{name: "nftables", run: d.nftables},
			{name: "locks", run: d.locks},
			{name: "namespaces", run: namespaces},
			{name: "sockets", run: sockets},
			{name: "confinement", run: d.confinement},
			{name: "capabilities", run: capabilities},
			{name: "clock", run: clock},
			{name: "disk", run: d.disk},
			{name: "dns", run: d.dns},
			{name: "other software", many: otherSoftware},
		}},
		{"service", []check{
			{name: "units", many: d.units},
			{name: "account", run: d.account},
			{name: "group", run: d.group},
			{name: "listeners", many: d.listeners},
			{name: "authority", run: d.authority},
			{name: "daemon", many: d.daemon},
		}},
		{"containers", []check{
			{name: "engines", many: func(ctx context.Context) []Result { return containers(ctx, engine.Sockets[:]) }},
		}},
		{"trust", d.runtimes()},
	}
}

// floor is the oldest kernel that the design counts on.
const floorMajor, floorMinor = 6, 1

func (d *Doctor) kernel(context.Context) Result {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return failed(err.Error(), "report this")
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return failed("release "+release+" cannot be read", "report this")
	}
	if major < floorMajor || major == floorMajor && minor < floorMinor {
		// What counts is what the kernel can do; the checks below ask that.
		return failed("Linux "+release, fmt.Sprintf("use Linux %d.%d or newer", floorMajor, floorMinor))
	}
	return ok("Linux " + release)
}

func (d *Doctor) cgroup(context.Context) Result {
	tree, err := workload.FindTree()
	if err != nil {
		return failed(err.Error(), "mount it: mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1")
	}
	defer tree.Close()
	var st unix.Statfs_t
	if err := unix.Statfs(tree.Point(), &st); err == nil && st.Flags&unix.ST_RDONLY != 0 {
		return failed(tree.Point()+" is mounted read-only", "start sallyport on the host, not in a container")
	}
	return ok("mounted on " + tree.Point())
}

func (d *Doctor) bpf(context.Context) Result {
	if err := datapath.Supported(); err != nil {
		remedy := "use a kernel with CONFIG_CGROUP_BPF and CONFIG_BPF_SYSCALL, and run as root outside containers"
		if guard.RedirectSupported() == nil {
			return warned(err.Error(), remedy+"; until then nftables captures, with one lock")
		}
		return failed(err.Error(), remedy)
	}
	return ok("every program loads")
}

func (d *Doctor) nftables(context.Context) Result {
	if err := guard.Supported(); err != nil {
		return failed(err.Error(), "load nf_tables, nft_socket and nf_conntrack (package kmod), or use a kernel that has them")
	}
	return ok("socket cgroupv2 and conntrack labels work")
}

func (d *Doctor) confinement(context.Context) Result {
	if err := confine.Supported(); err != nil {
		return failed(err.Error(), "enable Landlock (lsm=landlock,… on the kernel command line) and seccomp")
	}
	detail := fmt.Sprintf("Landlock ABI %d, seccomp, mount namespaces", confine.LandlockABI())
	if !confine.ScopesAbstractSockets() {
		detail += "; abstract unix sockets outside stay reachable before Linux 6.12"
	}
	return ok(detail)
}

func (d *Doctor) group(context.Context) Result {
	name := d.Config.Admin.Group
	g, err := user.LookupGroup(name)
	if err != nil {
		return warned("no group "+name+": only root may use a running daemon", "groupadd --system "+name+", and restart sallyport")
	}
	return ok("group " + name + ", gid " + g.Gid)
}

// dns asks each server that workloads' questions would go to.
func (d *Doctor) dns(ctx context.Context) Result {
	servers := d.Config.DNS.Upstreams
	if len(servers) == 0 {
		var err error
		if servers, err = resolver.SystemServers("/etc/resolv.conf"); err != nil {
			return failed(err.Error(), "name a server in /etc/resolv.conf or in dns.upstreams")
		}
	}
	errs := make([]error, len(servers))
	var asking sync.WaitGroup
	for i, s := range servers {
		asking.Go(func() { errs[i] = askServer(ctx, s) })
	}
	asking.Wait()
	var answered, silent []string
	for i, s := range servers {
		if errs[i] != nil {
			silent = append(silent, fmt.Sprintf("%v (%v)", s, errs[i]))
		} else {
			answered = append(answered, s.String())
		}
	}
	switch {
	case len(answered) == 0:
		return failed("no DNS server answers: "+strings.Join(silent, ", "), "check /etc/resolv.conf, or name others in dns.upstreams")
	case len(silent) > 0:
		return ok(strings.Join(answered, ", ") + " answer; silent: " + strings.Join(silent, ", "))
	}
	return ok(strings.Join(answered, ", ") + " answer")
}

// askServer asks for the root's name servers, which every resolver knows.
func askServer(ctx context.Context, server netip.AddrPort) error {
	q := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(time.Now().UnixNano()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeNS, Class: dnsmessage.ClassINET}},
	}
	packet, err := q.Pack()
	if err != nil {
		return err
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "udp", server.String())
	if err != nil {
		return err
	}
	defer c.Close()
	deadline := time.Now().Add(3 * time.Second)
	if until, ok := ctx.Deadline(); ok && until.Before(deadline) {
		deadline = until
	}
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := c.Write(packet); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	n, err := c.Read(buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("no answer in time")
	} else if err != nil {
		return err
	}
	var head dnsmessage.Parser
	h, err := head.Start(buf[:n])
	if err != nil || h.ID != q.ID || !h.Response {
		return errors.New("its answer is no DNS answer to the question")
	}
	return nil
}
