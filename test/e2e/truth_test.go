package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"sallyport/pkg/audit"
)

// arrivals records at which address of the internet each connection came in.
type arrivals struct {
	mu   sync.Mutex
	list []string
}

func (a *arrivals) add(addr net.Addr) {
	host, _, _ := net.SplitHostPort(addr.String())
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, host)
}

func (a *arrivals) all() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.list)
}

// noteArrivals makes the origins answer with the address at which they were
// reached.
func (n *internet) noteArrivals() *arrivals {
	a := &arrivals{}
	n.setHandler(func(w http.ResponseWriter, r *http.Request) {
		local := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		a.add(local)
		fmt.Fprintf(w, "reached at %s as %s\n", local, r.Host)
	})
	return a
}

// TestAddressClasses: a name that an allow rule lists, and that resolves to an
// address of a special class, is refused: over TLS, in clear, by CONNECT, and
// as a plain connection, and nothing arrives there, on the host itself either.
func TestAddressClasses(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	// Something listens on the host's own addresses and counts.
	var own arrivals
	inNetnsOf(t, h, func() {
		for _, port := range []string{"80", "443"} {
			ln, err := net.Listen("tcp", ":"+port)
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { ln.Close() })
			go func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					own.add(c.LocalAddr())
					c.Close()
				}
			}()
		}
	})
	// The test can fail: the listeners are there.
	if r := h.sh("curl -s http://127.0.0.1/"); r.code == 7 || len(own.all()) != 1 {
		t.Fatalf("the host's own listener does not count: %v", r)
	}
	policy := h.config(`
rules:
  - name: all-names
    match: { hosts: ["*.example.com"] }
    action: allow
`)
	h.net.setName("broadcast.example.com", "255.255.255.255")
	h.net.setName("sixtofour.example.com", "2002:7f00:1::1")
	h.net.setName("teredo.example.com", "2001:0:53aa:64c:0:0:80ff:fffe")
	h.net.setName("metadata6.example.com", "fd00:ec2::254")
	h.net.setName("linklocal6.example.com", "fe80::1")
	h.net.setName("multicast6.example.com", "ff0e::1")
	h.net.setName("loopback6.example.com", "::1")
	h.net.setName("unspecified6.example.com", "::")
	h.net.setName("hostitself6.example.com", hostV6)
	names := []string{
		"loopback", "metadata", "private", "linklocal", "cgnat", "multicast", "reserved", "zero", "mapped", "ula", "nat64", "hostitself",
		"broadcast", "sixtofour", "teredo", "metadata6", "linklocal6", "multicast6", "loopback6", "unspecified6", "hostitself6",
	}
	// One gate for all of them: a shell under exec.
	var script strings.Builder
	for _, n := range names {
		host := n + ".example.com"
		fmt.Fprintf(&script, "echo @%s https; curl -sS -m 10 https://%s/ 2>&1; echo\n", n, host)
		fmt.Fprintf(&script, "echo @%s http; curl -sS -m 10 http://%s/ 2>&1; echo\n", n, host)
		fmt.Fprintf(&script, "echo @%s connect; curl -sS -m 10 -x http://203.0.113.14:3128 https://%s/ 2>&1; echo\n", n, host)
		// The address in the place of the name that it belongs to.
		fmt.Fprintf(&script, "echo @%s sni-elsewhere; curl -sS -m 10 --connect-to ::api.example.com: https://%s/ 2>&1; echo\n", n, host)
	}
	r := h.run(h.command(h.exec(policy, "sh", "-c", script.String())...))
	parts := strings.Split(r.stdout, "@")[1:]
	if len(parts) != 4*len(names) {
		t.Fatalf("%d answers for %d names: %v", len(parts), len(names), r)
	}
	for _, p := range parts {
		what, body, _ := strings.Cut(p, "\n")
		if !strings.Contains(body, `"address_denied"`) && !strings.Contains(body, "403") {
			t.Errorf("%s: not refused as address_denied: %s", what, body)
		}
	}
	if got := h.net.connections.Load(); got != 0 {
		t.Errorf("%d connections reached the internet: %+v", got, h.net.seen())
	}
	if got := own.all(); len(got) != 1 {
		t.Errorf("the host's own listeners were reached at %v", got[1:])
	}
	for _, n := range names {
		h.waitAudit(n, func(e *audit.Event) bool {
			return e.Reason == "address_denied" && e.Verdict == "deny" && (e.HTTP.Host == n+".example.com" || e.TLS.SNI == n+".example.com" || e.Dst.Host == n+".example.com")
		})
	}
}

