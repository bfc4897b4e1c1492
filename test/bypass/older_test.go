package bypass

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/test/outside"
)

// serveGreeting runs an origin that speaks first, once it is told to, and keeps
// what it hears by source port.
func (n *internet) serveGreeting(speak <-chan struct{}) error {
	return outside.In(n.ns, func() error {
		ln, err := net.Listen("tcp", fmt.Sprintf(":%d", greetingPort))
		if err != nil {
			return err
		}
		n.t.Cleanup(func() { ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				one := n.add("origin", "tcp", c.RemoteAddr())
				go func() {
					<-speak
					c.Write([]byte("you-first"))
				}()
				go func() {
					defer c.Close()
					for buf := make([]byte, 512); ; {
						k, err := c.Read(buf)
						n.more(one, buf[:k])
						if err != nil {
							return
						}
					}
				}()
			}
		}()
		return nil
	})
}

// heard gives what the origin got from a source port.
func (n *internet) heard(port int) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range n.list {
		if int(a.from.Port()) == port {
			return string(a.data)
		}
	}
	return ""
}

// TestOlderConnection: a direct connection that is older than the gate carries
// nothing out any more, also where the far end speaks first. Its process was in
// the tagged cgroup all the time: a socket belongs to the cgroup that made it.
func TestOlderConnection(t *testing.T) {
	t.Parallel()
	for _, l := range []locks{both, guard, bpf, none} {
		t.Run(string(l), func(t *testing.T) {
			h := newHost(t)
			r := newReport(t)
			speak := make(chan struct{})
			if err := h.net.serveGreeting(speak); err != nil {
				t.Fatal(err)
			}
			type one struct {
				who  identity
				f    family
				port int
				p    *running
			}
			var all []one
			for i, who := range everybody() {
				for j, f := range families {
					port := 2000 + 10*i + j
					p := h.start(h.inside("older", who, nil, "socket "+f.name+" stream 6", fmt.Sprintf("bind %s %d", f.near, port), fmt.Sprintf("connect %s %d", f.far, greetingPort), "send before", "pause",
						"recv", "send secret", "shut", "pause"))
					if got := p.result("connect"); got != "ok" {
						t.Fatalf("before the gate: %q", p.Said)
					}
					all = append(all, one{who, f, port, p})
				}
			}
			again := func() {}
			if l != none {
				again = h.only(l, h.startDaemon(h.config("default: allow\nmode: observe\n")))
			}
			close(speak)
			for _, o := range all {
				// The gate destroys what is older than it, as far as it finds it: then
				// there is nothing to speak on.
				o.p.goOn()
				if got := o.p.result("recv"); got != "ok you-first" && l == none {
					t.Errorf("the far end did not speak first: %q", o.p.Said)
				}
			}
			if l == none {
				within(patient(10*time.Second), func() bool {
					return !slices.ContainsFunc(all, func(o one) bool { return h.net.heard(o.port) != "beforesecret" })
				})
			} else {
				time.Sleep(patient(1200 * time.Millisecond))
			}
			for _, o := range all {
				heard := h.net.heard(o.port)
				out := line{Row: o.f.name + " far end speaking first", Subject: "a direct connection older than the guard", Locks: l, UID: o.who.uid, NNP: o.who.nnp, Outcome: refused}
				if heard != "before" {
					out.OriginCount = 1
					out.Outcome = direct
				}
				switch {
				case l == none && heard == "beforesecret":
					out.Outcome = reachedIt
				case l == none:
					t.Errorf("%s %s: is no attack: the origin received %q", o.f.name, o.who, heard)
				case heard != "before":
					t.Errorf("%s %s: the origin received %q, want only what was sent before; the program saw %q", o.f.name, o.who, heard, o.p.Said)
				}
				r.add(out)
			}
			for _, o := range all {
				o.p.end()
			}
			again()
		})
	}
}

// foundWithin waits for as long as a connected socket may stay. All these programs
// begin at once, for which one emulated processor takes most of that time.
func foundWithin() string {
	if slower() > 1 {
		return "sleep 3000"
	}
	return "sleep 1000"
}

