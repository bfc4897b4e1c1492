package e2e

import (
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"sallyport/pkg/audit"
	"sallyport/test/outside"
)

// dnsPolicy lists some names.
const dnsPolicy = `
rules:
  - name: names
    match: { hosts: [api.example.com, v4.example.com] }
    action: allow
  - name: dns-over-tls
    match: { hosts: [dot.example.com], ports: [853], protocols: [tls] }
    action: allow
    handling: tunnel
  - name: dns-over-https
    match: { hosts: [doh.example.com], protocols: [https], paths: [/dns-query] }
    action: allow
`

// unlistedName could carry something out by being asked.
const unlistedName = "secret.attacker.example"

// goLookup is testdata/gate/golookup, built once.
var goLookup = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "golookup")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c := exec.Command("go", "build", "-o", dir+"/golookup", "./testdata/gate/golookup")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build golookup: %w: %s", err, out)
	}
	return os.ReadFile(dir + "/golookup")
})

// TestDNSClients: each library's own sockets reach our resolver and are
// attributed to their workload; a name that no rule lists does not exist, and
// nobody outside learns that it was asked.
func TestDNSClients(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(dnsPolicy))
	w := h.tap()
	put := func(path string, program []byte, err error) {
		if err != nil {
			t.Fatal(err)
		}
		h.putProgram(path, program)
	}
	glibc, err := compileC("gcc", "testdata/gate/lookup.c")
	put("/srv/bin/glibc", glibc, err)
	musl, err := compileC("musl-gcc", "testdata/gate/lookup.c", "-static")
	put("/srv/bin/musl", musl, err)
	ares, err := compileC("gcc", "testdata/gate/ares.c", "-lcares")
	put("/srv/bin/ares", ares, err)
	golang, err := goLookup()
	put("/srv/bin/golookup", golang, err)
	for _, name := range []string{"Lookup.java", "lookup.mjs"} {
		source, err := os.ReadFile("testdata/gate/" + name)
		put("/srv/bin/"+name, source, err)
	}
	for _, tt := range []struct {
		client string
		argv   []string
		env    string
	}{
		{client: "glibc", argv: []string{"/srv/bin/glibc"}},
		{client: "glibc-tcp", argv: []string{"/srv/bin/glibc"}, env: "RES_OPTIONS=use-vc"},
		{client: "musl", argv: []string{"/srv/bin/musl"}},
		{client: "go", argv: []string{"/srv/bin/golookup"}},
		{client: "go-tcp", argv: []string{"/srv/bin/golookup", "-tcp"}},
		{client: "c-ares", argv: []string{"/srv/bin/ares"}},
		{client: "node", argv: []string{"node", "/srv/bin/lookup.mjs"}},
		{client: "java", argv: []string{"java", "/srv/bin/Lookup.java", dnsV4}},
	} {
		t.Run(tt.client, func(t *testing.T) {
			service := tt.client + ".service"
			c := h.inside(service, nobody, append(slices.Clone(tt.argv), "v4.example.com", unlistedName)...)
			if tt.env != "" {
				c.Env = append(c.Env, tt.env)
			}
			r := h.run(c)
			lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
			pid, _ := strconv.Atoi(strings.TrimPrefix(lines[0], "pid "))
			want := map[string]string{"v4.example.com": originV4, unlistedName: "no such name"}
			if len(lines) < 3 || r.code != 0 {
				t.Fatalf("%v", r)
			}
			for _, line := range lines[1:] {
				name, answer, _ := strings.Cut(strings.TrimPrefix(line, "jndi "), " ")
				if answer != want[name] {
					t.Errorf("%q, want %s", line, want[name])
				}
			}
			for name, verdict := range map[string]string{"v4.example.com": "allow", unlistedName: "deny"} {
				e := h.waitAudit(name+" asked by "+service, func(e *audit.Event) bool {
					return e.Kind == audit.DNS && e.DNS.Name == name && e.Workload.Name == service
				})
				rcode := map[string]string{"allow": "NOERROR", "deny": "NXDOMAIN"}[verdict]
				if e.Verdict != verdict || e.DNS.Rcode != rcode || int(e.Workload.PID) != pid || e.Workload.UID != nobody || e.Workload.Cgroup != "/"+h.slice+"/"+service ||
					e.Dst.IP.String() != dnsV4 || e.Dst.Port != 53 {
					t.Errorf("%s: %+v", name, e)
				}
				if verdict == "allow" && (e.Rule != "names" || e.DNS.Type == "A" && !slices.Equal(e.DNS.Answers, []string{originV4})) {
					t.Errorf("%s: %+v", name, e)
				}
			}
			for _, e := range h.audit() {
				if e.Kind == audit.DNS && int(e.Workload.PID) == pid && e.Workload.Name != service {
					t.Errorf("a question of %s is attributed to %q", service, e.Workload.Name)
				}
			}
		})
	}
	if slices.Contains(h.net.asked(), unlistedName) {
		t.Errorf("%s was asked outside", unlistedName)
	}
	if !slices.Contains(h.net.asked(), "v4.example.com") {
		t.Error("v4.example.com was not asked outside: the test looks at the wrong place")
	}
	for _, line := range w.packets() {
		if !strings.HasSuffix(line, "> "+dnsV4+":53") {
			t.Errorf("left the host: %s", line)
		}
	}
}