// TestPrivateExempts: `private` of a rule opens exactly the class that it
// names, for this rule.
func TestPrivateExempts(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	inNetns(t, h.net.ns, func() { sh(t, "ip addr add 10.0.0.1/32 dev ve0; ip addr add 100.64.0.1/32 dev ve0") })
	reached := h.net.noteArrivals()
	policy := h.config(`
rules:
  - name: inside
    match: { hosts: [private.example.com, cgnat.example.com] }
    private: [10.0.0.0/8]
    action: allow
`)
	if r := h.run(h.command(h.exec(policy, "curl", "-sS", "https://private.example.com/")...)); r.code != 0 || !strings.Contains(r.stdout, "reached at 10.0.0.1:443") {
		t.Errorf("listed class: %v", r)
	}
	if r := h.run(h.command(h.exec(policy, "curl", "-sS", "https://cgnat.example.com/")...)); !strings.Contains(r.stdout, "address_denied") {
		t.Errorf("another class: %v", r)
	}
	if got := reached.all(); !slices.Equal(got, []string{"10.0.0.1"}) {
		t.Errorf("reached %v", got)
	}
}

// inNetnsOf runs f in the host's network namespace.
func inNetnsOf(t *testing.T, h *host, f func()) {
	t.Helper()
	ns, err := os.Open(filepath.Join("/proc", strconv.Itoa(h.pid), "ns/net"))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	inNetns(t, ns, f)
}

// TestNameDecidesAddress: an allowed name sent to another address reaches only
// the addresses that the name has, inspected and tunnelled, in clear too.
func TestNameDecidesAddress(t *testing.T) {
	for _, handling := range []string{"inspect", "tunnel"} {
		t.Run(handling, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			reached := h.net.noteArrivals()
			policy := h.config(`
rules:
  - name: api
    match: { hosts: [v4.example.com, v6.example.com, api.example.com] }
    action: allow
    handling: ` + handling + `
`)
			own := map[string][]string{"v4.example.com": {originV4}, "v6.example.com": {originV6}, "api.example.com": {originV4, originV6}}
			type try struct {
				url, to string
				want    []string
			}
			var tries []try
			for _, to := range []string{"203.0.113.12", "203.0.113.14", "198.51.100.77", "127.0.0.1", "169.254.169.254"} {
				for name, addresses := range own {
					tries = append(tries, try{"https://" + name, to, addresses})
					if handling == "inspect" {
						tries = append(tries, try{"http://" + name, to, addresses})
					}
				}
			}
			// The dialled address is kept where the name has it.
			tries = append(tries, try{"https://api.example.com", originV4, []string{originV4}}, try{"https://api.example.com", originV6, []string{originV6}})
			var script strings.Builder
			for _, x := range tries {
				name := x.url[strings.LastIndex(x.url, "/")+1:]
				fmt.Fprintf(&script, "echo @; curl -sS -m 10 --resolve %[1]s:443:%[2]s --resolve %[1]s:80:%[2]s %[3]s/ 2>&1\n", name, x.to, x.url)
			}
			r := h.run(h.command(h.exec(policy, "sh", "-c", script.String())...))
			parts := strings.Split(r.stdout, "@\n")[1:]
			if len(parts) != len(tries) {
				t.Fatalf("%d answers to %d requests: %v", len(parts), len(tries), r)
			}
			for i, x := range tries {
				if !slices.ContainsFunc(x.want, func(a string) bool {
					return strings.HasPrefix(parts[i], "reached at "+net.JoinHostPort(a, "443")) || strings.HasPrefix(parts[i], "reached at "+net.JoinHostPort(a, "80"))
				}) {
					t.Errorf("%s sent to %s: %s, want one of %v", x.url, x.to, parts[i], x.want)
				}
			}
			for _, a := range reached.all() {
				if a != originV4 && a != originV6 {
					t.Errorf("reached %s", a)
				}
			}
			if n := len(reached.all()); n != len(tries) {
				t.Errorf("%d requests arrived, %d were made", n, len(tries))
			}
			// A denied name at an allowed name's address is still the denied name.
			before := h.net.connections.Load()
			r = h.run(h.command(h.exec(policy, "curl", "-sS", "-m", "10", "--resolve", "denied.example.com:443:"+originV4, "https://denied.example.com/")...))
			if !strings.Contains(r.stdout, `"no_rule"`) || h.net.connections.Load() != before {
				t.Errorf("denied name at an allowed address: %v", r)
			}
		})
	}
}