// TestConnectedWhenReceived: a socket that was connected outside before it came
// to a workload passes both locks. It is found in the workload's descriptors and
// destroyed within a second, and audited.
func TestConnectedWhenReceived(t *testing.T) {
	h := newHost(t)
	r := newReport(t)
	d := h.startDaemon(h.config(policy))
	ways := []struct {
		name              string
		first, take, back []string
	}{
		{"inherited", nil, nil, nil},
		{"inherited by exec", nil, []string{"exec"}, nil},
		{"SCM_RIGHTS", []string{"lend /tmp/lend-{port}", "close"}, []string{"take /tmp/lend-{port}"}, nil},
		{"pidfd_getfd", []string{"owner {uid}", "close"}, []string{"steal owner its"}, nil},
		{"kept in the queue of a unix socket", nil, []string{"park"}, []string{"unpark"}},
		{"by a process whose first thread has ended", nil, []string{"thread"}, nil},
	}
	sockets := []struct {
		name, word string
		statements []string
	}{
		{"tcp", "late", []string{"socket inet stream 6", "bind " + hostV4 + " {port}", "connect " + originV4 + " 7443"}},
		{"tcp over IPv6", "late", []string{"socket inet6 stream 6", "bind " + hostV6 + " {port}", "connect " + originV6 + " 7443"}},
		{"udp", "late", []string{"socket inet dgram 17", "bind " + hostV4 + " {port}", "connect " + originV4 + " 7443"}},
		{"udp over IPv6", "late", []string{"socket inet6 dgram 17", "bind " + hostV6 + " {port}", "connect " + originV6 + " 7443"}},
	}
	port := 2000
	late := func(port int) int {
		return h.net.count(func(a *arrival) bool { return int(a.from.Port()) == port && bytes.Contains(a.data, []byte("late")) })
	}
	for _, l := range []locks{both, none} {
		again := h.only(l, d)
		type one struct {
			name string
			who  identity
			port int
			said chan []string
			// run makes the attack from a source port.
			run func(port int) []string
		}
		var all []one
		for _, way := range ways {
			for _, s := range sockets {
				for _, who := range everybody() {
					port++
					run := func(port int) []string {
						fill := strings.NewReplacer("{port}", strconv.Itoa(port), "{uid}", strconv.Itoa(who.uid))
						var first, then []string
						for _, st := range append(append([]string{}, s.statements...), way.first...) {
							first = append(first, fill.Replace(st))
						}
						for _, st := range way.take {
							then = append(then, fill.Replace(st))
						}
						then = append(then, foundWithin())
						then = append(then, way.back...)
						then = append(then, "send "+s.word, "sleep 200", "send "+s.word)
						return h.lines(h.inside("receiver", who, first, then...))
					}
					o := one{way.name + ": " + s.name, who, port, make(chan []string, 1), run}
					go func() { o.said <- run(o.port) }()
					all = append(all, o)
				}
			}
		}
		for _, o := range all {
			said := <-o.said
			if l == none {
				within(patient(5*time.Second), func() bool { return late(o.port) > 0 })
			}
			h.net.quiet()
			n := late(o.port)
			out := line{Row: "already connected, after a second: " + o.name, Subject: "inherited and received socket", Locks: l, UID: o.who.uid, NNP: o.who.nnp, Outcome: refused}
			if l == both && n > 0 {
				got := out.again(t, tally{said: said, origin: n, reached: n}, func() tally {
					port++
					said := o.run(port)
					h.net.quiet()
					n := late(port)
					return tally{said: said, origin: n, reached: n}
				})
				said, n = got.said, got.reached
			}
			out.OriginCount = n
			switch {
			case l == none && n > 0:
				out.Outcome = reachedIt
			case l == none:
				t.Errorf("%s (%s): is no attack: %q", o.name, o.who, said)
			case n > 0:
				out.Outcome = direct
				t.Errorf("%s (%s): a second after it was received it still carried something out; the program saw %q", o.name, o.who, said)
			}
			r.add(out)
		}
		again()
		if l == both && !within(patient(5*time.Second), func() bool {
			seen := map[uint32]bool{}
			for _, e := range h.audit() {
				if e.Kind == audit.ForeignSocket && strings.HasSuffix(e.Workload.Cgroup, "/receiver") {
					seen[e.Workload.UID] = true
				}
			}
			return seen[nobody] && (seen[0] || !*rootToo)
		}) {
			t.Error("the audit does not tell of the sockets that were destroyed")
		}
	}
}
