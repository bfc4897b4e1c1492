package bypass

import "slices"

// table lists every way out that a program can try.
func table() []row {
	return slices.Concat(
		transportRows(), optionRows(), multicastRows(), mappedRows(), refusedProtocolRows(), placeRows(), setuidRows(),
		foreignRows(), localRows(), dnsRows(), nameRows(), metadataRows(),
		execRows(), workerRows(), inboundRows(),
	)
}

// A family is what differs between IPv4 and IPv6 in an attack.
type family struct {
	name, near, far, dns, loopback string
}

var families = []family{
	{"inet", hostV4, originV4, dnsV4, "127.0.0.1"},
	{"inet6", hostV6, originV6, originV6, "::1"},
}

// tcp and udp give a socket that is bound to a source port of its own: with a
// source on loopback the kernel itself would send nothing elsewhere.
func (f family) tcp(more ...string) []string {
	return append([]string{"socket " + f.name + " stream 6", "bind " + f.near + " {port}"}, more...)
}

func (f family) udp(more ...string) []string {
	return append([]string{"socket " + f.name + " dgram 17", "bind " + f.near + " {port}"}, more...)
}

// connect leads to a port of the origin that the policy answers late.
func (f family) connect() string { return "connect " + f.far + " 7443" }

// ask connects to where DNS is asked.
func (f family) ask() string { return "connect " + f.dns + " 53" }

const send = "send hello"

// Whole packets of protocol 253 (RFC 3692) from the host to the origin.
const (
	headerV4 = "4500001c0000000040fd0000cb007101cb00710a0011223344556677"
	headerV6 = "600000000008fd40" + "20010db8011300000000000000000001" + "20010db8011300000000000000000010" + "0011223344556677"
)