// hold sends conversations byte for byte from one workload.
func (h *host) hold(policy string, conversations []conversation) []answer {
	h.t.Helper()
	var in bytes.Buffer
	want := 0
	for _, c := range conversations {
		json.NewEncoder(&in).Encode(c)
		want += len(c.Requests)
	}
	c := h.command(h.exec(policy, h.program("rawhttp"))...)
	c.Stdin = &in
	return decodeAnswers(h.t, h.run(c), want)
}

type conversation struct {
	Address, SNI string
	Requests     []string
}

// TestHostAgrees: the name of the request must be the name of the connection,
// on its first request and on every later one.
func TestHostAgrees(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	policy := h.config(`
rules:
  - name: both
    match: { hosts: [api.example.com, other.example.com] }
    action: allow
`)
	get := func(target, host string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
	}
	tests := []struct {
		what    string
		request string
		status  int
		reason  string
	}{
		{"the same", get("/same", "api.example.com"), 200, ""},
		{"capitals", get("/same", "API.Example.COM"), 200, ""},
		{"final dot", get("/same", "api.example.com."), 200, ""},
		{"with the port", get("/same", "api.example.com:443"), 200, ""},
		{"absolute form, the same", get("https://api.example.com/same", "api.example.com"), 200, ""},
		{"another allowed name", get("/stolen", "other.example.com"), 403, "name_mismatch"},
		{"a denied name", get("/stolen", "denied.example.com"), 403, "name_mismatch"},
		{"a longer name", get("/stolen", "api.example.com.evil.example"), 403, "name_mismatch"},
		{"its parent", get("/stolen", "example.com"), 403, "name_mismatch"},
		{"an address", get("/stolen", originV4), 403, "name_mismatch"},
		// In proxy form the target is what is judged, dialled and verified, whatever
		// the connection and Host say (RFC 9112 section 3.2.2).
		{"absolute form, another allowed name", get("https://other.example.com/by-target", "api.example.com"), 200, ""},
		{"absolute form, a denied name", get("https://denied.example.com/stolen", "api.example.com"), 403, "no_rule"},
		{"user before the host", get("/stolen", "api.example.com@other.example.com"), 400, "malformed_request"},
		{"two names", get("/stolen", "api.example.com, other.example.com"), 400, "malformed_request"},
		{"no Host", "GET /stolen HTTP/1.1\r\n\r\n", 400, "malformed_request"},
		{"two Hosts", "GET /stolen HTTP/1.1\r\nHost: api.example.com\r\nHost: other.example.com\r\n\r\n", 400, "malformed_request"},
	}
	var list []conversation
	for _, tt := range tests {
		list = append(list, conversation{"api.example.com:443", "api.example.com", []string{tt.request}})
	}
	// A name that changes on a connection that was fine.
	list = append(list, conversation{"api.example.com:443", "api.example.com", []string{get("/same", "api.example.com"), get("/stolen", "other.example.com")}})
	got := h.hold(policy, list)
	for i, tt := range tests {
		if got[i].Status != tt.status || got[i].Reason != tt.reason {
			t.Errorf("%s: got %+v, want %d %s", tt.what, got[i], tt.status, tt.reason)
		}
	}
	if n := len(tests); got[n].Status != 200 || got[n+1].Status != 403 || got[n+1].Reason != "name_mismatch" {
		t.Errorf("second request with another name: %+v", got[n:])
	}
	for _, s := range h.net.seen() {
		if s.Path == "/stolen" || s.Path == "/same" && s.Host != "api.example.com" && !strings.EqualFold(strings.TrimSuffix(strings.TrimSuffix(s.Host, ":443"), "."), "api.example.com") || s.Path == "/by-target" && s.Host != "other.example.com" {
			t.Errorf("the origin got %+v", s)
		}
	}
	e := h.waitAudit("the mismatch", func(e *audit.Event) bool { return e.Reason == "name_mismatch" })
	if e.Verdict != "deny" || e.Kind != audit.Exchange {
		t.Errorf("audit: %+v", e)
	}
}

