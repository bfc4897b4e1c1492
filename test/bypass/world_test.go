package bypass

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"sallyport/test/outside"

	"golang.org/x/sys/unix"
)

// policy lets little through, so that what arrives at the origin by sallyport is
// known: requests below /allowed, and what the rules for rebinding and for port
// 8088 would let through if addresses were of no class.
const policy = `
mode: enforce
timeouts: { drain: 1s }
rules:
  - { name: patience, match: { hosts: [api.example.com], ports: [7443], paths: [/never] }, action: allow }
  - { name: api, match: { hosts: [api.example.com], ports: [80, 443], paths: ["/allowed/**"] }, action: allow }
  - { name: rebinding, match: { hosts: ["*.rebind.example"] }, action: allow }
  - { name: wide, match: { cidrs: [0.0.0.0/0, "::/0"], ports: [8088] }, action: allow }
`

// A world is a host with a daemon, and with everybody whom attacks need.
type world struct {
	t    *testing.T
	h    *host
	d    *daemon
	wire *wire
	// exec is an attacker that sallyport exec has started.
	exec   *execServer
	worker int
	// bystander is a process outside with the uid of the attacker under exec.
	bystander *running

	mu   sync.Mutex
	port int
}

func newWorld(t *testing.T, flags ...string) *world {
	t.Helper()
	w := &world{t: t, h: newHost(t), port: 2000}
	d, err := w.h.tryDaemon(w.h.config(policy), flags...)
	if err != nil {
		t.Fatal(err)
	}
	w.d = d
	w.wire = w.h.tap()
	w.worker = d.worker()
	w.h.below("attacker")
	w.relay("", fmt.Sprintf("127.0.0.1:%d", relayPort), fmt.Sprintf("[::1]:%d", relayPort), fmt.Sprintf("%s:%d", hostV4, relayPort))
	w.relay("neighbour.service", fmt.Sprintf("127.0.0.2:%d", relayPort))
	w.unixSockets()
	w.bystander = w.h.start(w.h.outside(identity{user, false}, "socket inet stream 6", "connect "+originV4+" 7443", "pid", "pause"))
	w.exec = w.startExec()
	return w
}

// nextPort gives a source port that nobody has had. Those of listeners are left out.
func (w *world) nextPort() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		w.port++
		switch w.port {
		case 3128, 7443, 7777, 8088, relayPort, 9595, 15001, 15053:
		default:
			return w.port
		}
	}
}

// relay starts a process that passes on what it gets, in a cgroup below the slice
// or outside.
func (w *world) relay(cgroup string, addresses ...string) {
	w.t.Helper()
	statements := append([]string{"run " + selfPath, "relay"}, addresses...)
	c := w.h.outside(identity{nobody, false}, statements...)
	if cgroup != "" {
		c = w.h.inside(cgroup, identity{nobody, false}, nil, statements...)
	}
	c.Stderr = os.Stderr
	r := bufio.NewScanner(outside.Start(w.t, c).Out)
	if !r.Scan() || !strings.HasPrefix(r.Text(), "ready") {
		w.t.Fatalf("relay: %q", r.Text())
	}
	go func() {
		for r.Scan() {
			f := strings.Fields(r.Text())
			if len(f) == 3 {
				data, _ := hex.DecodeString(f[2])
				w.h.net.more(w.h.net.add("relay", f[0], textAddr(f[1])), data)
			}
		}
	}()
}

// textAddr is an address as it was told.
type textAddr string

func (a textAddr) Network() string { return "" }
func (a textAddr) String() string  { return string(a) }

// unixPaths are sockets of those who would do something for a program outside of
// its cgroup: resolver, buses, service manager, container engines.
var unixPaths = []string{
	"/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/run/dbus/system_bus_socket", "/run/systemd/private",
	"/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/user/" + strconv.Itoa(user) + "/bus",
}

// abstractName is an abstract unix socket of a process outside.
const abstractName = "@bypass-relay"

// unixSockets has somebody listen on all of them, for everybody.
func (w *world) unixSockets() {
	w.t.Helper()
	listen := func(path string) {
		ln, err := net.Listen("unix", path)
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { ln.Close() })
		if !strings.HasPrefix(path, "@") {
			os.Chmod(path, 0o777)
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					buf := make([]byte, 4096)
					n, _ := c.Read(buf)
					w.h.net.more(w.h.net.add("unix", "unix", textAddr("")), buf[:n])
					io.WriteString(c, "yours")
				}()
			}
		}()
	}
	for _, path := range unixPaths {
		path = w.h.path(path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.t.Fatal(err)
		}
		listen(path)
	}
	w.h.here(func() error { listen(abstractName); return nil })
}

// An execServer makes statements in children of a command of `sallyport exec`.
type execServer struct {
	t   *testing.T
	mu  sync.Mutex
	in  io.Writer
	out *bufio.Reader
}

func (w *world) startExec() *execServer {
	w.t.Helper()
	c := w.h.sallyport("exec", "--config", configPath, "--user", userName, "--", attackerPath, "serve")
	in, err := c.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { in.Close(); c.Process.Signal(unix.SIGTERM); c.Wait() })
	s := &execServer{t: w.t, in: in, out: bufio.NewReader(out)}
	if said := s.do("families"); len(said) == 0 || !strings.HasPrefix(said[0], "families ok") {
		w.t.Fatalf("exec: %q", said)
	}
	return s
}

// do makes statements in a child of the command. One that has ended fails the test:
// from then on nothing would be tried.
func (s *execServer) do(statements ...string) (said []string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := io.WriteString(s.in, strings.Join(statements, "\t")+"\n")
	for err == nil {
		var line string
		line, err = s.out.ReadString('\n')
		line = strings.TrimSuffix(line, "\n")
		if line == "served ok" {
			return said
		}
		said = append(said, line)
	}
	s.t.Errorf("the command of exec has ended: %v: %q", err, said)
	return said
}

// bystanderWord gives what the process outside says of itself: its number, its
// socket, and where its memory can be read.
func (w *world) bystanderWord(i int) string {
	return strings.Fields(strings.TrimPrefix(w.bystander.result("pid"), "ok "))[i]
}
