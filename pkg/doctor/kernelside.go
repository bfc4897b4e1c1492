package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
	"sallyport/pkg/guard"
	"sallyport/pkg/netns"
)

// bpffs looks for the file system in which programs outlive the daemon.
func (d *Doctor) bpffs(context.Context) Result {
	dir := existing(d.Config.BPFDir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return failed(err.Error(), "mount -t bpf bpf /sys/fs/bpf")
	}
	if st.Type == unix.BPF_FS_MAGIC {
		return ok("mounted at " + dir)
	}
	data, err := os.ReadFile("/proc/filesystems")
	if err != nil || !strings.Contains(string(data), "\tbpf\n") {
		return failed("the kernel has no bpf file system", "use a kernel with CONFIG_BPF_SYSCALL")
	}
	return ok("not mounted yet: sallyport mounts it at " + d.Config.BPFDir)
}

// locks says by how many locks the gate would be shut.
func (d *Doctor) locks(context.Context) Result {
	bpf, nft := datapath.Supported(), guard.Supported()
	switch {
	case bpf == nil && nft == nil:
		return ok("two locks: BPF and nftables")
	case bpf != nil && guard.RedirectSupported() == nil:
		return warned("one lock: nftables captures and guards alone", "use a kernel with CONFIG_CGROUP_BPF; until then keep other programs from flushing nftables, and start no container with a network of its own while sallyport-keeper is away (BindsTo=sallyport-keeper.service in the unit that starts it)")
	}
	return failed("the gate cannot be shut", "see bpf and nftables above")
}

// namespaces proves that another network namespace can be entered, as containers'
// are.
func namespaces(context.Context) Result {
	own, err := netns.Current()
	if err == nil {
		defer own.Close()
		err = netns.Do(own, func() error { return nil })
	}
	if err != nil {
		return failed(err.Error(), "run as root with CAP_SYS_ADMIN, on the host and not in a container")
	}
	return ok("network namespaces can be entered")
}

// sockets proves what is needed to find and end sockets that came from outside.
func sockets(context.Context) Result {
	if _, err := netns.AllSockets(nil); err != nil {
		return failed("sock_diag: "+err.Error(), "use a kernel with CONFIG_INET_DIAG and CONFIG_INET_UDP_DIAG, or load inet_diag, tcp_diag and udp_diag")
	}
	data, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	if err == nil && strings.TrimSpace(string(data)) == "3" {
		return warned("kernel.yama.ptrace_scope is 3: descriptors of workloads cannot be taken to look at them, and sockets from outside are found by their numbers alone",
			"sysctl kernel.yama.ptrace_scope=2, which only root can use, and boot again")
	}
	// A pidfd of our own stands for that of a workload.
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err == nil {
		defer unix.Close(pidfd)
		var fd int
		if fd, err = unix.PidfdGetfd(pidfd, 0, 0); err == nil {
			unix.Close(fd)
		}
		if errors.Is(err, unix.EBADF) {
			err = nil // standard input is closed
		}
	}
	if err != nil {
		return warned("pidfd_getfd: "+err.Error(), "run on the host, where no seccomp filter forbids it")
	}
	return ok("sockets can be listed and looked at")
}

// needed are the capabilities of the keeper, as its unit lists them.
var needed = []struct {
	number int
	name   string
}{
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE"},
	{unix.CAP_SYS_CHROOT, "CAP_SYS_CHROOT"}, {unix.CAP_KILL, "CAP_KILL"}, {unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"},
	{unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"}, {unix.CAP_CHOWN, "CAP_CHOWN"}, {unix.CAP_SETUID, "CAP_SETUID"},
	{unix.CAP_SETGID, "CAP_SETGID"}, {unix.CAP_SETPCAP, "CAP_SETPCAP"},
}

// capabilities compares what root has here with what the keeper needs.
func capabilities(context.Context) Result {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return failed(err.Error(), "mount /proc")
	}
	missing, err := missingCapabilities(string(data))
	if err != nil {
		return failed(err.Error(), "report this")
	}
	if len(missing) > 0 {
		return failed("root has no "+strings.Join(missing, ", ")+" here", "run on the host, not in a container; sallyport-keeper.service says why each is needed")
	}
	return ok("root has all that the keeper needs")
}

func missingCapabilities(status string) (missing []string, err error) {
	_, line, found := strings.Cut(status, "CapBnd:")
	var set uint64
	if _, err := fmt.Sscanf(strings.TrimSpace(line), "%x", &set); err != nil || !found {
		return nil, errors.New("/proc/self/status does not tell the capabilities")
	}
	for _, c := range needed {
		if set&(1<<c.number) == 0 {
			missing = append(missing, c.name)
		}
	}
	return missing, nil
}

// built is a date that no clock can be before.
var built = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// clock asks the kernel whether anything keeps the host's clock: certificates and
// the windows of rate limits follow it.
func clock(context.Context) Result {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	switch now := time.Now(); {
	case now.Before(built):
		return failed("it is "+now.UTC().Format(time.DateTime)+" here", "set the clock: certificates are not valid yet")
	case err != nil:
		return skipped("not told: " + err.Error())
	case state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0:
		return warned("nothing synchronizes the clock: "+now.UTC().Format(time.DateTime)+" UTC", "enable systemd-timesyncd or chrony")
	}
	return ok("synchronized")
}

// least is what each disk should have before anything starts, diskFiles its inodes.
const least, diskFiles = 64 << 20, 1024

// disk looks at the room where state, runtime files and the audit lie.
func (d *Doctor) disk(context.Context) Result {
	var there, full []string
	for _, p := range []string{d.Config.StateDir, d.Config.RuntimeDir, filepath.Dir(d.Config.Audit.File.Path)} {
		dir := existing(p)
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			full = append(full, dir+": "+err.Error())
			continue
		}
		free := st.Bavail * uint64(st.Bsize)
		text := fmt.Sprintf("%s %d MB free", p, free/1e6)
		switch {
		case st.Flags&unix.ST_RDONLY != 0:
			full = append(full, p+" is read-only")
		case free < least && free < st.Blocks*uint64(st.Bsize)/4, st.Files > 0 && st.Ffree < min(diskFiles, st.Files/4):
			full = append(full, text+fmt.Sprintf(", %d inodes", st.Ffree))
		default:
			there = append(there, text)
		}
	}
	if len(full) > 0 {
		return failed(strings.Join(full, "; "), "make room: without it exchanges are refused (audit.on_failure: block)")
	}
	return ok(strings.Join(there, ", "))
}

// existing is the path, or what is there of it.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == "/" || path == "." {
			return path
		}
		path = filepath.Dir(path)
	}
}
