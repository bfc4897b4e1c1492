package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
	"sallyport/test/outside"
)

// keepProgram is testdata/foreign/keep.c, compiled once.
var keepProgram = sync.OnceValues(func() ([]byte, error) {
	return compileC("gcc", "testdata/foreign/keep.c", "-static", "-pthread")
})

const keepPath = "/srv/bin/keep"

func (h *host) putKeep() {
	h.t.Helper()
	program, err := keepProgram()
	if err != nil {
		h.t.Fatal(err)
	}
	h.putProgram(keepPath, program)
}

// foreignLife is how long a connection from outside may live in a workload.
const foreignLife = time.Second

// A meeting is one connection that reached the internet's meeting place.
type meeting struct {
	from  string
	heard syncBuffer
	ended chan struct{}
}

// meetings is a TCP server that tells of each connection by its source port.
type meetings struct {
	mu  sync.Mutex
	all map[string]*meeting
}

// meet listens on a port of the internet.
func (h *host) meet(port int) *meetings {
	m := &meetings{all: make(map[string]*meeting)}
	h.net.serveTCP(port, func(c net.Conn) {
		one := &meeting{from: c.RemoteAddr().String(), ended: make(chan struct{})}
		m.mu.Lock()
		m.all[one.from] = one
		m.mu.Unlock()
		io.Copy(&one.heard, c)
		close(one.ended)
	})
	return m
}

// take gives the connection that came since the last call.
func (m *meetings) take(t *testing.T) *meeting {
	t.Helper()
	var one *meeting
	eventually(t, 20*time.Second, "a connection to the meeting place", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		for from, c := range m.all {
			one = c
			delete(m.all, from)
			return true
		}
		return false
	})
	return one
}

// lived waits for a connection's end and gives how long it took.
func (m *meeting) lived(t *testing.T, since time.Time) time.Duration {
	t.Helper()
	select {
	case <-m.ended:
		return time.Since(since)
	case <-time.After(30 * time.Second):
		t.Fatal("the connection was not destroyed")
		return 0
	}
}

// A kept is a running testdata/foreign/keep.c.
type kept struct {
	*outside.Program
	pid uint32
	// began is before it did anything.
	began time.Time
}

// keep starts the program outside of every cgroup of ours and waits until it has
// entered the one below the slice.
func (h *host) keep(uid int, mode, addr string, port int, cgroup string) *kept {
	h.t.Helper()
	c := h.outside(uid, keepPath, mode, addr, strconv.Itoa(port), h.below(cgroup))
	k := &kept{began: time.Now()}
	k.Program = outside.Start(h.t, c)
	for {
		line := k.line()
		if n, ok := strings.CutPrefix(line, "joined "); ok {
			pid, err := strconv.Atoi(n)
			if err != nil {
				h.t.Fatal(err)
			}
			k.pid = uint32(pid)
			return k
		}
		if line != "apart" {
			h.t.Fatalf("keep %s: %q", mode, line)
		}
	}
}

// line reads a line; "" at the end.
func (k *kept) line() string {
	line, _ := k.Line()
	return line
}

// late lets the program send and gives what it says of that.
func (k *kept) late() string {
	k.Tell("")
	for {
		if line := k.line(); line != "apart" {
			return line
		}
	}
}

// foreignEvent waits for the event of a process. Numbers of processes come round.
func (h *host) foreignEvent(k *kept) audit.Event {
	h.t.Helper()
	return h.waitAudit(fmt.Sprintf("foreign_socket of process %d", k.pid), func(e *audit.Event) bool {
		return e.Kind == audit.ForeignSocket && e.Workload.PID == k.pid && e.Time.After(k.began)
	})
}

