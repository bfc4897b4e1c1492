package bypass

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/test/outside"
)

// nobody is an ordinary user: its uid and gid. It has no name in the account
// files that exec looks into; user has.
const (
	nobody   = 65534
	user     = 61234
	userName = "mcp-user"
)

// Where programs lie on a host.
const (
	sallyportPath = "/srv/bin/sallyport"
	attackerPath  = "/srv/bin/attacker"
	setuidPath    = "/srv/setuid/attacker"
	selfPath      = "/srv/bin/bypass"
	configPath    = "/srv/daemon/policy.yaml"
)

var hostSerial atomic.Uint32

// A host is one Linux host under test: a network and a mount namespace, with an
// internet at the other end of its cable.
type host struct {
	t     *testing.T
	name  string
	pid   int
	net   *internet
	slice string
	// attacker is the attacker's program outside of the host.
	attacker string
}

// attackerProgram gives the path of the compiled attacker.
var attackerProgram = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("SALLYPORT_ATTACKER"); path != "" {
		return filepath.Abs(path)
	}
	dir, err := os.MkdirTemp("", "bypass")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "attacker")
	out, err := exec.Command("gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-static", "-o", path, "attacker/attacker.c").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("gcc: %w: %s", err, out)
	}
	return path, nil
})

func newHost(t *testing.T) *host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("the bypass table needs root")
	}
	binary := outside.Binary(t)
	attacker, err := attackerProgram()
	if err != nil {
		t.Fatal(err)
	}
	n := fmt.Sprintf("spb%d-%d", os.Getpid(), hostSerial.Add(1))
	h := &host{t: t, name: n, slice: strings.ReplaceAll(n, "-", "_") + ".slice", attacker: attacker}
	// Where no daemon was, nobody else takes it away.
	t.Cleanup(func() { outside.RemoveCgroups(filepath.Join(cgroupRoot(), h.slice)) })
	h.net = newInternet(t)
	h.boot(binary)
	h.net.connect(h)
	return h
}

// boot starts the process that holds the host's namespaces.
func (h *host) boot(binary string) {
	h.t.Helper()
	holder := exec.Command("/proc/self/exe", "host", binary, h.attacker)
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	// The holder ends with its input, also when the test is killed.
	in, err := holder.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	var stderr bytes.Buffer
	holder.Stderr = &stderr
	if err := holder.Start(); err != nil {
		h.t.Fatalf("start host: %v", err)
	}
	h.pid = holder.Process.Pid
	h.t.Cleanup(func() {
		in.Close()
		holder.Process.Kill()
		holder.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "booted\n" {
		holder.Wait()
		h.t.Fatalf("the host did not boot: %v: %s", err, stderr.String())
	}
}

// beHost makes the host's file tree, that of the machine with fresh tmpfs over
// what sallyport writes and what the tests change, and stays until its input ends.
func beHost(args []string) error {
	binary, attacker := args[0], args[1]
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	programs := map[string][]byte{}
	for place, path := range map[string]string{sallyportPath: binary, attackerPath: attacker, selfPath: "/proc/self/exe"} {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		programs[place] = b
	}
	programs[setuidPath] = programs[attackerPath]
	accounts := map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n" +
			fmt.Sprintf("%s:x:%d:%d::/srv/home:/bin/sh\n", userName, user, user),
		"/etc/group":       fmt.Sprintf("root:x:0:\nnogroup:x:65534:\nsallyport:x:61235:\n%s:x:%d:\n", userName, user),
		"/etc/hosts":       "127.0.0.1 localhost\n::1 localhost\n",
		"/etc/resolv.conf": "nameserver " + dnsV4 + "\n",
	}
	for _, dir := range []string{"/srv", "/run", "/var/lib", "/var/log", "/tmp", "/etc/sallyport"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	if err := os.Chmod("/tmp", 0o1777); err != nil {
		return err
	}
	for _, dir := range []string{"/srv/bin", "/srv/setuid", "/srv/etc", "/srv/daemon", "/srv/home", "/run/lock"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for place, b := range programs {
		if err := os.WriteFile(place, b, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(setuidPath, 0o755|fs.ModeSetuid); err != nil {
		return err
	}
	for path, content := range accounts {
		own := "/srv" + path
		if err := os.WriteFile(own, []byte(content), 0o644); err != nil {
			return err
		}
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				return err
			}
		}
		if err := unix.Mount(own, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	// Each host has its own pins.
	for unix.Unmount("/sys/fs/bpf", 0) == nil {
	}
	fmt.Println("booted")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// path gives the path under which the test reaches a file of the host.
func (h *host) path(p string) string { return filepath.Join("/proc", strconv.Itoa(h.pid), "root", p) }

func (h *host) write(p, content string) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.path(p)), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(h.path(p), []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// cgroupRoot is where cgroup2 is mounted: hybrid hosts have it elsewhere.
var cgroupRoot = sync.OnceValue(func() string {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if strings.Contains(line, " - cgroup2 ") && fields[3] == "/" {
			return fields[4]
		}
	}
	return "/sys/fs/cgroup"
})

// below makes a cgroup below the host's slice and gives its directory.
func (h *host) below(cgroup string) string {
	h.t.Helper()
	dir := filepath.Join(cgroupRoot(), h.slice, cgroup)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	return dir
}

// within polls a condition, at most for the time given.
func within(limit time.Duration, cond func() bool) bool {
	for deadline := time.Now().Add(limit); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// here runs f in the host's network namespace.
func (h *host) here(f func() error) {
	h.t.Helper()
	ns := h.namespace()
	defer ns.Close()
	if err := outside.In(ns, f); err != nil {
		h.t.Errorf("in the host's network: %v", err)
	}
}

// namespace opens the host's network namespace.
func (h *host) namespace() *os.File {
	h.t.Helper()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", h.pid))
	if err != nil {
		h.t.Fatalf("the host's network: %v", err)
	}
	return ns
}
