package bypass

import (
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/pkg/confine"
	"sallyport/test/outside"
)

// underExec makes a row of what exec's confinement refuses. Its control is the
// same by the same user outside.
func underExec(subject, name, must string, statements ...string) row {
	return row{
		subject: subject, name: "under exec: " + name, must: must, users: []identity{{user, true}},
		scenario: func(x *trial) (int, []string) {
			said := x.underExec(statements...)
			if must != "" && strings.HasPrefix(resultOf(said, must), "ok") {
				return 1, said
			}
			return 0, said
		},
	}
}

func (x *trial) underExec(statements ...string) []string {
	if x.locks == none {
		return x.w.h.lines(x.w.h.outside(identity{user, false}, x.fill(statements)...))
	}
	return x.w.exec.do(x.fill(statements)...)
}

// execRows: side doors, which no lock of the network sees.
func execRows() (rows []row) {
	const subject = "abstract and path unix sockets of resolver, bus and container engine under exec"
	for _, path := range unixPaths {
		rows = append(rows, underExec(subject, path, "unix", "unix "+path+" hello"))
	}
	abstract := underExec(subject, abstractName, "unix", "unix "+abstractName+" hello")
	if !confine.ScopesAbstractSockets() {
		abstract.stated = "before Linux 6.12 Landlock cannot keep a command from abstract sockets of its network namespace"
	}
	outside := "pidfd_getfd, ptrace, memory of a same-uid process outside"
	door := "setuid helper"
	rows = append(rows, abstract,
		underExec(outside, "pidfd_getfd", "steal", "steal {pid} {fd}"),
		underExec(outside, "ptrace", "trace", "trace {pid}"),
		underExec(outside, "/proc/PID/mem", "memory", "memory {pid} {secret}"),
		underExec(outside, "process_vm_readv", "copy", "copy {pid} {secret}"),
		underExec("AF_VSOCK", "a socket", "socket", "socket vsock stream 0"),
		underExec("raw, ping and packet sockets", "packet by a setuid helper", "socket", "run "+setuidPath, "socket packet dgram 2048"),
		underExec(door, "raw by a setuid helper", "socket", "run "+setuidPath, "socket inet raw 253"),
		underExec("io_uring connect and sendmsg", "a ring", "uringsocket", "uringsocket inet stream 6"),
		row{subject: "every other address family", name: "under exec: all of them", users: []identity{{user, true}}, scenario: func(x *trial) (int, []string) {
			said := x.underExec("families")
			return len(strings.Fields(strings.Replace(resultOf(said, "families")+" ", "ok 1 2 10 16 ", "", 1))), said
		}},
		row{subject: "names by request_key(2)", name: "under exec: a name in DNS", users: []identity{{user, true}}, scenario: func(x *trial) (int, []string) {
			// The kernel starts a program outside that asks: any answer but that there is
			// no such call means that it would.
			said := x.underExec("requestkey {marker}.attacker.example")
			if resultOf(said, "requestkey") == "ENOSYS" {
				return 0, said
			}
			return 1, said
		}},
	)
	for _, f := range families {
		r := underExec("TCP", f.name+" tcp", "", f.tcp(f.connect(), send)...)
		rows = append(rows, r, underExec("new user and network namespace", f.name+" udp as root of a user namespace", "", append([]string{"userns"}, f.udp("sendto "+f.far+" 7443 hello")...)...))
	}
	return rows
}

// workerRows: the worker itself.
func workerRows() (rows []row) {
	const subject = "ptrace or signals to the worker"
	add := func(name, must, statement, control string) {
		rows = append(rows, row{subject: subject, name: name, must: must, users: ordinary, statements: []string{statement}, control: []string{control}})
	}
	add("SIGKILL", "signal", "signal {worker} 9", "signal {worker} 0")
	add("SIGSTOP", "signal", "signal {worker} 19", "signal {worker} 0")
	add("SIGKILL to the keeper", "signal", "signal {keeper} 9", "signal {keeper} 0")
	add("ptrace", "trace", "trace {worker}", "trace {worker}")
	add("memory", "memory", "memory {worker} {secret}", "memory {self} here")
	add("pidfd_getfd", "steal", "steal {worker} 3", "steal {worker} 3")
	for _, r := range []row{underExec(subject, "SIGKILL", "signal", "signal {worker} 9"), underExec(subject, "ptrace", "trace", "trace {worker}")} {
		// Their control is that of the rows above.
		r.states = []locks{both, guard, bpf, nft}
		rows = append(rows, r)
	}
	return rows
}

// inboundRows: an accomplice on the internet connects to the program, which
// answers.
func inboundRows() (rows []row) {
	for _, f := range families {
		any := map[string]string{"inet": "0.0.0.0", "inet6": "::"}[f.name]
		listen := []string{"socket " + f.name + " stream 6", "reuse", "bind " + any + " {port}", "listen"}
		answer := []string{"pause", "accept", "send welcome", "shut", "recv"}
		add := func(name string, timed bool, states []locks, first, then []string) {
			rows = append(rows, row{
				subject: "inbound from an accomplice", name: f.name + " " + name, timed: timed, states: states,
				scenario: func(x *trial) (int, []string) {
					p := x.w.h.start(x.w.h.inside("attacker", x.who, x.fill(first), x.fill(then)...))
					defer p.end()
					p.tell()
					return len(x.w.h.net.dial(net.JoinHostPort(f.near, strconv.Itoa(x.port)))), p.Said
				},
			})
		}
		add("tcp", false, nil, nil, slices.Concat(listen, answer))
		// What a listener from outside accepts is outside for both locks: it is found
		// in the program's descriptors, by the keeper.
		add("tcp on a listening socket that was inherited, after a second", true, []locks{both, none}, listen, slices.Concat([]string{"sleep 1000"}, answer))
	}
	return rows
}

// dial connects from the internet and gives what it hears.
func (n *internet) dial(addr string) (heard string) {
	outside.In(n.ns, func() error {
		c, err := net.DialTimeout("tcp", addr, patient(1500*time.Millisecond))
		if err != nil {
			return nil
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patient(2 * time.Second)))
		b, _ := io.ReadAll(c)
		heard = string(b)
		return nil
	})
	return heard
}