// TestForeignConnections: a socket that was connected outside is destroyed within a
// second of its coming into a workload, however it came and wherever it is kept,
// and the audit says whose it was.
func TestForeignConnections(t *testing.T) {
	h := newHost(t)
	h.putSock()
	h.putKeep()
	place := h.meet(7777)
	h.startDaemon(h.config("default: allow\nmode: observe\n"))
	h.below("receiver")
	destroyed := func() float64 { return h.scrape(`sallyport_foreign_sockets_total{outcome="destroyed"}`) }
	check := func(t *testing.T, one *meeting, e audit.Event) {
		t.Helper()
		if got := one.heard.String(); got != "before" {
			t.Errorf("the origin received %q, want only what was sent outside", got)
		}
		if e.Verdict != "deny" || e.Reason != "foreign_socket" || e.Dst.IP.String() != originV4 || e.Dst.Port != 7777 ||
			e.Workload.Name == "" || !strings.HasSuffix(e.Workload.Cgroup, "/receiver") || !strings.HasSuffix(e.Message, ": destroyed") {
			t.Errorf("audit: %+v", e)
		}
	}
	for _, mode := range []string{"plain", "thread", "leader", "ring"} {
		t.Run("moved, "+mode, func(t *testing.T) {
			before := destroyed()
			best(t, "its end", foreignLife, func() time.Duration {
				k := h.keep(0, mode, originV4, 7777, "receiver")
				joined := time.Now()
				one := place.take(t)
				took := one.lived(t, joined)
				if said := k.late(); !strings.HasPrefix(said, "error ") {
					t.Errorf("the program's send: %q", said)
				}
				e := h.foreignEvent(k)
				check(t, one, e)
				if e.Workload.Exe != keepPath && mode != "leader" {
					t.Errorf("audit: exe %q", e.Workload.Exe)
				}
				return took
			})
			eventually(t, 20*time.Second, "the metric", func() bool { return destroyed() > before })
		})
	}
	t.Run("passed on from process to process", func(t *testing.T) {
		best(t, "its end", foreignLife, func() time.Duration {
			k := h.keep(0, "chain", originV4, 7777, "receiver")
			joined := time.Now()
			one := place.take(t)
			took := one.lived(t, joined)
			if said := k.late(); !strings.HasPrefix(said, "error ") {
				t.Errorf("the program's send: %q", said)
			}
			check(t, one, h.waitAudit("the foreign socket", func(e *audit.Event) bool {
				return e.Kind == audit.ForeignSocket && e.Time.After(k.began)
			}))
			return took
		})
	})
	connected := []string{"socket inet stream 6", "connect " + originV4 + " 7777", "send before"}
	for _, way := range []struct {
		name  string
		uids  []int
		start func(uid int) *sockProcess
	}{
		{"inherited", []int{0}, func(uid int) *sockProcess {
			return h.startSock(h.outside(uid), append(slices.Clone(connected), "join "+h.below("receiver"), "exec", "pause", "send late")...)
		}},
		{"SCM_RIGHTS", []int{nobody, 0}, func(uid int) *sockProcess {
			path := fmt.Sprintf("/tmp/connected-%d", uid)
			giver := h.startGiver(h.outside(uid), append(slices.Clone(connected), "give "+path)...)
			p := h.startSock(h.inside("receiver", uid), "take "+path, "pause", "send late")
			giver()
			return p
		}},
		{"pidfd_getfd", []int{nobody, 0}, func(uid int) *sockProcess {
			owner := h.startSock(h.outside(uid), append(slices.Clone(connected), "pid", "pause")...)
			_, ids, _ := strings.Cut(owner.Result("pid"), " ")
			return h.startSock(h.inside("receiver", uid), "steal "+ids, "pause", "send late")
		}},
	} {
		for _, uid := range way.uids {
			t.Run(fmt.Sprintf("%s uid %d", way.name, uid), func(t *testing.T) {
				best(t, "its end", foreignLife, func() time.Duration {
					began := time.Now()
					p := way.start(uid)
					came := time.Now()
					one := place.take(t)
					took := one.lived(t, came)
					p.goOn()
					if got := p.Result("send"); got == "ok" {
						t.Errorf("the program sent: %q", p.Said)
					}
					e := h.waitAudit("the foreign socket", func(e *audit.Event) bool {
						return e.Kind == audit.ForeignSocket && e.Time.After(began) && e.Workload.UID == uint32(uid) && strings.HasSuffix(e.Message, ": destroyed") && e.Workload.Exe == sockPath
					})
					check(t, one, e)
					return took
				})
			})
		}
	}
	t.Run("connected UDP", func(t *testing.T) {
		w := h.tap()
		best(t, "its end", foreignLife, func() time.Duration {
			k := h.keep(0, "dgram", originV4, 7443, "receiver")
			joined := time.Now()
			e := h.foreignEvent(k)
			if !strings.HasPrefix(e.Message, "udp connection") || e.Dst.Port != 7443 {
				t.Errorf("audit: %+v", e)
			}
			w.packets()
			if said := k.late(); !strings.HasPrefix(said, "error ") {
				t.Errorf("the program's send: %q", said)
			}
			w.silent("the program's send")
			return e.Time.Sub(joined)
		})
	})
	t.Run("connecting", func(t *testing.T) {
		k := h.keep(0, "syn", "203.0.113.99", 80, "receiver")
		e := h.foreignEvent(k)
		if e.Dst.IP.String() != "203.0.113.99" || e.Dst.Port != 80 {
			t.Errorf("audit: %+v", e)
		}
		if said := k.late(); said == "sent" {
			t.Errorf("the program's send: %q", said)
		}
	})
	t.Run("listener", func(t *testing.T) {
		k := h.keep(0, "listen", hostV4, 7999, "receiver")
		if e := h.foreignEvent(k); !strings.HasPrefix(e.Message, "tcp listener") {
			t.Errorf("audit: %+v", e)
		}
		var err error
		inNetns(t, h.net.ns, func() {
			var c net.Conn
			if c, err = net.DialTimeout("tcp4", hostV4+":7999", 5*time.Second); err == nil {
				c.Close()
			}
		})
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("an accomplice outside connected: %v", err)
		}
		if said := k.late(); said == "sent" {
			t.Errorf("the program accepted: %q", said)
		}
	})
	for _, kind := range []string{"packet", "raw", "ping", "vsock"} {
		t.Run(kind, func(t *testing.T) {
			h.sh("sysctl -qw net.ipv4.ping_group_range='0 2147483647'")
			k := h.keep(0, kind, originV4, 80, "receiver")
			e := h.foreignEvent(k)
			if !strings.HasPrefix(e.Message, kind+" ") || !strings.Contains(e.Message, "its process was ended") {
				t.Errorf("audit: %+v", e)
			}
			if said := k.late(); said != "" {
				t.Errorf("the program lives: %q", said)
			}
		})
	}
	if n := h.scrape(`sallyport_foreign_sockets_total{outcome="failed"}`); n != 0 {
		t.Errorf("%v could not be ended", n)
	}
	if p := h.status().Problems; len(p) != 0 {
		t.Errorf("problems: %q", p)
	}
}