// transportRows: the calls that make a connection or send a datagram.
func transportRows() (rows []row) {
	for _, f := range families {
		add := func(subject, name string, statements []string) {
			rows = append(rows, row{subject: subject, name: f.name + " " + name, statements: statements})
		}
		again := "connect after reconnect (AF_UNSPEC)"
		add("TCP", "tcp", f.tcp(f.connect(), send))
		add(again, "tcp again after AF_UNSPEC", f.tcp(f.connect(), "unspec", f.connect(), send))
		add(again, "tcp after AF_UNSPEC alone", f.tcp("unspec", f.connect(), send))
		add(again, "tcp after a refused port", f.tcp("connect "+f.loopback+" 15001", "unspec", f.connect(), send))
		add("TCP Fast Open", "tcp fast open", f.tcp("fastopen "+f.far+" 7443 hello"))
		add("TCP Fast Open", "tcp fast open as an option", f.tcp("defer", f.connect(), send))
		add("TCP Fast Open", "tcp deferred, then fast open elsewhere", f.tcp("defer", "connect "+f.far+" 80", "fastopen "+f.far+" 7443 hello", send))
		uring := "io_uring connect and sendmsg"
		add(uring, "tcp by io_uring", f.tcp("uring "+f.far+" 7443", send))
		add(uring, "tcp by a thread of the kernel", f.tcp("polled", "uring "+f.far+" 7443", "uringsend "+f.far+" 0 hello"))
		add(uring, "tcp fast open by io_uring", f.tcp("uringfastopen "+f.far+" 7443 hello"))
		add(uring, "udp by io_uring", f.udp("uringsend "+f.far+" 7443 hello"))
		add(uring, "udp connected and sent by io_uring", f.udp("uring "+f.far+" 7443", "uringsend "+f.far+" 0 hello"))
		add(uring, "udp dns by io_uring with a device", f.udp("device eth0", "uringsend "+f.dns+" 53 hello"))
		add(uring, "a socket made by io_uring", []string{"uringsocket " + f.name + " stream 6", "bind " + f.near + " {port}", f.connect(), send})
		add(uring, "udp of a socket made by io_uring", []string{"uringsocket " + f.name + " dgram 17", "bind " + f.near + " {port}", "uringsend " + f.far + " 7443 hello"})
		udp := "UDP connected and unconnected, IPv4, IPv6, mapped"
		add(udp, "udp connected", f.udp(f.connect(), send))
		add(udp, "udp", f.udp("sendto "+f.far+" 123 hello"))
		add(udp, "udp, many at once", f.udp("sendmany "+f.far+" 7443 hello"))
		add(udp, "udp in segments", f.udp("segments 2", "sendto "+f.far+" 7443 hello"))
		add(udp, "udp corked for dns, sent elsewhere", f.udp("cork 1", "sendto "+f.dns+" 53 hello", "sendto "+f.far+" 7443 hello", "cork 0"))
		add(udp, "udp broadcast", f.udp("broadcast", map[string]string{"inet": "sendto 203.0.113.255 7443 hello", "inet6": "sendto ff02::1%eth0 7443 hello"}[f.name]))
		add(udp, "udp limited broadcast", f.udp("broadcast", "device eth0", map[string]string{"inet": "sendto 255.255.255.255 7443 hello", "inet6": "sendto ff05::2%eth0 7443 hello"}[f.name]))
		add("QUIC", "quic", f.udp("sendhexto "+f.far+" 443 c00000000108000102030405060700004000"))
		add("QUIC", "quic connected", f.udp("connect "+f.far+" 443", "sendhex c00000000108000102030405060700004000"))
		add("DNS over UDP, TCP, TLS, HTTPS", "tcp to port 53", f.tcp("connect "+f.dns+" 53", send))
		add("DNS over UDP, TCP, TLS, HTTPS", "tcp to port 853", f.tcp("connect "+f.far+" 853", send))
		add("DNS to another server", "udp dns, then elsewhere", f.udp(f.ask(), send, "sendto "+f.far+" 7443 hello", "unspec", f.connect(), send))
		add("sending by other calls", "tcp, zero copy", f.tcp(f.connect(), "zerocopy hello"))
		add("sending by other calls", "tcp, spliced", f.tcp(f.connect(), "splice hello"))
		add("sending by other calls", "tcp, sendfile", f.tcp(f.connect(), "sendfile hello"))
		add("sending by other calls", "tcp with a protocol above", f.tcp(f.connect(), "ulp tls", send))
		add("fork after exec", "tcp by a child", append([]string{"fork"}, f.tcp("fork", f.connect(), send)...))
		add("fork after exec", "tcp after exec", f.tcp("exec", f.connect(), send))
		add("fork after exec", "tcp by a child after exec", f.tcp("exec", "fork", f.connect(), send))
		add("TCP_REPAIR", "tcp in repair", f.tcp("repair 1", f.connect(), "repair 0", send))
		add("bind to another address", "tcp from a port alone", []string{"socket " + f.name + " stream 6", "bind " + map[string]string{"inet": "0.0.0.0", "inet6": "::"}[f.name] + " {port}", f.connect(), send})
		// Who connects to itself from the unspecified address sends on lo, to a socket
		// that listens there: the origin of this row is the relay outside.
		any := map[string]string{"inet": "0.0.0.0", "inet6": "::"}[f.name]
		local := map[string]string{"inet": "127.0.0.1", "inet6": "::1"}[f.name]
		to := func(addr string) []string {
			return []string{"socket " + f.name + " stream 6", "bind " + local + " {port}", "connect " + addr + " 8123", send}
		}
		add("0.0.0.0 and :: as destination", "tcp to "+any, to(any))
		add("0.0.0.0 and :: as destination", "udp to "+any, []string{"socket " + f.name + " dgram 17", "bind " + local + " {port}", "sendto " + any + " 8123 hello"})
	}
	return rows
}

