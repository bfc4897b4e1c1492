package bypass

import (
	"fmt"
	"slices"
	"strings"
)

// placeRows: other cgroups, other namespaces, programs of one's own.
func placeRows() (rows []row) {
	f := families[0]
	try := f.tcp(f.connect(), send)
	add := func(subject, name string, users []identity, statements ...string) {
		rows = append(rows, row{subject: subject, name: name, users: users, statements: append(statements, try...)})
	}
	add("child cgroup", "a cgroup below its own", identities, "mkdir {cgroup}/child", "join {cgroup}/child")
	add("child cgroup", "a child that begins below its own", identities, "mkdir {cgroup}/child", "clone {cgroup}/child")
	// Root leaves its cgroup: what it does then is not the workload's any more, and
	// nothing but exec's confinement keeps it (contract.md §1).
	add("leaving the cgroup", "to the root", ordinary, "join {root}")
	add("leaving the cgroup", "a child that begins at the root", ordinary, "clone {root}")
	add("leaving the cgroup", "to the root, as root of a user namespace", ordinary, "userns", "join {root}")
	add("attaching its own BPF program", "to its own cgroup", identities, "program {cgroup}")
	add("attaching its own BPF program", "to the root", identities, "program {root}")
	add("attaching its own BPF program", "as root of a user namespace", ordinary, "userns", "program {cgroup}")
	add("new user and network namespace", "user namespace", identities, "userns")
	add("new user and network namespace", "user namespace, every privilege tried", identities, append([]string{"userns"}, f.tcp("mark 1", "transparent", "device eth0", "repair 1")[2:]...)...)
	add("first thread ended", "and another goes on", identities, "thread")
	for _, f := range families {
		rows = append(rows, row{subject: "new user and network namespace", name: f.name + " user and network namespace",
			uncontrolled: "a new network namespace leads nowhere by itself",
			statements:   append([]string{"unshare"}, "socket "+f.name+" stream 6", f.connect(), send, "socket "+f.name+" dgram 17", "sendto "+f.dns+" 53 hello")})
	}
	rows = append(rows, row{subject: "new user and network namespace", name: "a socket made before", statements: append(f.tcp("unshare"), f.connect(), send)})
	return rows
}

// setuidRows: a helper that makes the program root, where no_new_privs does not
// keep it.
func setuidRows() (rows []row) {
	helper := "run " + setuidPath
	for _, f := range families {
		add := func(name string, sneaks bool, statements ...string) {
			rows = append(rows, row{subject: "setuid helper", name: f.name + " " + name, users: ordinary, sneaks: sneaks, statements: append([]string{helper}, statements...)})
		}
		add("tcp", false, f.tcp(f.connect(), send)...)
		add("tcp with SO_MARK", false, f.tcp("mark 1", f.connect(), send)...)
		add("tcp with IP_TRANSPARENT", false, f.tcp("transparent", f.connect(), send)...)
		add("tcp with SO_BINDTODEVICE", true, f.tcp("device eth0", f.connect(), send)...)
		add("tcp in repair", false, f.tcp("repair 1", f.connect(), "repair 0", send)...)
		add("udp", false, f.udp("sendto "+f.far+" 7443 hello")...)
		rows = append(rows, row{subject: "setuid helper", name: f.name + " raw", users: ordinary[:1], trace: "protocol 253 " + f.near,
			statements: []string{helper, "socket " + f.name + " raw 253", "connect " + f.far + " 0", "sendhex 00112233445566778899"}})
	}
	return rows
}

// foreignRows: sockets that were made outside, however they got in.
func foreignRows() (rows []row) {
	f, f6 := families[0], families[1]
	mapped := []string{"socket inet6 stream 6", "bind ::ffff:" + hostV4 + " {port}"}
	type attempt struct {
		name        string
		socket, use []string
	}
	attempts := []attempt{
		{name: "tcp", socket: f.tcp(), use: []string{f.connect(), send}},
		{name: "tcp over IPv6", socket: f6.tcp(), use: []string{f6.connect(), send}},
		{name: "mapped tcp", socket: mapped, use: []string{"connect ::ffff:" + originV4 + " 7443", send}},
		{name: "tcp fast open", socket: f.tcp(), use: []string{"fastopen " + originV4 + " 7443 hello"}},
		{name: "tcp by io_uring", socket: f.tcp(), use: []string{"uring " + originV4 + " 7443", send}},
		{name: "mptcp", socket: []string{"socket inet stream 262", "bind " + hostV4 + " {port}"}, use: []string{f.connect(), send}},
		{name: "udp connected", socket: f.udp(), use: []string{f.connect(), send}},
		{name: "udp", socket: f.udp(), use: []string{"sendto " + originV4 + " 443 hello"}},
		{name: "udp dns", socket: f.udp(), use: []string{"sendto " + dnsV4 + " 53 hello"}},
		{name: "udp over IPv6", socket: f6.udp(), use: []string{"sendto " + originV6 + " 443 hello"}},
		{name: "udp by io_uring", socket: f.udp(), use: []string{"uringsend " + originV4 + " 443 hello"}},
		{name: "listening tcp, reused", socket: f.tcp("listen"), use: []string{"unspec", f.connect(), send}},
		{name: "listening tcp over IPv6, reused", socket: f6.tcp("listen"), use: []string{"unspec", f6.connect(), send}},
		{name: "connected tcp, reused", socket: f.tcp("connect " + originV4 + " 80"), use: []string{"unspec", f.connect(), "send {marker}"}},
		{name: "connected udp, sent elsewhere", socket: f.udp("connect " + originV4 + " 123"), use: []string{"sendto " + originV4 + " 443 {marker}"}},
	}
	ways := []struct {
		name        string
		first, take []string
	}{
		{"inherited", nil, nil},
		{"inherited by exec", nil, []string{"exec"}},
		{"SCM_RIGHTS", []string{"lend /tmp/lend-{port}", "close"}, []string{"take /tmp/lend-{port}"}},
		// The guard and the programs of the cgroup alone do not know these: a socket
		// belongs to the cgroup that made it. What refuses is on the root.
		{"pidfd_getfd", []string{"owner {uid}", "close"}, []string{"steal owner its"}},
	}
	for _, way := range ways {
		for _, a := range attempts {
			r := row{
				subject: "inherited and received socket", name: way.name + ": " + a.name,
				first: slices.Concat(a.socket, way.first), statements: slices.Concat(way.take, a.use),
				stated:      "made outside, it is outside for the guard: only BPF knows who uses it; once it is connected it is found within a second",
				statedUnder: []locks{guard, nft},
				states:      []locks{both, none, bpf, guard, nft},
			}
			if slices.Contains(a.use, "unspec") {
				r.subject = "inherited and received listening socket, reused by AF_UNSPEC"
			}
			if way.name == "pidfd_getfd" {
				r.subject = "pidfd_getfd of a same-uid process outside"
			}
			if slices.ContainsFunc(a.use, func(s string) bool { return s == "send {marker}" || s == "sendto "+originV4+" 443 {marker}" }) {
				r.marker, r.older = "{marker}", true
			}
			rows = append(rows, r)
		}
	}
	return rows
}

