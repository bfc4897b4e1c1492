package e2e

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// blackHole makes the internet swallow TCP to an address without a word, as a
// broken tunnel does.
func (n *internet) blackHole(family, addr string) {
	n.t.Helper()
	inNetns(n.t, n.ns, func() {
		sh(n.t, fmt.Sprintf(`nft 'add table inet hole; add chain inet hole in { type filter hook input priority 0; }; add rule inet hole in %s daddr %s meta l4proto tcp drop'`, family, addr))
	})
}

// timedURLs fetches URLs one after the other, each by a curl of its own, all in
// one workload, and gives how long each took and by which address it went.
func (h *host) timedURLs(policy, options string, urls ...string) (seconds []float64, events []audit.Event) {
	h.t.Helper()
	script := ""
	for _, u := range urls {
		script += "curl -gsS --max-time 15 " + options + ` -o /dev/null -w '%{http_code} %{time_total}\n' '` + u + "'\n"
	}
	r := h.run(h.command(h.exec(policy, "bash", "-c", script)...))
	for line := range strings.Lines(r.stdout) {
		status, took, _ := strings.Cut(strings.TrimSpace(line), " ")
		s, err := strconv.ParseFloat(took, 64)
		if err != nil || status != "200" {
			h.t.Fatalf("%s: %v", line, r)
		}
		seconds = append(seconds, s)
	}
	if len(seconds) != len(urls) {
		h.t.Fatalf("%d answers to %d questions: %v", len(seconds), len(urls), r)
	}
	h.waitAudit("the last exchange", func(*audit.Event) bool {
		events = events[:0]
		for _, e := range h.audit() {
			if e.Kind == audit.Exchange {
				events = append(events, e)
			}
		}
		return len(events) >= len(urls)
	})
	return seconds, events
}

// TestDualStack covers RFC 8305 sections 5 and 6 with a real network: an upstream
// with addresses of both families is reached within a second where one family is
// a black hole, whichever the workload dialled, and the next requests do not wait.
func TestDualStack(t *testing.T) {
	for _, tt := range []struct {
		name, family, hole, options, reached string
		url                                  string
	}{
		{"IPv6 is a black hole", "ip6", originV6, "-6", originV4, "https://api.example.com/x"},
		{"IPv6 is a black hole, in clear", "ip6", originV6, "-6", originV4, "http://api.example.com/x"},
		{"IPv4 is a black hole", "ip", originV4, "-4", originV6, "https://api.example.com/x"},
		{"IPv6 is a black hole and the client dials IPv4", "ip6", originV6, "-4", originV4, "https://api.example.com/x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			best(t, "the slowest request", time.Second, func() (slowest time.Duration) {
				h := newHost(t)
				h.net.blackHole(tt.family, tt.hole)
				seconds, events := h.timedURLs(h.config("default: allow\nrules: [{name: all, match: {protocols: [tcp]}, action: allow}]"), tt.options, tt.url, tt.url, tt.url+"?"+strings.Repeat("y", 9))
				for i, s := range seconds {
					e := events[i]
					if e.Upstream.IP.String() != tt.reached {
						t.Errorf("request %d went to %s, want %s", i, e.Upstream.IP, tt.reached)
					}
					slowest = max(slowest, time.Duration(s*float64(time.Second)))
					// What was found out is remembered: an attempt at the black hole is
					// made once, but where the other one's answer is late again.
					if i > 0 && e.Upstream.Attempts > 1 {
						t.Logf("request %d made %d attempts in %.3f s", i, e.Upstream.Attempts, s)
						slowest = time.Hour
					}
				}
				t.Logf("%.3f s, %d attempts first", seconds, events[0].Upstream.Attempts)
				return slowest
			})
		})
	}
}

// TestDualStackTunnel: what is tunnelled falls back as soon; what gives no name
// itself goes on where nobody answers at the address that it dialled.
func TestDualStackTunnel(t *testing.T) {
	best(t, "the tunnel", time.Second, func() time.Duration { return dualStackTunnel(t) })
}