// optionRows: options and ancillary data that could give a packet another way.
func optionRows() (rows []row) {
	subjects := map[string]string{
		"device eth0": "SO_BINDTODEVICE before and after connect", "ifindex eth0": "SO_BINDTODEVICE before and after connect",
		"unicast eth0": "IP_UNICAST_IF", "noroute": "SO_DONTROUTE", "pktinfo eth0": "IPV6_PKTINFO as option", "rthdr " + originV6: "IPV6_RTHDR (type 4) as option",
		"mark 1": "SO_MARK", "transparent": "IP_TRANSPARENT", "options " + originV4: "IP_OPTIONS as option", "strict " + originV4: "IP_OPTIONS as option",
		"nexthop " + originV6: "IPV6_NEXTHOP", "flowinfo": "IPv6 flow labels", "freebind": "IP_FREEBIND",
	}
	for _, f := range families {
		options := []string{"device eth0", "ifindex eth0", "unicast eth0", "noroute", "mark 1", "transparent", "freebind"}
		if f.name == "inet6" {
			options = append(options, "pktinfo eth0", "rthdr "+originV6, "nexthop "+originV6, "flowinfo")
		} else {
			options = append(options, "options "+originV4, "strict "+originV4)
		}
		for _, o := range options {
			// The other options change nothing of the way, or nothing that redirection
			// does not see. TCP asks neither IP_UNICAST_IF nor the sticky IPV6_PKTINFO,
			// and a connected IPv4 UDP socket has its route already.
			sneaks := slices.Contains([]string{"device eth0", "ifindex eth0", "unicast eth0", "pktinfo eth0", "rthdr " + originV6}, o)
			streams := sneaks && o != "unicast eth0" && o != "pktinfo eth0"
			late := sneaks && (f.name == "inet6" || o != "unicast eth0")
			add := func(name string, sneaks bool, statements []string) {
				rows = append(rows, row{subject: subjects[o], name: f.name + " " + name, sneaks: sneaks, statements: statements})
			}
			add("tcp, "+o+" before connect", streams, f.tcp(o, f.connect(), send))
			add("tcp, "+o+" after connect", streams, f.tcp(f.connect(), o, send))
			add("tcp, "+o+" between two", streams, f.tcp(f.connect(), o, "unspec", f.connect(), send))
			add("udp dns, "+o+" before sendto", sneaks, f.udp(o, "sendto "+f.dns+" 53 hello"))
			add("udp dns, "+o+" before connect", sneaks, f.udp(o, f.ask(), send))
			add("udp dns, "+o+" after connect", late, f.udp(f.ask(), o, send))
		}
		ancillary := map[string][]string{
			"inet":  {"cmsg pktinfo eth0 " + f.near, "cmsg options " + originV4},
			"inet6": {"cmsg pktinfo eth0 " + f.near, "cmsg rthdr " + originV6, "cmsg rthdr4 " + originV6, "cmsg oldrthdr " + originV6},
		}
		for _, c := range ancillary[f.name] {
			subject := "IP_PKTINFO and IPV6_PKTINFO as ancillary data"
			switch {
			case c == "cmsg options "+originV4:
				subject = "IP_OPTIONS as ancillary data"
			case c != "cmsg pktinfo eth0 "+f.near:
				subject = "IPV6_RTHDR as ancillary data"
			}
			add := func(name string, sneaks bool, statements []string) {
				rows = append(rows, row{subject: subject, name: f.name + " " + name, sneaks: sneaks, statements: statements})
			}
			sneaks := subject != "IP_OPTIONS as ancillary data"
			add("udp dns, "+c, sneaks, f.udp(c, "sendto "+f.dns+" 53 hello"))
			// The kernel asks sendmsg programs here, with no address: refused.
			add("udp dns connected, "+c, false, f.udp(f.ask(), c, send))
			add("udp dns sent before, "+c, sneaks, f.udp("sendto "+f.dns+" 53 hello", c, "sendto "+f.dns+" 53 hello"))
			add("udp, "+c, false, f.udp(c, "sendto "+f.far+" 7443 hello"))
			add("udp by io_uring, "+c, sneaks, f.udp(c, "uringsend "+f.dns+" 53 hello"))
		}
	}
	return rows
}