// TestPathTricks: every way to write a path so that gate and origin might read
// it differently, against an allow rule and against a deny rule with paths.
// What the origin gets is what was matched.
func TestPathTricks(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	policy := h.config(`
rules:
  - name: no-admin
    match: { hosts: [other.example.com], paths: [/admin, /admin/**] }
    action: deny
  - name: rest
    match: { hosts: [other.example.com] }
    action: allow
  - name: public
    match: { hosts: [api.example.com], paths: [/public/**] }
    action: allow
  - name: slash
    match: { hosts: [v4.example.com], paths: ["/projects/a%2Fb/**"] }
    action: allow
  - name: any
    match: { hosts: [registry.example.com] }
    action: allow
`)
	const deny, allow, slash, free = "other.example.com", "api.example.com", "v4.example.com", "registry.example.com"
	tests := []struct {
		host, path string
		status     int
		reason     string
	}{
		// Plain cases, so that the refusals below say something.
		{deny, "/ok/x", 200, ""},
		{deny, "/admin/x", 403, "rule_denied"},
		{deny, "/admin", 403, "rule_denied"},
		{allow, "/public/x", 200, ""},
		{allow, "/private/x", 403, "no_rule"},
		// Dot segments.
		{deny, "/ok/../admin/x", 403, "ambiguous_path"},
		{deny, "/ok/%2e%2e/admin/x", 403, "ambiguous_path"},
		{deny, "/ok/.%2E/admin/x", 403, "ambiguous_path"},
		{deny, "/./admin/x", 403, "ambiguous_path"},
		{deny, "/%2e/admin/x", 403, "ambiguous_path"},
		{deny, "/admin/.", 403, "ambiguous_path"},
		{deny, "/ok/..", 403, "ambiguous_path"},
		{deny, "/ok/..;/admin/x", 403, "ambiguous_path"},
		{allow, "/public/../private/x", 403, "ambiguous_path"},
		{allow, "/public/%2e%2e/private/x", 403, "ambiguous_path"},
		{allow, "/public/..%2fprivate/x", 403, "ambiguous_path"},
		// Backslash, NUL, double encoding.
		{deny, `/ok\..\admin\x`, 403, "ambiguous_path"},
		{deny, "/%5cadmin/x", 403, "ambiguous_path"},
		{deny, "/admin%00/x", 403, "ambiguous_path"},
		{deny, "/%2561dmin/x", 403, "ambiguous_path"},
		{deny, "/ok/%252e%252e/admin/x", 403, "ambiguous_path"},
		{allow, `/public/..\private`, 403, "ambiguous_path"},
		{allow, "/public/%00", 403, "ambiguous_path"},
		{allow, "/public/%252e%252e/private", 403, "ambiguous_path"},
		// Encoded letters are the letters.
		{deny, "/%61dmin/x", 403, "rule_denied"},
		{deny, "/adm%69n", 403, "rule_denied"},
		{allow, "/%70ublic/x", 200, ""},
		// An encoded slash is a slash only for whoever wants to see one.
		{deny, "/admin%2Fx", 403, "rule_denied"},
		{deny, "/ok%2fx", 403, "rule_denied"},
		{allow, "/public%2Fx", 403, "no_rule"},
		{slash, "/projects/a%2Fb/issues", 200, ""},
		{slash, "/projects/a%2fb/issues", 200, ""},
		{slash, "/projects/a/b/issues", 403, "no_rule"},
		// A query or fragment is no path.
		{deny, "/ok/x?/../admin/x", 200, ""},
		{allow, "/private/x?a=/public/x", 403, "no_rule"},
		{deny, "/ok/x#/../admin", 400, "malformed_request"},
		// No rule with paths is reached: the origin reads what the client wrote.
		{free, "/a/../b", 200, ""},
		{free, "/a%2Fb/%2e", 200, ""},
		// Control characters and broken encoding never pass.
		{free, "/a\x01b", 400, "malformed_request"},
		{deny, "/ok/%zz", 403, "ambiguous_path"},
	}
	var list []conversation
	for _, tt := range tests {
		list = append(list, conversation{tt.host + ":443", tt.host, []string{"GET " + tt.path + " HTTP/1.1\r\nHost: " + tt.host + "\r\n\r\n"}})
	}
	got := h.hold(policy, list)
	for i, tt := range tests {
		if got[i].Status != tt.status || got[i].Reason != tt.reason {
			t.Errorf("%s%q: got %d %s %s, want %d %s", tt.host, tt.path, got[i].Status, got[i].Reason, got[i].Error, tt.status, tt.reason)
		}
	}
	for _, s := range h.net.seen() {
		if s.Host == deny && strings.Contains(strings.ToLower(s.Path), "admin") && !strings.Contains(s.Path, "?") || s.Host == allow && !strings.HasPrefix(s.Path, "/public/") {
			t.Errorf("the origin %s got %q", s.Host, s.Path)
		}
	}
}
