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

// A machine is the host under test: one mount namespace with fresh tmpfs where
// the proxies write, a network namespace outside where the origins are, and one
// for each site: a gate or the peers.
type machine struct {
	options *options
	name    string
	cpus    [2]int // of the proxies; of clients and origins
	root    *exec.Cmd
	outside *exec.Cmd // holds the origins' network
	sites   int       // made so far
	closers []func()

	peers *peers
	names int // new names handed out
}

// A site is a network namespace at the end of a cable of its own to the origins.
type site struct {
	machine *machine
	address string
	holder  *exec.Cmd
}

// newMachine makes the namespaces and the files that all share.
func newMachine(cpus [2]int, o *options) (_ *machine, err error) {
	m := &machine{options: o, name: "spb" + strconv.Itoa(os.Getpid()), cpus: cpus}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if m.root, err = m.hold(syscall.CLONE_NEWNS|syscall.CLONE_NEWNET, bootScript, o.binary, self); err != nil {
		return nil, fmt.Errorf("mount namespace: %w", err)
	}
	lo := "ip link set lo up\n"
	for _, a := range []string{originAddress, originH2Address, originOwnAddress} {
		lo += "ip addr add " + a + "/32 dev lo\n"
	}
	if m.outside, err = m.hold(syscall.CLONE_NEWNET, "set -e\n"+lo+siteScript); err != nil {
		return nil, fmt.Errorf("the origins' network namespace: %w", err)
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
echo booted
exec cat >/dev/null`

// Time-wait sockets of an earlier measurement must not run into the next one's
// ports, and no backlog is cut: what does not fit would be a lost SYN and a
// second of waiting.
const siteScript = `ip link set lo up
sysctl -qw net.ipv4.ip_local_port_range="20000 65000" net.core.somaxconn=16384 net.ipv4.tcp_max_syn_backlog=16384
echo booted
exec cat >/dev/null`

// hold starts a process that holds namespaces. It ends with its input, which is
// ours.
func (m *machine) hold(flags uintptr, script string, args ...string) (*exec.Cmd, error) {
	c := exec.Command("bash", append([]string{"-c", script, "boot"}, args...)...)
	// In a session of its own: Ctrl-C is for us, who then take all down in order.
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Setsid: true}
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

// newSite makes a network namespace and its cable. The origins' addresses lie
// on the other end's loopback and answer on every cable.
func (m *machine) newSite() (*site, error) {
	m.sites++
	s := &site{machine: m, address: fmt.Sprintf("203.0.113.%d", 100+m.sites)}
	var err error
	if s.holder, err = m.hold(syscall.CLONE_NEWNET, "set -e\n"+siteScript); err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	dev := "ve" + strconv.Itoa(m.sites)
	line := fmt.Sprintf(`set -e
ip link add %[1]s type veth peer name eth0 netns %[2]d
ip link set %[1]s up; ip route add %[3]s dev %[1]s src %[4]s`, dev, s.holder.Process.Pid, s.address, originAddress)
	if err := output(exec.Command("nsenter", "-t", strconv.Itoa(m.outside.Process.Pid), "-n", "--", "bash", "-c", line)); err != nil {
		return nil, fmt.Errorf("cable: %w", err)
	}
	if err := output(s.command("bash", "-c", "ip link set eth0 up && ip addr add "+s.address+"/24 dev eth0 && ip route add default via "+originAddress)); err != nil {
		return nil, fmt.Errorf("cable: %w", err)
	}
	return s, nil
}

// command prepares a command at a site, untagged and as root.
func (s *site) command(argv ...string) *exec.Cmd { return s.machine.enter(s.holder, argv) }

// pinned prepares a command at a site that stays on one processor.
func (s *site) pinned(cpu int, argv ...string) *exec.Cmd {
	return s.command(append([]string{"taskset", "-c", strconv.Itoa(cpu)}, argv...)...)
}

// among prepares a command among the origins, on the clients' processor.
func (m *machine) among(argv ...string) *exec.Cmd {
	return m.enter(m.outside, append([]string{"taskset", "-c", strconv.Itoa(m.cpus[1])}, argv...))
}

// enter prepares a command in the machine's mount namespace and holder's network.
func (m *machine) enter(holder *exec.Cmd, argv []string) *exec.Cmd {
	c := exec.Command("nsenter", append([]string{
		fmt.Sprintf("--mount=/proc/%d/ns/mnt", m.root.Process.Pid), fmt.Sprintf("--net=/proc/%d/ns/net", holder.Process.Pid), "--wdns=/srv", "--",
	}, argv...)...)
	c.Env = []string{"HOME=/root", "USER=root", "LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return c
}

// start starts what runs until stop is called, or until close, which asks it to
// end first. Its standard error is shown. Each has a session of its own: exec's
// command has one, and Linux shares a busy processor out among sessions
// (sched_autogroup), so that two in one session get less of it, but in one go.
func (m *machine) start(c *exec.Cmd, patience time.Duration) (stop func(), err error) {
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if c.Stderr == nil {
		c.Stderr = os.Stderr
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() { c.Wait(); close(done) }()
	stop = func() {
		c.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(patience):
			c.Process.Kill()
			<-done
		}
	}
	m.closers = append(m.closers, stop)
	return stop, nil
}

// path gives the path under which we reach a file of the machine.
func (m *machine) path(p string) string {
	return filepath.Join("/proc", strconv.Itoa(m.root.Process.Pid), "root", p)
}

func (m *machine) write(p string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(m.path(p)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(m.path(p), content, 0o644)
}

// fetch gets a page of one of our own servers as seen from a site.
func (s *site) fetch(url string) (string, error) {
	out, err := s.command("curl", "-sS", "--fail", "--max-time", "5", url).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", url, err, bytes.TrimSpace(out))
	}
	return string(out), nil
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