// multicastRows: a group that is joined is reported to the network by the kernel,
// in packets of no socket, and what it is called is the program's choice.
func multicastRows() (rows []row) {
	const subject = "multicast: groups joined, datagrams sent"
	for _, g := range []struct{ name, socket, group string }{
		{"inet group", "inet dgram 17", "{group4}"}, {"inet6 group", "inet6 dgram 17", "{group6}"}, {"inet group of a stream's socket", "inet stream 6", "{group4}"},
	} {
		rows = append(rows, row{
			subject: subject, name: g.name, trace: "membership of " + g.group + ".",
			// The kernel takes up to a second for its report.
			statements:  []string{"socket " + g.socket, "group " + g.group + " eth0", "sleep 1100"},
			stated:      "the guard cannot tell whose group the kernel reports: only BPF refuses to join one",
			statedUnder: []locks{guard, nft},
		})
	}
	return append(rows,
		row{subject: subject, name: "inet udp to a group", statements: families[0].udp("multicast eth0", "sendto 239.2.3.4 7443 hello")},
		row{subject: subject, name: "inet6 udp to a group", statements: families[1].udp("multicast eth0", "sendto ff1f::7 7443 hello")})
}

// mappedRows: IPv6 sockets that speak IPv4, and other forms of addresses.
func mappedRows() (rows []row) {
	const mapped = "::ffff:"
	add := func(subject, name string, sneaks bool, statements ...string) {
		rows = append(rows, row{subject: subject, name: name, sneaks: sneaks, statements: statements})
	}
	tcp := []string{"socket inet6 stream 6", "bind " + mapped + hostV4 + " {port}"}
	udp := []string{"socket inet6 dgram 17", "bind " + mapped + hostV4 + " {port}"}
	with := func(head []string, more ...string) []string { return append(slices.Clone(head), more...) }
	const subject = "UDP connected and unconnected, IPv4, IPv6, mapped"
	add("TCP", "mapped tcp", false, with(tcp, "connect "+mapped+originV4+" 7443", send)...)
	add("connect after reconnect (AF_UNSPEC)", "mapped tcp again after AF_UNSPEC", false, with(tcp, "connect "+mapped+originV4+" 7443", "unspec", "connect "+mapped+originV4+" 7443", send)...)
	add("IPV6_ADDRFORM", "mapped tcp that becomes IPv4", false, with(tcp, "connect "+mapped+originV4+" 7443", "addrform", "unspec", "connect "+originV4+" 7443", send)...)
	add(subject, "mapped udp", false, with(udp, "sendto "+mapped+originV4+" 7443 hello")...)
	add(subject, "mapped udp connected", false, with(udp, "connect "+mapped+originV4+" 7443", send)...)
	add(subject, "mapped udp dns", false, with(udp, "connect "+mapped+dnsV4+" 53", send)...)
	add(subject, "mapped udp dns, then elsewhere", false, with(udp, "connect "+mapped+dnsV4+" 53", send, "sendto "+mapped+originV4+" 7443 hello")...)
	add(subject, "IPv4 address on an IPv6 socket", false, with(udp, "sendto "+originV4+" 7443 hello")...)
	add("IPV6_ADDRFORM", "mapped udp that becomes IPv4", false, with(udp, "connect "+mapped+dnsV4+" 53", "addrform", "sendto "+originV4+" 7443 hello")...)
	add("SO_BINDTODEVICE before and after connect", "mapped udp dns, device after connect", true, with(udp, "connect "+mapped+dnsV4+" 53", "device eth0", send)...)
	add("SO_BINDTODEVICE before and after connect", "mapped tcp, device after connect", true, with(tcp, "connect "+mapped+originV4+" 7443", "device eth0", send)...)
	add("0.0.0.0 and :: as destination", "tcp to a mapped 0.0.0.0", false, "socket inet6 stream 6", "bind ::ffff:127.0.0.1 {port}", "connect ::ffff:0.0.0.0 8123", send)
	const scoped = "IPv6 link-local, scoped and mapped forms"
	rows = append(rows,
		row{subject: scoped, name: "tcp to a scoped address", statements: []string{"socket inet6 stream 6", "bind " + linkLocal + "%eth0 {port}", "connect " + linkLocalFar + "%eth0 7443", send}},
		row{subject: scoped, name: "udp to a scoped address", statements: []string{"socket inet6 dgram 17", "bind " + linkLocal + "%eth0 {port}", "sendto " + linkLocalFar + "%eth0 7443 hello"}},
		row{subject: scoped, name: "udp to a scoped address, connected", statements: []string{"socket inet6 dgram 17", "bind " + linkLocal + "%eth0 {port}", "connect " + linkLocalFar + "%eth0 7443", send}},
	)
	return rows
}