// localRows: processes on the same host that would pass something on, and
// sallyport's own addresses.
func localRows() (rows []row) {
	relays := []struct{ subject, name, socket, near, addr string }{
		{"an untagged local relay", "on loopback", "inet", "127.0.0.1", "127.0.0.1"},
		{"an untagged local relay", "on IPv6 loopback", "inet6", "::1", "::1"},
		{"an untagged local relay", "by a mapped address", "inet6", "::ffff:127.0.0.1", "::ffff:127.0.0.1"},
		{"an untagged local relay", "on the host's own address", "inet", hostV4, hostV4},
		{"another workload's loopback listener", "on its loopback", "inet", "127.0.0.1", "127.0.0.2"},
	}
	for _, r := range relays {
		bind := "bind " + r.near + " {port}"
		to := fmt.Sprintf("%s %d", r.addr, relayPort)
		rows = append(rows,
			row{subject: r.subject, name: "tcp " + r.name, statements: []string{"socket " + r.socket + " stream 6", bind, "connect " + to, send}},
			row{subject: r.subject, name: "udp " + r.name, statements: []string{"socket " + r.socket + " dgram 17", bind, "sendto " + to + " hello"}},
			row{subject: r.subject, name: "udp connected " + r.name, statements: []string{"socket " + r.socket + " dgram 17", bind, "connect " + to, send}},
		)
	}
	for _, own := range []struct{ socket, addr string }{
		{"inet stream 6", "127.0.0.1 15001"}, {"inet6 stream 6", "::1 15001"}, {"inet stream 6", "0.0.0.0 15001"}, {"inet6 stream 6", ":: 15001"},
		{"inet6 stream 6", "::ffff:127.0.0.1 15001"}, {"inet6 stream 6", "::ffff:0.0.0.0 15001"}, {"inet stream 6", "127.0.0.1 9595"}, {"inet stream 6", "0.0.0.0 9595"},
		{"inet6 stream 6", "::ffff:127.0.0.1 9595"}, {"inet6 stream 6", "::ffff:0.0.0.0 9595"},
		{"inet dgram 17", "127.0.0.1 15053"}, {"inet6 dgram 17", "::1 15053"}, {"inet6 dgram 17", "::ffff:127.0.0.1 15053"}, {"inet dgram 17", "0.0.0.0 15053"},
	} {
		rows = append(rows, row{subject: "connecting to the proxy's, admin's and metrics' own addresses", name: own.socket + " to " + own.addr,
			must: "connect", states: []locks{both, bpf, none}, statements: []string{"socket " + own.socket, "connect " + own.addr}})
	}
	// Where the keeper is stopped the page waits for it: its control is with both.
	rows = append(rows, row{subject: "connecting to the proxy's, admin's and metrics' own addresses", name: "the metrics' page", states: []locks{both, guard, bpf, nft},
		scenario: func(x *trial) (int, []string) {
			read := x.fill([]string{"socket inet stream 6", "connect 127.0.0.1 9595", "sendhex {http GET /metrics localhost}", "patience 5000", "recv"})
			if x.locks == both {
				if said := x.w.h.lines(x.w.h.outside(x.who, read...)); !strings.HasPrefix(resultOf(said, "recv"), "ok HTTP/1.1 200") {
					return 1, append(said, "which is no metrics page, from outside")
				}
			}
			said := x.w.h.lines(x.w.h.inside("attacker", x.who, nil, read...))
			if strings.HasPrefix(resultOf(said, "recv"), "ok HTTP/1.1 200") {
				return 1, said
			}
			return 0, said
		}})
	for _, path := range []string{"/run/sallyport/admin.sock", "/run/sallyport/exec.sock", "/run/sallyport/service/worker.sock"} {
		rows = append(rows, row{subject: "connecting to the proxy's, admin's and metrics' own addresses", name: path, must: "unix", users: ordinary,
			states: []locks{both, guard, bpf, nft}, statements: []string{"unix " + path + " hello"}})
	}
	return rows
}
