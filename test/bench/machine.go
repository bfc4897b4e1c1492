package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The cable between the host and the origin.
const (
	hostAddress   = "203.0.113.1"
	originAddress = "203.0.113.10"
)

// A machine is the host under test: a mount and a network namespace with fresh
// tmpfs where sallyport and nginx write, the origin in a namespace of its own at
// the other end of a veth pair, both proxies, and a client for each side of the
// gate.
type machine struct {
	options *options
	name    string
	cpus    [2]int // of the proxies; of client and origin
	host    *exec.Cmd
	outside *exec.Cmd // holds the origin's namespaces
	closers []func()

	nginx, worker, keeper int // pids
	tagged, plain         *client
}

// newMachine builds all of it; what was built is taken down on an error.
func newMachine(cpus [2]int, o *options) (_ *machine, err error) {
	m := &machine{options: o, name: "spb" + strconv.Itoa(os.Getpid()), cpus: cpus}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	steps := []struct {
		what string
		do   func() error
	}{
		{"namespaces", m.boot}, {"cable", m.connect}, {"files", m.furnish}, {"origin", m.startOrigin},
		{"nginx", m.startNginx}, {"sallyport", m.startSallyport}, {"clients", m.startClients},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return nil, fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return m, nil
}

// close ends every process, and with the last one its namespaces.
func (m *machine) close() {
	for i := len(m.closers) - 1; i >= 0; i-- {
		m.closers[i]()
	}
	m.closers = nil
}

const bootScript = `set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir /srv/bin /srv/bpf; touch /srv/bin/sallyport /srv/bin/bench
mount --bind "$1" /srv/bin/sallyport; mount --bind "$2" /srv/bin/bench
for d in /run /var/lib /var/log /tmp /etc/sallyport; do mkdir -p $d; mount -t tmpfs -o mode=755 tmpfs $d; done
chmod 1777 /tmp
mkdir -p /run/lock /tmp/etc-ssl
cp -aL /etc/ssl/certs /tmp/etc-ssl/certs 2>/dev/null || cp -a /etc/ssl/certs /tmp/etc-ssl/
mount --bind /tmp/etc-ssl/certs /etc/ssl/certs
touch /tmp/hosts /tmp/resolv.conf
mount --bind /tmp/hosts /etc/hosts
mount --bind /tmp/resolv.conf /etc/resolv.conf
ip link set lo up
sysctl -qw net.ipv4.ip_local_port_range="20000 65000"
echo booted
exec cat >/dev/null`

// boot starts the processes that hold the namespaces. They end with their
// input, which is ours.
func (m *machine) boot() (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if m.host, err = m.hold(syscall.CLONE_NEWNS|syscall.CLONE_NEWNET, bootScript, m.options.binary, self); err != nil {
		return err
	}
	m.outside, err = m.hold(syscall.CLONE_NEWNET, "ip link set lo up; echo booted; exec cat >/dev/null")
	return err
}

func (m *machine) hold(flags uintptr, script string, args ...string) (*exec.Cmd, error) {
	c := exec.Command("bash", append([]string{"-c", script, "boot"}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if _, err := c.StdinPipe(); err != nil {
		return nil, err
	}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	m.closers = append(m.closers, func() { c.Process.Kill(); c.Wait() })
	line := make([]byte, 16)
	if n, _ := out.Read(line); !strings.HasPrefix(string(line[:n]), "booted") {
		return nil, errors.New(stderr.String())
	}
	return c, nil
}

func (m *machine) connect() error {
	pid := strconv.Itoa(m.host.Process.Pid)
	line := fmt.Sprintf(`set -e
ip link add ve0 type veth peer name eth0 netns %s
ip link set ve0 up; ip addr add %s/24 dev ve0`, pid, originAddress)
	if err := output(exec.Command("nsenter", "-t", strconv.Itoa(m.outside.Process.Pid), "-n", "--", "bash", "-c", line)); err != nil {
		return err
	}
	return output(m.command("bash", "-c", fmt.Sprintf("ip link set eth0 up && ip addr add %s/24 dev eth0 && ip route add default via %s", hostAddress, originAddress)))
}

// command prepares a command on the host, untagged and as root.
func (m *machine) command(argv ...string) *exec.Cmd {
	c := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(m.host.Process.Pid), "-n", "-m", "--wdns=/srv", "--"}, argv...)...)
	c.Env = []string{"HOME=/root", "USER=root", "LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return c
}

// pinned prepares a command on the host that stays on one processor.
func (m *machine) pinned(cpu int, argv ...string) *exec.Cmd {
	return m.command(append([]string{"taskset", "-c", strconv.Itoa(cpu)}, argv...)...)
}

// start starts what runs until close, which asks it to end first. Its standard
// error is shown if it ends before.
func (m *machine) start(c *exec.Cmd, patience time.Duration) error {
	if c.Stderr == nil {
		c.Stderr = os.Stderr
	}
	if err := c.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() { c.Wait(); close(done) }()
	m.closers = append(m.closers, func() {
		c.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(patience):
			c.Process.Kill()
			<-done
		}
	})
	return nil
}

// path gives the path under which we reach a file of the host.
func (m *machine) path(p string) string {
	return filepath.Join("/proc", strconv.Itoa(m.host.Process.Pid), "root", p)
}

func (m *machine) write(p string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(m.path(p)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(m.path(p), content, 0o644)
}

// output runs a command to its end; what it printed explains a failure.
func output(c *exec.Cmd) error {
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// eventually polls until cond holds.
func eventually(within time.Duration, what string, cond func() bool) error {
	for deadline := time.Now().Add(within); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %s", within, what)
		}
	}
	return nil
}