// TestOwnSocketsStay: what a workload itself made stays, over many looks: captured
// connections, connected UDP, a listener and what it accepted, unix sockets. So does
// the listener of a service manager whose child is about to execute in the slice.
func TestOwnSocketsStay(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putSock()
	h.putKeep()
	var heard syncBuffer
	h.net.serveTCP(7778, func(c net.Conn) {
		io.WriteString(c, "welcome")
		io.Copy(&heard, c)
	})
	h.startDaemon(h.config("default: allow\nmode: observe\n"))
	h.below("own")
	manager := h.keep(0, "manager", hostV4, 7998, "own")
	conn := h.startSock(h.inside("own", nobody), "socket inet stream 6", "patience 20000", "connect "+originV4+" 7778", "recv", "pause", "send hello")
	udp := h.startSock(h.inside("own", nobody), "socket inet dgram 17", "connect "+dnsV4+" 53", "pause", "send hello")
	server := h.startSock(h.inside("own", nobody), "socket inet stream 6", "bind 127.0.0.1 7100", "listen", "pause", "accept", "pause", "recv")
	client := h.startSock(h.outside(nobody), "socket inet stream 6", "connect 127.0.0.1 7100", "pause", "send inbound")
	server.goOn()
	if r := server.Result("accept"); !strings.HasPrefix(r, "ok") {
		t.Errorf("accept: %q", server.Said)
	}
	time.Sleep(3 * time.Second)
	conn.goOn()
	if r := conn.Result("recv"); r != "ok welcome" {
		t.Errorf("a captured connection: %q", conn.Said)
	}
	eventually(t, 20*time.Second, "what was sent later on a captured connection", func() bool { return heard.String() == "hello" })
	udp.goOn()
	if r := udp.Result("send"); r != "ok" {
		t.Errorf("connected UDP: %q", udp.Said)
	}
	client.goOn()
	server.goOn()
	if r := server.Result("recv"); r != "ok inbound" {
		t.Errorf("an accepted connection: %q", server.Said)
	}
	if said := manager.late(); said != "listens" {
		t.Errorf("the service manager's listener: %q", said)
	}
	if all := h.auditOf(audit.ForeignSocket); len(all) > 0 {
		t.Errorf("audit: %+v", all)
	}
}