// dualStackTunnel gives how long a request through a tunnel took.
func dualStackTunnel(t *testing.T) (took time.Duration) {
	h := newHost(t)
	h.net.blackHole("ip6", originV6)
	h.net.serveTCP(2525, func(c net.Conn) { c.Write([]byte("220 mail.example.com ESMTP\r\n")) })
	policy := h.config(`
timeouts: {connect: 1s}
rules:
  - {name: tunnel, match: {hosts: [api.example.com], ports: [443]}, action: allow, handling: tunnel}
  - {name: mail, match: {hosts: [api.example.com], ports: [2525]}, action: allow, handling: tunnel}`)
	r := h.run(h.command(h.exec(policy, "bash", "-c", `curl -6 -sS --max-time 10 -w '\n%{time_total}\n' https://api.example.com/tunnelled; exec 3<>/dev/tcp/api.example.com/2525; head -1 <&3`)...))
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	if len(lines) < 2 || !strings.Contains(lines[0], `"path":"/tunnelled"`) || !strings.Contains(lines[len(lines)-1], "220 mail.example.com") {
		t.Fatalf("tunnels: %v", r)
	}
	for _, line := range lines[1 : len(lines)-1] {
		if s, err := strconv.ParseFloat(line, 64); err == nil {
			took = time.Duration(s * float64(time.Second))
		}
	}
	if took == 0 {
		t.Errorf("no time of the tunnel: %q", lines)
	}
	if e := h.waitAudit("the tunnel", func(e *audit.Event) bool { return e.Kind == audit.FlowOpen && e.Rule == "tunnel" }); e.Upstream.IP.String() != originV4 {
		t.Errorf("the tunnel goes to %s, want %s", e.Upstream.IP, originV4)
	}
	return took
}

// TestOnlyValidatedAddresses: of a name's addresses those of a refused class are
// not dialled, also where the workload dials one and where the others fail.
func TestOnlyValidatedAddresses(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	const ula = "fd00:db8::66"
	inNetns(t, h.net.ns, func() { sh(t, "ip -6 addr add "+ula+"/64 dev ve0 nodad") })
	h.sh("ip -6 route add fd00:db8::/64 dev eth0")
	h.net.setName("half.example.com", originV4, ula)
	h.net.setName("none.example.com", ula)
	policy := h.config("rules: [{name: half, match: {hosts: [half.example.com, none.example.com]}, action: allow}]")
	seconds, events := h.timedURLs(policy, "-6", "https://half.example.com/x")
	if e := events[0]; e.Upstream.IP.String() != originV4 || e.Upstream.Attempts != 1 {
		t.Errorf("went to %s in %.3f s, at attempt %d, want %s at the first", e.Upstream.IP, seconds[0], e.Upstream.Attempts, originV4)
	}
	h.net.blackHole("ip", originV4)
	before := h.net.connections.Load()
	r := h.run(h.command(h.exec(policy, "curl", "-gsS", "--max-time", "3", "https://half.example.com/x", "--next", "-gsS", "--max-time", "30", "https://none.example.com/x")...))
	if n := h.net.connections.Load() - before; n != 0 {
		t.Errorf("%d connections to an address of a refused class: %v", n, r)
	}
	if !strings.Contains(r.stdout, `"reason":"address_denied"`) {
		t.Errorf("none.example.com: %v", r)
	}
}

// TestIPv6Only: a host without any IPv4 but loopback, with a name server, a
// resolver and upstreams of IPv6.
func TestIPv6Only(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	const dnsV6 = "2001:db8:113::53"
	inNetns(t, h.net.ns, func() {
		sh(t, "ip -6 addr add "+dnsV6+"/64 dev ve0 nodad")
		pc, err := net.ListenPacket("udp", "["+dnsV6+"]:53")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pc.Close() })
		go h.net.serveDNS(pc)
	})
	if r := h.sh("ip -4 addr flush dev eth0; ip -4 route flush table main"); r.code != 0 {
		t.Fatal(r)
	}
	h.write("/etc/resolv.conf", "nameserver "+dnsV6+"\n")
	// The workload's libc asks our resolver at ::1 or by what resolv.conf says.
	_, events := h.timedURLs(h.config("default: allow\nrules: [{name: all, match: {protocols: [tcp]}, action: allow}]"), "",
		"https://v6.example.com/x", "http://v6.example.com/x", "https://api.example.com/x", "https://["+originV6+"]/x", "https://api.example.com:8443/x")
	for _, e := range events {
		if e.Upstream.IP.String() != originV6 {
			t.Errorf("%s went to %s", e.HTTP.Host, e.Upstream.IP)
		}
	}
	for _, s := range h.net.seen() {
		if !s.TLS && s.Host != "v6.example.com" {
			t.Errorf("%+v", s)
		}
	}
	// Upstreams of IPv4 alone are out of reach, and it is said so at once.
	r := h.run(h.command(h.exec(h.config("default: allow\nrules: [{name: all, match: {protocols: [tcp]}, action: allow}]"), "curl", "-sS", "--max-time", "10", "-w", answerEnd, "https://v4.example.com/")...))
	if a := answersOf(r.stdout); len(a) != 1 || a[0].status != "502" || !strings.Contains(a[0].body, "unreachable") {
		t.Errorf("IPv4 alone: %v", r)
	}
}
