package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A box is a network namespace of its own on a host, as a container engine makes
// one: a process that does nothing and is not tagged keeps it alive.
type box struct {
	h   *host
	pid int
	cmd *exec.Cmd
}

// The ends of a box's cable to the host.
const boxV4, boxGatewayV4 = "198.51.100.2", "198.51.100.1"

// newBox makes a namespace with nothing in it but a loopback interface that is
// down.
func (h *host) newBox() *box {
	h.t.Helper()
	b := &box{h: h, cmd: h.command("unshare", "--net", "sleep", "600")}
	if err := b.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(b.end)
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", h.pid))
	if err != nil {
		h.t.Fatal(err)
	}
	eventually(h.t, 5*time.Second, "the box is there", func() bool {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", b.cmd.Process.Pid))
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", b.cmd.Process.Pid))
		return err == nil && ns != own && string(comm) == "sleep\n"
	})
	b.pid = b.cmd.Process.Pid
	return b
}

// end ends the process that keeps the namespace.
func (b *box) end() {
	if b.cmd == nil {
		return
	}
	b.cmd.Process.Kill()
	b.cmd.Wait()
	b.cmd = nil
}

// plug lays a cable from the box to the host, which forwards to the internet.
func (b *box) plug() *box {
	b.h.t.Helper()
	r := b.h.sh(fmt.Sprintf(`set -e
ip link add box0 type veth peer name eth0 netns %d
ip addr add %s/24 dev box0; ip link set box0 up
sysctl -qw net.ipv4.ip_forward=1`, b.pid, boxGatewayV4))
	if r.code == 0 {
		r = b.sh(fmt.Sprintf(`set -e
ip link set lo up; ip addr add %s/24 dev eth0; ip link set eth0 up; ip route add default via %s`, boxV4, boxGatewayV4))
	}
	if r.code != 0 {
		b.h.t.Fatalf("plug: %v", r)
	}
	inNetns(b.h.t, b.h.net.ns, func() { sh(b.h.t, "ip route add 198.51.100.0/24 via "+hostV4) })
	return b
}

// sh runs a shell line in the box, untagged and as root: the engine's own.
func (b *box) sh(line string) result {
	b.h.t.Helper()
	return b.h.run(b.outside("bash", "-c", line))
}

// outside prepares a command in the box that no cgroup of ours holds.
func (b *box) outside(argv ...string) *exec.Cmd {
	b.h.t.Helper()
	return b.h.command(append([]string{"nsenter", "-t", strconv.Itoa(b.pid), "-n", "--"}, argv...)...)
}

// inside prepares a command in the box in a cgroup below the slice.
func (b *box) inside(cgroup string, uid int, argv ...string) *exec.Cmd {
	b.h.t.Helper()
	return b.h.inside(cgroup, 0, append([]string{"nsenter", "-t", strconv.Itoa(b.pid), "-n", "--"}, asUser(uid, argv)...)...)
}

// occupy keeps a tagged process in the box, so that its listeners stay, and waits
// for them.
func (b *box) occupy(cgroup string) *exec.Cmd {
	b.h.t.Helper()
	c := b.inside(cgroup, nobody, "sleep", "600")
	if err := c.Start(); err != nil {
		b.h.t.Fatal(err)
	}
	b.h.t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	b.open()
	return c
}

// listening reports whether our listeners are in the box.
func (b *box) listening() bool {
	b.h.t.Helper()
	return strings.Contains(b.sh("ss -Hltn").stdout, "127.0.0.1:")
}

// tabled reports whether our table is in the box.
func (b *box) tabled() bool {
	b.h.t.Helper()
	return strings.Contains(b.sh("nft list tables").stdout, strings.ReplaceAll(b.h.name, "-", "_"))
}

// open waits until the box is guarded and listened in.
func (b *box) open() {
	b.h.t.Helper()
	eventually(b.h.t, 10*time.Second, "the namespace is open", func() bool { return b.listening() && b.tabled() })
}

// shut waits until nothing of ours is in the box.
func (b *box) shut() {
	b.h.t.Helper()
	eventually(b.h.t, 10*time.Second, "nothing of ours is in the namespace", func() bool { return !b.listening() && !b.tabled() })
}

// fetches asks for a page by its address until it is answered, which may take a
// moment while the namespace is found, and gives the answer.
func fetches(url string) []string {
	ask := "curl -4sS --max-time 10 --resolve api.example.com:80:" + originV4 + ` "$0"`
	return []string{"bash", "-c", "for i in $(seq 400); do " + ask + " 2>/dev/null && exit 0; sleep 0.02; done; " + ask, url}
}

// countFDs counts the descriptors of a process.
func countFDs(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "fd"))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// fromBox gives the packets on the wire that came out of a box.
func (w *wire) fromBox() []string {
	w.h.t.Helper()
	return slices.DeleteFunc(w.packets(), func(p string) bool { return !strings.Contains(p, " "+boxV4+":") })
}

// askDNS is a program that asks a server for the addresses of a name over UDP: it
// prints them, or the response code.
const askDNS = `import socket, struct, sys
server, name = sys.argv[1:]
q = struct.pack(">6H", 4711, 0x100, 1, 0, 0, 0) + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + struct.pack(">BHH", 0, 1, 1)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
try:
    s.sendto(q, (server, 53))
    a = s.recv(4096)
except OSError as e:
    sys.exit(str(e))
n, at, found = struct.unpack(">H", a[6:8])[0], len(q), []
for _ in range(n):
    while a[at] and a[at] < 192: at += a[at] + 1
    at += 2 if a[at] else 1
    kind, _, _, size = struct.unpack(">HHIH", a[at:at + 10])
    if kind == 1: found.append(socket.inet_ntoa(a[at + 10:at + 14]))
    at += 10 + size
print(" ".join(found) or "rcode %d" % (a[3] & 15))
`