// refusedProtocolRows: transports that nothing decides on.
func refusedProtocolRows() (rows []row) {
	for _, f := range families {
		add := func(subject, name string, statements ...string) {
			rows = append(rows, row{subject: subject, name: f.name + " " + name, statements: statements})
		}
		bind := "bind " + f.near + " {port}"
		add("MPTCP", "mptcp", "socket "+f.name+" stream 262", bind, f.connect(), send)
		add("MPTCP", "mptcp fast open", "socket "+f.name+" stream 262", bind, "fastopen "+f.far+" 7443 hello")
		add("UDP-Lite", "udp-lite", "socket "+f.name+" dgram 136", bind, "sendto "+f.far+" 7443 hello")
		add("UDP-Lite", "udp-lite connected", "socket "+f.name+" dgram 136", bind, f.connect(), send)
		add("SCTP", "sctp", "socket "+f.name+" stream 132", bind, f.connect())
		add("SCTP", "sctp, one to many", "socket "+f.name+" seqpacket 132", bind, "sendto "+f.far+" 7443 hello")
		add("SMC", "smc by its own protocol", "socket "+f.name+" stream 256", bind, f.connect(), send)
		rows = append(rows, row{subject: "L2TP", name: f.name + " l2tp over ip", trace: "protocol 115 " + f.near,
			statements: []string{"socket " + f.name + " dgram 115", bind, f.connect(), send}})
		rows = append(rows, row{subject: "raw, ping and packet sockets", name: f.name + " raw", users: asRoot, trace: "protocol 253 " + f.near,
			statements: []string{"socket " + f.name + " raw 253", "connect " + f.far + " 0", "sendhex 00112233445566778899"}})
		rows = append(rows, row{subject: "raw, ping and packet sockets", name: f.name + " raw with a header of its own", users: asRoot, trace: "protocol 253 " + f.near,
			statements: []string{"socket " + f.name + " raw 255", "sendhexto " + f.far + " 0 {header " + f.name + "}"}})
	}
	echo4, echo6 := "sendhex 0800000000010001", "sendhex 8000000000010001"
	raw := "raw, ping and packet sockets"
	rows = append(rows,
		row{subject: raw, name: "inet ping", trace: "protocol 1 " + hostV4, statements: []string{"socket inet dgram 1", "connect " + originV4 + " 0", echo4}},
		row{subject: raw, name: "inet6 ping", trace: "protocol 58 " + hostV6, statements: []string{"socket inet6 dgram 58", "connect " + originV6 + " 0", echo6}},
		row{subject: "SMC", name: "smc", statements: []string{"socket smc stream 0", "bind " + hostV4 + " {port}", "connect " + originV4 + " 7443", send}},
	)
	// Who may not make one can do nothing with it.
	for _, f := range families {
		for _, raw6 := range []string{"raw 253", "raw 255"} {
			rows = append(rows, row{subject: raw, name: f.name + " " + raw6 + " as an ordinary user", users: ordinary, must: "socket",
				statements: []string{"socket " + f.name + " " + raw6}, control: []string{"socket " + f.name + " " + raw6}})
		}
	}
	return append(rows, row{subject: raw, name: "packet as an ordinary user", users: ordinary, must: "socket",
		statements: []string{"socket packet dgram 2048"}, control: []string{"socket packet dgram 2048"}})
}
