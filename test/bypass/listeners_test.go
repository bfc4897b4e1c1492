package bypass

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A thief listens where our listeners are or were, and counts what it gets.
type thief struct {
	got   atomic.Int64
	bound []string
	close func()
}

// thiefPlaces are at our default ports (contract.md §3).
var thiefPlaces = []struct{ network, addr string }{
	{"tcp4", "127.0.0.1:15001"}, {"tcp6", "[::1]:15001"}, {"tcp4", "0.0.0.0:15001"}, {"tcp6", "[::]:15001"},
	{"udp4", "127.0.0.1:15053"}, {"udp6", "[::1]:15053"}, {"udp4", "0.0.0.0:15053"}, {"udp6", "[::]:15053"},
}

// steal binds every place that it can, with SO_REUSEADDR and SO_REUSEPORT, as an
// untagged process of the host.
func (h *host) steal() *thief {
	h.t.Helper()
	th := &thief{}
	var open []io.Closer
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
	}}
	lc.SetMultipathTCP(false)
	h.here(func() error {
		for _, p := range thiefPlaces {
			if strings.HasPrefix(p.network, "udp") {
				pc, err := lc.ListenPacket(context.Background(), p.network, p.addr)
				if err != nil {
					continue
				}
				open = append(open, pc)
				go func() {
					for buf := make([]byte, 512); ; th.got.Add(1) {
						if _, _, err := pc.ReadFrom(buf); err != nil {
							return
						}
					}
				}()
			} else {
				ln, err := lc.Listen(context.Background(), p.network, p.addr)
				if err != nil {
					continue
				}
				open = append(open, ln)
				go func() {
					for ; ; th.got.Add(1) {
						c, err := ln.Accept()
						if err != nil {
							return
						}
						c.Close()
					}
				}()
			}
			th.bound = append(th.bound, p.network+" "+p.addr)
		}
		return nil
	})
	th.close = sync.OnceFunc(func() {
		for _, c := range open {
			c.Close()
		}
	})
	h.t.Cleanup(th.close)
	return th
}

// listening gives a line of /proc/net of a socket at one of our ports that has no far
// end; "" if there is none.
func (h *host) listening() string {
	h.t.Helper()
	ns := h.namespace()
	defer ns.Close()
	return socketOf(ns, func(f []string) bool {
		_, port, _ := strings.Cut(f[1], ":")
		_, far, _ := strings.Cut(f[2], ":")
		return (port == fmt.Sprintf("%04X", 15001) || port == fmt.Sprintf("%04X", 15053)) && far == "0000"
	})
}

// victim makes captured calls as a workload: IPv4, IPv6 and mapped, TCP and DNS,
// and gives what came of each.
func (h *host) victim(who identity) []string {
	return h.lines(h.inside("victim", who, nil,
		"socket inet stream 6", "connect "+originV4+" 80", "socket inet6 stream 6", "connect "+originV6+" 80",
		"socket inet6 stream 6", "connect ::ffff:"+originV4+" 80",
		"socket inet dgram 17", "sendto "+dnsV4+" 53 hello", "connect "+dnsV4+" 53", "send hello",
		"socket inet6 dgram 17", "sendto "+originV6+" 53 hello", "connect "+originV6+" 53", "send hello"))
}

// allowed is what a workload may fetch, by whom there is a daemon.
func (h *host) allowed() bool {
	said := h.lines(h.inside("victim", identities[0], nil, "socket inet stream 6", "connect "+originV4+" 80", "patience 5000",
		"sendhex "+fmt.Sprintf("%x", "GET /allowed/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n"), "recv"))
	return strings.HasPrefix(resultOf(said, "recv"), "ok HTTP/1.1 200")
}

