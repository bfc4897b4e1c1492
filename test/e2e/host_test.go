// Package e2e runs the real binary on the real kernel with real clients. Each
// test makes a host of its own: a network namespace and a mount namespace,
// with an "internet" on the other end of a veth pair, and removes them.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sallyport/test/outside"
)

// hostSerial numbers the hosts of one test run, so that names never meet.
var hostSerial atomic.Uint32

// A host is one Linux host under test. Its file tree is that of the machine
// with fresh tmpfs over what sallyport writes and what tests change.
type host struct {
	t      *testing.T
	name   string
	holder *exec.Cmd
	pid    int
	net    *internet
	slice  string
	binary string
	// locks is the value of --locks for the daemon; "" leaves it the choice.
	locks string
}

// Addresses of the veth pair: the host's end is in 203.0.113.0/24 as well, so
// that nothing here is a private address by accident.
const (
	hostV4   = "203.0.113.1"
	hostV6   = "2001:db8:113::1"
	originV4 = "203.0.113.10"
	originV6 = "2001:db8:113::10"
	dnsV4    = "203.0.113.53"
)

// newHost makes a host with an internet and everything that tests expect on
// it: a resolv.conf, a hosts file, a system trust store that knows the
// internet's certificate authority.
func newHost(t *testing.T) *host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("end-to-end tests need root: sudo make test")
	}
	binary := outside.Binary(t)
	n := fmt.Sprintf("spt%d-%d", os.Getpid(), hostSerial.Add(1))
	h := &host{t: t, name: n, slice: strings.ReplaceAll(n, "-", "_") + ".slice", binary: "/srv/bin/sallyport"}
	h.net = newInternet(t, n)
	h.boot(binary)
	h.net.connect(h)
	h.furnish()
	return h
}

// boot starts the process that holds the host's namespaces: nothing but sleep,
// with mounts of its own. The binary is bound into them first: it may lie where
// a tmpfs covers it.
func (h *host) boot(binary string) {
	h.t.Helper()
	script := `set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir /srv/bin; touch /srv/bin/sallyport; mount --bind "$1" /srv/bin/sallyport
for d in /run /var/lib /var/log /tmp /etc/sallyport /usr/local/share/ca-certificates; do
  mkdir -p $d; mount -t tmpfs -o mode=755 tmpfs $d
done
chmod 1777 /tmp
mkdir -p /run/lock /tmp/etc-ssl
cp -aL /etc/ssl/certs /tmp/etc-ssl/certs 2>/dev/null || cp -a /etc/ssl/certs /tmp/etc-ssl/ || true
mount --bind /tmp/etc-ssl/certs /etc/ssl/certs
touch /tmp/hosts /tmp/resolv.conf
mount --bind /tmp/hosts /etc/hosts
mount --bind /tmp/resolv.conf /etc/resolv.conf
while mountpoint -q /sys/fs/bpf; do umount /sys/fs/bpf; done # each host its own pins
ip link set lo up
echo booted
exec cat >/dev/null`
	h.holder = exec.Command("bash", "-c", script, "boot", binary)
	h.holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	// The holder ends with its input, also when the test is killed. A parent-death
	// signal would come too early: it is sent when the thread ends that forked.
	if _, err := h.holder.StdinPipe(); err != nil {
		h.t.Fatal(err)
	}
	out, err := h.holder.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	var stderr bytes.Buffer
	h.holder.Stderr = &stderr
	if err := h.holder.Start(); err != nil {
		h.t.Fatalf("start host: %v", err)
	}
	h.pid = h.holder.Process.Pid
	h.t.Cleanup(func() {
		h.holder.Process.Kill()
		h.holder.Wait()
	})
	line := make([]byte, 16)
	if n, _ := out.Read(line); !strings.HasPrefix(string(line[:n]), "booted") {
		h.t.Fatalf("the host did not boot: %s", stderr.String())
	}
}

// furnish writes the files that a host has.
func (h *host) furnish() {
	h.t.Helper()
	h.write("/etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
	h.write("/etc/resolv.conf", "nameserver "+dnsV4+"\n")
	h.write("/usr/local/share/ca-certificates/internet.crt", string(h.net.ca.PEM))
	bundle := h.read("/etc/ssl/certs/ca-certificates.crt")
	h.write("/etc/ssl/certs/ca-certificates.crt", bundle+string(h.net.ca.PEM))
}

// path gives the path under which the test reaches a file of the host.
func (h *host) path(p string) string {
	return filepath.Join("/proc", strconv.Itoa(h.pid), "root", p)
}

func (h *host) write(p, content string) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.path(p)), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(h.path(p), []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) read(p string) string {
	h.t.Helper()
	b, err := os.ReadFile(h.path(p))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.t.Fatal(err)
	}
	return string(b)
}

// command prepares a command on the host, untagged and as root.
func (h *host) command(argv ...string) *exec.Cmd {
	args := append([]string{"-t", strconv.Itoa(h.pid), "-n", "-m", "--wdns=/srv", "--"}, argv...)
	c := exec.Command("nsenter", args...)
	c.Env = hostEnvironment()
	c.WaitDelay = 5 * time.Second
	return c
}

// hostEnvironment is a login's environment: nothing of the test's own.
func hostEnvironment() []string {
	env := []string{"HOME=/root", "USER=root", "LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin"}
	if term := os.Getenv("TERM"); term != "" {
		env = append(env, "TERM="+term)
	}
	return env
}

// A result is what a command left.
type result struct {
	stdout, stderr string
	code           int
	took           time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("exit %d after %s\nstdout: %s\nstderr: %s", r.code, r.took.Round(time.Millisecond), r.stdout, r.stderr)
}

// run runs a command to its end, at most the minutes that a busy machine may need for
// what takes one: whether it will be busy nobody knows at the start.
func (h *host) run(c *exec.Cmd) result {
	h.t.Helper()
	var stdout, stderr bytes.Buffer
	if c.Stdout == nil {
		c.Stdout = &stdout
	}
	if c.Stderr == nil {
		c.Stderr = &stderr
	}
	ctx, cancel := context.WithTimeout(context.Background(), moreIfBusy*time.Minute)
	defer cancel()
	start := time.Now()
	if err := c.Start(); err != nil {
		h.t.Fatalf("start %v: %v", c.Args, err)
	}
	stop := context.AfterFunc(ctx, func() { c.Process.Kill() })
	defer stop()
	err := c.Wait()
	r := result{stdout: stdout.String(), stderr: stderr.String(), took: time.Since(start)}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		h.t.Fatalf("run %v: %v", c.Args, err)
	}
	return r
}

// sh runs a shell line on the host, untagged and as root.
func (h *host) sh(line string) result {
	h.t.Helper()
	return h.run(h.command("bash", "-c", line))
}

// sallyport prepares the binary with arguments.
func (h *host) sallyport(args ...string) *exec.Cmd {
	return h.command(append([]string{h.binary}, args...)...)
}

// eventually polls a condition, at most for the time given, or for more where the
// machine is busy (patience).
func eventually(t *testing.T, within time.Duration, what string, cond func() bool) {
	t.Helper()
	for start := time.Now(); ; {
		// What is looked at is not older than this.
		tooLate := late(start, within)
		if cond() {
			return
		}
		if tooLate {
			t.Fatalf("not within %s: %s", time.Since(start).Round(time.Millisecond), what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