// question packs a query with EDNS (RFC 6891).
func question(t *testing.T, id uint16, name string, kind dnsmessage.Type) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, RecursionDesired: true})
	var opt dnsmessage.ResourceHeader
	n, err := dnsmessage.NewName(name + ".")
	for _, err := range []error{err, b.StartQuestions(), b.Question(dnsmessage.Question{Name: n, Type: kind, Class: dnsmessage.ClassINET}),
		b.StartAdditionals(), opt.SetEDNS0(1232, dnsmessage.RCodeSuccess, false), b.OPTResource(opt, dnsmessage.OPTResource{})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	q, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// extendedError gives the extended error of an answer (RFC 8914 §2).
func extendedError(m *dnsmessage.Message) (code int, text string) {
	for _, a := range m.Additionals {
		opt, ok := a.Body.(*dnsmessage.OPTResource)
		if !ok {
			continue
		}
		for _, o := range opt.Options {
			if o.Code == 15 && len(o.Data) >= 2 {
				return int(binary.BigEndian.Uint16(o.Data)), string(o.Data[2:])
			}
		}
	}
	return -1, ""
}

// TestDNSAnswers: whichever server a workload asks, we answer; what no rule
// lists is answered with NXDOMAIN, extended error 17 and how to allow it.
func TestDNSAnswers(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putSock()
	h.startDaemon(h.config(dnsPolicy))
	w := h.tap()
	for _, server := range []struct{ family, addr string }{
		{"inet", dnsV4}, {"inet", "203.0.113.99"}, {"inet", "8.8.8.8"}, {"inet", "127.0.0.53"}, {"inet6", "2001:db8:113::53"}, {"inet6", "::ffff:203.0.113.98"},
	} {
		for _, connected := range []bool{true, false} {
			for _, name := range []string{"v4.example.com", unlistedName} {
				q := question(t, 4711, name, dnsmessage.TypeA)
				head := []string{"socket " + server.family + " dgram 17", "patience 20000"}
				if connected {
					head = append(head, "connect "+server.addr+" 53", "sendhex "+hex.EncodeToString(q))
				} else {
					head = append(head, "sendhexto "+server.addr+" 53 "+hex.EncodeToString(q))
				}
				began := time.Now()
				lines := h.sock("asker.service", nobody, append(head, "recvhex")...)
				result, from, _ := strings.Cut(strings.TrimPrefix(outside.ResultOf(lines, "recvhex"), "ok "), " ")
				raw, err := hex.DecodeString(result)
				var m dnsmessage.Message
				if err == nil {
					err = m.Unpack(raw)
				}
				if err != nil || m.ID != 4711 {
					t.Errorf("%s of %v: %v: %q", name, server, err, lines)
					continue
				}
				if want := strings.TrimPrefix(server.addr, "::ffff:") + " 53"; strings.TrimPrefix(from, "::ffff:") != want {
					t.Errorf("the answer of %s seems to come from %q", want, from)
				}
				code, text := extendedError(&m)
				switch {
				case name == unlistedName:
					if m.RCode != dnsmessage.RCodeNameError || code != 17 || !strings.Contains(text, unlistedName) {
						t.Errorf("%s of %v: %v, extended error %d %q", name, server, m.RCode, code, text)
					}
				case m.RCode != dnsmessage.RCodeSuccess || len(m.Answers) != 1 || m.Answers[0].Body.(*dnsmessage.AResource).A != [4]byte{203, 0, 113, 10}:
					t.Errorf("%s of %v: %+v", name, server, m)
				}
				h.waitAudit("the question", func(e *audit.Event) bool {
					return e.Kind == audit.DNS && e.Time.After(began) && e.DNS.Name == name && e.Dst.IP.Unmap().String() == strings.TrimPrefix(server.addr, "::ffff:") && e.Workload.Name == "asker.service"
				})
			}
		}
	}
	if slices.Contains(h.net.asked(), unlistedName) {
		t.Errorf("%s was asked outside", unlistedName)
	}
	for _, line := range w.packets() {
		if !strings.HasSuffix(line, "> "+dnsV4+":53") {
			t.Errorf("left the host: %s", line)
		}
	}
}

// countUDP counts datagrams at a port of the internet.
func (n *internet) countUDP(port int) *atomic.Int64 {
	n.t.Helper()
	var count atomic.Int64
	inNetns(n.t, n.ns, func() {
		pc, err := net.ListenPacket("udp", ":"+strconv.Itoa(port))
		if err != nil {
			n.t.Error(err)
			return
		}
		n.t.Cleanup(func() { pc.Close() })
		go func() {
			for buf := make([]byte, 2048); ; count.Add(1) {
				if _, _, err := pc.ReadFrom(buf); err != nil {
					return
				}
			}
		}()
	})
	return &count
}

// TestOtherUDP: what is not DNS does not leave; connect still succeeds, since
// libc sorts addresses with it.
func TestOtherUDP(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putSock()
	h.startDaemon(h.config(dnsPolicy))
	w := h.tap()
	// A send to a named address is refused by BPF before there is a packet, one on
	// a connected socket as a packet, by the guard: it comes before egress.
	const byBPF, byGuard = `sallyport_bpf_refused_total{reason="udp_denied"}`, "sallyport_guard_rejected_packets_total"
	refused, rejected := h.scrape(byBPF), h.scrape(byGuard)
	tries := 0.0
	for _, port := range []int{443, 123, 5353, 54} {
		count := h.net.countUDP(port)
		for _, f := range ipFamilies {
			addr := fmt.Sprintf("%s %d", f.far, port)
			lines := h.sock("udp.service", nobody,
				"socket "+f.name+" dgram 17", "connect "+addr, "peername", "send hello",
				"socket "+f.name+" dgram 17", "sendto "+addr+" hello", "sendto "+addr+" hello")
			want := []string{"socket ok", "connect ok", "peername ok " + addr, "send EPERM", "socket ok", "sendto EPERM", "sendto EPERM"}
			if !slices.Equal(lines, want) {
				t.Errorf("%s: %q, want %q", addr, lines, want)
			}
			tries++
			e := h.waitAudit("the refusal of "+addr, func(e *audit.Event) bool {
				return e.Kind == audit.Refused && e.Dst.IP.String() == f.far && int(e.Dst.Port) == port
			})
			if e.Reason != "udp_denied" || e.Verdict != "deny" || e.Workload.Name != "udp.service" || e.Workload.UID != nobody || e.Workload.PID == 0 {
				t.Errorf("audit: %+v", e)
			}
		}
		if n := count.Load(); n != 0 {
			t.Errorf("port %d: %d datagrams arrived", port, n)
		}
	}
	w.silent("UDP")
	eventually(t, 5*time.Second, "each is counted", func() bool {
		// The self-probe moves the guard's counter too.
		return h.scrape(byBPF) == refused+2*tries && h.scrape(byGuard) >= rejected+tries
	})
	// The counting socket counts: without the gate a datagram arrives.
	count := h.net.countUDP(4433)
	h.sockLines(h.outside(nobody, sockPath, "socket inet dgram 17", "sendto "+originV4+" 4433 hello"))
	eventually(t, 20*time.Second, "the untagged datagram", func() bool { return count.Load() == 1 })
}

// TestEncryptedDNS: DNS over TLS and over HTTPS are connections like any other.
func TestEncryptedDNS(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.net.setName("dot.example.com", originV4)
	h.net.setName("doh.example.com", originV4)
	h.net.setHandler(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "answered") })
	var asked atomic.Int64
	config := &tls.Config{GetCertificate: h.net.ca.Certificate}
	h.net.serveTCP(853, func(c net.Conn) {
		s := tls.Server(c, config)
		defer s.Close()
		for {
			var size [2]byte
			if _, err := io.ReadFull(s, size[:]); err != nil {
				return
			}
			q := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(s, q); err != nil {
				return
			}
			asked.Add(1)
			var m dnsmessage.Message
			if m.Unpack(q) != nil || len(m.Questions) != 1 {
				return
			}
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			if m.Questions[0].Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 60},
					Body:   &dnsmessage.AResource{A: [4]byte{198, 51, 100, 7}},
				}}
			}
			out, err := m.Pack()
			if err != nil {
				return
			}
			s.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
		}
	})
	program, err := goLookup()
	if err != nil {
		t.Fatal(err)
	}
	h.putProgram("/srv/bin/golookup", program)
	h.startDaemon(h.config(dnsPolicy))
	for _, tt := range []struct {
		name, sni string
		allowed   bool
	}{{"listed", "dot.example.com", true}, {"unlisted", "dns.attacker.example", false}} {
		t.Run("dot "+tt.name, func(t *testing.T) {
			connections, before := h.net.connections.Load(), asked.Load()
			r := h.run(h.inside("dot.service", nobody, "/srv/bin/golookup", "-tls", originV4+":853,"+tt.sni, unlistedName))
			if got := strings.Contains(r.stdout, "198.51.100.7"); got != tt.allowed || (asked.Load() > before) != tt.allowed || (h.net.connections.Load() > connections) != tt.allowed {
				t.Errorf("%v; %d questions arrived", r, asked.Load()-before)
			}
			h.waitAudit("the connection", func(e *audit.Event) bool {
				return e.TLS.SNI == tt.sni && e.Dst.Port == 853 && e.Workload.Name == "dot.service" && (e.Verdict == "allow") == tt.allowed && (!tt.allowed || e.Rule == "dns-over-tls")
			})
		})
	}
	for path, status := range map[string]string{"/dns-query": "200", "/other": "403"} {
		t.Run("doh "+path, func(t *testing.T) {
			r := h.run(h.inside("doh.service", nobody, "curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "--resolve", "doh.example.com:443:"+originV4, "https://doh.example.com"+path))
			// A connection may be opened to learn what the origin speaks; nothing is
			// asked on it.
			asked := slices.ContainsFunc(h.net.seen(), func(s seenRequest) bool { return s.Path == path })
			if r.stdout != status || asked != (status == "200") {
				t.Errorf("%v; asked of the origin: %v", r, asked)
			}
		})
	}
}