// TestListenersTaken: captured traffic reaches our own sockets or nobody, while
// the daemon runs and while it is down, whoever binds its ports.
func TestListenersTaken(t *testing.T) {
	t.Parallel()
	const subject = "a local process on the listeners' TCP and UDP ports, daemon alive and dead, SO_REUSEPORT"
	h := newHost(t)
	r := newReport(t)
	conf := h.config(policy)
	d := h.startDaemon(conf)
	h.below("victim")
	thieves := func(t *testing.T, l locks, state string, places func(int) int, during func(who identity)) {
		outside := h.steal()
		defer outside.close()
		// uid 0 inside the workload's own cgroup does the same.
		var inside []*running
		for _, f := range families {
			inside = append(inside,
				h.start(h.inside("victim", asRoot[0], nil, "socket "+f.name+" stream 6", "reuse", "bind "+f.loopback+" 15001", "listen", "pause", "accept")),
				h.start(h.inside("victim", asRoot[0], nil, "socket "+f.name+" dgram 17", "reuse", "bind "+f.loopback+" 15053", "pause", "recv")))
		}
		bound := len(outside.bound)
		for _, i := range inside {
			if i.result("bind") == "ok" {
				bound++
			}
		}
		if all := len(thiefPlaces) + len(inside); bound != places(all) {
			t.Errorf("thieves hold %d of %d places, want %d: %q", bound, all, places(all), outside.bound)
		}
		before := int64(0)
		for _, who := range everybody() {
			during(who)
			out := line{Row: state, Subject: subject, Locks: l, UID: who.uid, NNP: who.nnp, Outcome: refused}
			if n := outside.got.Load(); n != before {
				out.Outcome, out.OriginCount = direct, int(n-before)
				t.Errorf("%s: an untagged process received %d connections or datagrams", who, n-before)
				before = n
			} else if places(1) == 0 {
				out.Outcome = proxied
			}
			r.add(out)
		}
		for _, i := range inside {
			i.tell()
		}
		for _, i := range inside {
			i.read("")
			if got := i.result("accept") + i.result("recv"); strings.HasPrefix(got, "ok") {
				t.Errorf("a process of the workload received captured traffic: %q", i.Said)
			}
		}
	}
	everywhere := func(all int) int { return all }
	nowhere := func(int) int { return 0 }
	refusals := func(t *testing.T) func(identity) {
		return func(who identity) {
			for _, line := range h.victim(who) {
				what, result, _ := strings.Cut(line, " ")
				switch {
				case what == "socket" && result == "ok", result == "EPERM", result == "ECONNREFUSED", result == "ECONNRESET":
				case what == "send" && (result == "EDESTADDRREQ" || result == "ok" || result == "EPIPE"): // its connect was refused
				default:
					t.Errorf("%s: the workload saw %q", who, line)
				}
			}
		}
	}
	t.Run("running", func(t *testing.T) {
		thieves(t, both, "daemon alive", nowhere, func(who identity) {
			for _, line := range h.victim(who) {
				if !strings.HasSuffix(line, " ok") {
					t.Errorf("%s: the workload saw %q", who, line)
				}
			}
		})
		if !h.allowed() {
			t.Error("what is allowed does not arrive")
		}
	})
	kill := func() {
		unix.Kill(d.worker(), unix.SIGKILL)
		unix.Kill(d.pid, unix.SIGKILL)
		<-d.ended
	}
	for _, end := range []struct {
		name  string
		locks locks
		end   func()
	}{
		// Killed, it has taken nothing back: the kernel is still told of its ports.
		{"daemon killed", both, kill},
		{"daemon stopped", both, func() { d.stop() }},
		{"daemon killed", bpf, func() { kill(); h.flush() }},
		{"daemon killed", guard, func() { kill(); h.detach("*") }},
	} {
		end.end()
		// The worker has its listeners until each of its threads has ended, and what the
		// keeper had just forked has them until it executes.
		held := ""
		if !within(patient(30*time.Second), func() bool { held = h.listening(); return held == "" }) {
			t.Errorf("%s: somebody has a listener: %s", end.name, held)
		}
		t.Run(end.name+" "+string(end.locks), func(t *testing.T) {
			check := refusals(t)
			if end.locks == guard {
				// Nothing redirects: what the thieves must not get is not even sent there.
				check = func(who identity) { h.victim(who) }
			}
			thieves(t, end.locks, end.name, everywhere, check)
		})
		d = h.startDaemon(conf)
		if !h.allowed() {
			t.Errorf("after %s: what is allowed does not arrive", end.name)
		}
	}
	// The thieves can be reached: by whom nothing keeps.
	outside := h.steal()
	d.stop()
	outside.close()
	outside = h.steal()
	defer outside.close()
	for _, f := range families {
		h.lines(h.outside(identities[0], "socket "+f.name+" stream 6", "connect "+f.loopback+" 15001", "socket "+f.name+" dgram 17", "sendto "+f.loopback+" 15053 hello"))
	}
	if !within(patient(3*time.Second), func() bool { return outside.got.Load() == 4 }) {
		t.Errorf("the thieves do not count: %d of 4", outside.got.Load())
	}
}

