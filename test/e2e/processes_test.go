package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/test/outside"
)

// A hostProcess is one process of a host.
type hostProcess struct {
	pid, ppid int
	argv      []string
}

func (p hostProcess) String() string { return fmt.Sprintf("%d %s", p.pid, strings.Join(p.argv, " ")) }

// role tells the binary's own processes apart: worker, keeper, watch, probe,
// launch, or empty.
func (p hostProcess) role() string {
	if len(p.argv) > 2 && p.argv[0] == "sallyport" && p.argv[1] == "internal" {
		return p.argv[2]
	}
	return ""
}

// processes lists the processes of the host: those in its network namespace,
// which no command of ours can leave.
func (h *host) processes() []hostProcess {
	h.t.Helper()
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", h.pid))
	if err != nil {
		h.t.Fatal(err)
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var found []hostProcess
	for _, dir := range dirs {
		if ns, err := os.Readlink(dir + "/ns/net"); err != nil || ns != want {
			continue
		}
		line, err := os.ReadFile(dir + "/cmdline")
		if err != nil || len(line) == 0 {
			continue // it ended, or is a zombie
		}
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if pid == h.pid {
			continue
		}
		found = append(found, hostProcess{pid, parentOf(pid), strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")})
	}
	return found
}

// role gives the pid of the only process of a role.
func (h *host) role(role string) int {
	h.t.Helper()
	var pids []int
	eventually(h.t, 5*time.Second, "one process "+role, func() bool {
		pids = nil
		for _, p := range h.processes() {
			if p.role() == role {
				pids = append(pids, p.pid)
			}
		}
		return len(pids) == 1
	})
	return pids[0]
}

func parentOf(pid int) int {
	ppid, _ := strconv.Atoi(procStatus(pid)["PPid"])
	return ppid
}

// procStatus reads /proc/PID/status; nil if the process is gone.
func procStatus(pid int) map[string]string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil
	}
	fields := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[name] = strings.Join(strings.Fields(value), " ")
		}
	}
	return fields
}

// living reports whether a process exists and has not ended.
// A zombie whose other threads are not gone yet still has its descriptors.
func living(pid int) bool {
	s := procStatus(pid)
	if s == nil {
		return false
	}
	dead := strings.HasPrefix(s["State"], "Z") || strings.HasPrefix(s["State"], "X")
	return !dead || s["Threads"] != "1"
}

// kill sends a signal. Whom it stops stands still when it returns: a thread that is in
// the kernel goes on for a while, and could mend what is broken next.
func (h *host) kill(pid int, s unix.Signal) {
	h.t.Helper()
	if err := unix.Kill(pid, s); err != nil {
		h.t.Fatalf("kill %d: %v", pid, err)
	}
	if s == unix.SIGSTOP {
		eventually(h.t, 30*time.Second, fmt.Sprintf("process %d stands still", pid), func() bool { return outside.Stands(pid) })
	}
}

// Users that ownAccounts makes. The first two are in group sallyport.
const (
	alice, bob, mallory = 2001, 2002, 2003
	groupSallyport      = 2100
)

// ownAccounts gives the host account files of its own, with some users, all of
// whom may use sudo without a password.
func (h *host) ownAccounts() {
	h.t.Helper()
	r := h.sh(fmt.Sprintf(`set -e
mkdir -p /srv/etc/sudoers.d /srv/home
for f in passwd group shadow sudoers; do cp -a /etc/$f /srv/etc/$f; done
for u in alice:%d bob:%d mallory:%d; do
  n=${u%%:*}; i=${u#*:}
  echo "$n:x:$i:$i::/srv/home/$n:/bin/sh" >> /srv/etc/passwd
  echo "$n:x:$i:" >> /srv/etc/group
  echo "$n:*:19000:0:99999:7:::" >> /srv/etc/shadow
  mkdir -p /srv/home/$n; chown $i:$i /srv/home/$n
done
echo "sallyport:x:%d:alice,bob" >> /srv/etc/group
echo 'ALL ALL=(ALL:ALL) NOPASSWD: ALL' >> /srv/etc/sudoers
for f in passwd group shadow sudoers; do mount --bind /srv/etc/$f /etc/$f; done
chmod 755 /srv /srv/home /srv/etc`, alice, bob, mallory, groupSallyport))
	if r.code != 0 {
		h.t.Fatalf("accounts: %v", r)
	}
}

// as makes an ordinary user's login of a command line: ids, groups, HOME.
func as(uid int, argv ...string) []string {
	name := map[int]string{alice: "alice", bob: "bob", mallory: "mallory"}[uid]
	groups := strconv.Itoa(uid)
	if uid != mallory {
		groups += "," + strconv.Itoa(groupSallyport)
	}
	return append([]string{"setpriv", "--reuid", strconv.Itoa(uid), "--regid", strconv.Itoa(uid), "--groups", groups,
		"env", "-C", "/srv/home/" + name, "HOME=/srv/home/" + name, "USER=" + name, "LOGNAME=" + name}, argv...)
}
