package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inmateProgram is testdata/inmate, built once.
var inmateProgram = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "inmate")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c := exec.Command("go", "build", "-o", dir+"/inmate", "./testdata/inmate")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build inmate: %w: %s", err, out)
	}
	return os.ReadFile(dir + "/inmate")
})

// inmatePath is where putInmate puts the program.
const inmatePath = "/srv/bin/inmate"

// putInmate puts testdata/inmate on the host.
func (h *host) putInmate() string {
	h.t.Helper()
	program, err := inmateProgram()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(h.path(inmatePath), program, 0o755); err != nil {
		h.t.Fatal(err)
	}
	return inmatePath
}

// An inmate is a running testdata/inmate that waits for orders.
type inmate struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr *bytes.Buffer
	// pid is its own word, which is true: nothing here has a pid namespace.
	pid int
	// ended is closed when the process that the test started has been waited for.
	ended chan struct{}
}

// outcome is what came of an order (testdata/inmate).
type outcome struct {
	Step, Errno, Err, Answer string
	Took                     float64
}

// startInmate starts a command line that ends in testdata/inmate.
func (h *host) startInmate(argv ...string) *inmate {
	h.t.Helper()
	c := h.command(argv...)
	i := &inmate{t: h.t, cmd: c, stderr: &bytes.Buffer{}, ended: make(chan struct{})}
	c.Stderr = i.stderr
	var err error
	if i.stdin, err = c.StdinPipe(); err != nil {
		h.t.Fatal(err)
	}
	// A pipe of our own: Wait must not close it under the reader.
	r, w, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	c.Stdout = w
	i.stdout = bufio.NewReader(r)
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	w.Close()
	go func() { c.Wait(); close(i.ended) }()
	h.t.Cleanup(func() {
		i.stdin.Close()
		select {
		case <-i.ended:
		case <-time.After(30 * time.Second):
			c.Process.Kill()
			<-i.ended
		}
		r.Close()
	})
	var hello struct{ PID int }
	line, err := i.stdout.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &hello)
	}
	if err != nil {
		<-i.ended
		h.t.Fatalf("start inmate: %v, %q: %s", err, line, i.stderr)
	}
	i.pid = hello.PID
	return i
}

// order gives an order and does not wait.
func (i *inmate) order(words ...string) {
	i.t.Helper()
	if _, err := io.WriteString(i.stdin, strings.Join(words, " ")+"\n"); err != nil {
		i.t.Fatalf("order %v: %v: %s", words, err, i.stderr)
	}
}

// outcome waits for what came of the last order.
func (i *inmate) outcome() outcome {
	i.t.Helper()
	line, err := i.stdout.ReadBytes('\n')
	var o outcome
	if err == nil {
		err = json.Unmarshal(line, &o)
	}
	if err != nil {
		i.t.Fatalf("inmate: %v, %q: %s", err, line, i.stderr)
	}
	return o
}

// do gives an order and waits for what comes of it.
func (i *inmate) do(words ...string) outcome {
	i.t.Helper()
	i.order(words...)
	return i.outcome()
}

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

// kill sends a signal.
func (h *host) kill(pid int, s unix.Signal) {
	h.t.Helper()
	if err := unix.Kill(pid, s); err != nil {
		h.t.Fatalf("kill %d: %v", pid, err)
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

// A daemon is `sallyport run` on a host.
type daemon struct {
	h      *host
	cmd    *exec.Cmd
	pid    int
	stderr *syncBuffer
	ended  chan struct{}
}

// startDaemon starts `sallyport run` with a configuration and waits until it is
// ready.
func (h *host) startDaemon(conf string) *daemon {
	h.t.Helper()
	h.write("/srv/daemon/policy.yaml", conf)
	args := []string{"run", "--config", "/srv/daemon/policy.yaml"}
	if h.locks != "" {
		args = append(args, "--locks", h.locks)
	}
	d := &daemon{h: h, cmd: h.sallyport(args...), stderr: &syncBuffer{}, ended: make(chan struct{})}
	d.cmd.Stderr = d.stderr
	if err := d.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	d.pid = d.cmd.Process.Pid
	go func() { d.cmd.Wait(); close(d.ended) }()
	h.t.Cleanup(func() {
		d.stop()
		// The gate stays shut after a stop; nothing may stay behind a test.
		if r := h.run(h.sallyport("teardown", "--stop", "--config", "/srv/daemon/policy.yaml")); r.code != 0 {
			h.t.Errorf("teardown: %v", r)
		}
	})
	for start := time.Now(); !slices.Contains(strings.Split(d.stderr.String(), "\n"), "ready"); {
		select {
		case <-d.ended:
			h.t.Fatalf("run ended: %s", d.stderr)
		case <-time.After(5 * time.Millisecond):
		}
		if late(start, 15*time.Second) {
			h.t.Fatalf("run is not ready: %s", d.stderr)
		}
	}
	return d
}

// stop ends the daemon and waits for it.
func (d *daemon) stop() {
	d.h.t.Helper()
	d.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(40 * time.Second):
		d.cmd.Process.Kill()
		<-d.ended
		d.h.t.Errorf("run did not stop within 40 s: %s", d.stderr)
	}
}

// A syncBuffer is a buffer that one goroutine fills and another reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

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
	add("nft", h.sh("nft list tables; nft list ruleset | grep -c .").stdout)
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

// remaining gives those objects that still exist.
func remaining(objects []kernelObject) []kernelObject {
	ids := make(map[kernelObject]bool)
	for _, kind := range []string{"link", "map", "prog"} {
		out, err := exec.Command("bpftool", "-j", kind, "show").Output()
		var list []struct {
			ID int `json:"id"`
		}
		if err == nil {
			err = json.Unmarshal(out, &list)
		}
		if err != nil {
			// Others' objects come and go while bpftool lists them: ask for ours alone.
			for _, o := range objects {
				if o.kind == kind && exec.Command("bpftool", "-j", kind, "show", "id", o.id).Run() == nil {
					ids[o] = true
				}
			}
			continue
		}
		for _, o := range list {
			ids[kernelObject{kind, strconv.Itoa(o.ID)}] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(objects), func(o kernelObject) bool { return !ids[o] })
}

// patience is the time given, or more where so many processes wait for a
// processor that nothing can be in time.
func patience(within time.Duration) time.Duration {
	b, _ := os.ReadFile("/proc/loadavg")
	load, _, _ := strings.Cut(string(b), " ")
	if l, err := strconv.ParseFloat(load, 64); err == nil && l > 2*float64(runtime.NumCPU()) {
		return 5 * within
	}
	return within
}

// late reports whether a time has passed, with patience.
func late(start time.Time, within time.Duration) bool {
	took := time.Since(start)
	return took > within && took > patience(within)
}

// goneWithin fails unless everything that came since before is gone in time:
// files, mounts, tables, processes, cgroups and BPF objects.
func (h *host) goneWithin(within time.Duration, before snapshot, objects []kernelObject, wrapper int) {
	h.t.Helper()
	start := time.Now()
	for {
		left := h.snapshot().minus(before)
		tooLate := late(start, within)
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
			h.t.Fatalf("not gone within %s:\n%s", within, strings.Join(left, "\n"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}