// TestOldPort: a workload's connection is closed early while the worker sleeps,
// and an untagged process, or another workload, connects from the same port. Each
// is judged as itself or closed.
func TestOldPort(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	r := newReport(t)
	d := h.startDaemon(h.config(`
timeouts: { drain: 1s }
workloads: { alpha: { match: { unit: alpha.service } } }
rules: [{ name: for-alpha, match: { workloads: [alpha], hosts: [api.example.com], protocols: [http] }, action: allow }]
`))
	request := func(path string) string {
		return "sendhex " + fmt.Sprintf("%x", "GET /"+path+"/ HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n")
	}
	tcp := func(port int, to string) []string {
		return []string{"socket inet stream 6", "reuse", "bind " + hostV4 + " " + strconv.Itoa(port), "connect " + to, "patience 5000"}
	}
	api := originV4 + " 80"
	if said := h.lines(h.inside("alpha.service", identities[0], nil, append(tcp(20000, api), request("control"), "recv")...)); !strings.HasPrefix(resultOf(said, "recv"), "ok HTTP/1.1 200") {
		t.Fatalf("alpha itself: %q", said)
	}
	for _, l := range []locks{both, bpf} {
		for i, who := range everybody() {
			for j, early := range [][]string{{request("gone"), "reset"}, {"reset"}} {
				again := func() {}
				if l == bpf {
					again = h.only(bpf, d)
				}
				worker := d.worker()
				stop(worker)
				port := 21000 + 100*i + 10*j
				if l == bpf {
					port += 1000
				}
				for k := range 2 {
					said := h.lines(h.inside("alpha.service", who, nil, append(tcp(port+k, api), early...)...))
					if resultOf(said, "connect") != "ok" {
						t.Errorf("alpha: %q", said)
					}
				}
				untagged := h.start(h.outside(who, append(tcp(port, "127.0.0.1 15001"), request("untagged"), "pause", "recv")...))
				neighbour := h.start(h.inside("beta.service", who, nil, append(tcp(port+1, api), request("neighbour"), "pause", "recv")...))
				unix.Kill(worker, unix.SIGCONT)
				again()
				untagged.goOn()
				neighbour.goOn()
				for name, p := range map[string]*running{"an untagged process on a workload's old source port": untagged, "another workload on a workload's old source port": neighbour} {
					word := "untagged"
					if p == neighbour {
						word = "neighbour"
					}
					n := h.net.count(marked("GET /" + word + "/"))
					out := line{Row: "early close and the same port again while the worker sleeps", Subject: name, Locks: l, UID: who.uid, NNP: who.nnp, OriginCount: n, Outcome: refused}
					if n > 0 || strings.HasPrefix(p.result("recv"), "ok HTTP/1.1 200") {
						out.Outcome = direct
						t.Errorf("%s, %s: %s: %q", l, who, name, p.Said)
					}
					r.add(out)
					p.end()
				}
			}
		}
	}
}
