package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"sallyport/pkg/audit"
)

// An ask is one request that a client is to make.
type ask struct{ method, url, body string }

// An answer is what the client's own API gave for an ask.
type answer struct {
	Status               int
	Reason, SHA256, Text string
	Error                string
	// pid is the process that asked, as the test started it.
	pid uint32
}

// A client is a program in the words of its users. It makes all asks, in order.
type client struct {
	name string
	// proxies: the client honours HTTP_PROXY and HTTPS_PROXY.
	proxies bool
	ask     func(h *host, policy string, env []string, asks []ask) []answer
}

// scripted is a client that takes all asks as arguments and prints JSON lines.
func scripted(argv func(h *host) []string, env func(h *host) []string) func(*host, string, []string, []ask) []answer {
	return func(h *host, policy string, extra []string, asks []ask) []answer {
		h.t.Helper()
		args := argv(h)
		for _, a := range asks {
			args = append(args, a.method, a.url, a.body)
		}
		c := h.command(h.exec(policy, args...)...)
		if env != nil {
			c.Env = append(c.Env, env(h)...)
		}
		c.Env = append(c.Env, extra...)
		r := h.run(c)
		answers := decodeAnswers(h.t, r, len(asks))
		for i := range answers {
			answers[i].pid = uint32(c.Process.Pid)
		}
		return answers
	}
}

func decodeAnswers(t *testing.T, r result, want int) []answer {
	t.Helper()
	var answers []answer
	for d := json.NewDecoder(strings.NewReader(r.stdout)); ; {
		var a answer
		if err := d.Decode(&a); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("the client printed no answers: %v\n%v", err, r)
		}
		answers = append(answers, a)
	}
	if len(answers) != want {
		t.Fatalf("%d answers to %d requests: %v", len(answers), want, r)
	}
	return answers
}

// curlAsks runs curl once for each ask, as people do.
func curlAsks(h *host, policy string, env []string, asks []ask) []answer {
	h.t.Helper()
	var answers []answer
	for _, a := range asks {
		args := []string{"curl", "-sS", "-X", a.method, "-o", "/srv/body", "-w", `{"Status":%{http_code},"Reason":"%header{x-sallyport-reason}"}`}
		if a.body != "" {
			args = append(args, "-H", "Content-Type: application/json", "--data-binary", a.body)
		}
		os.Remove(h.path("/srv/body"))
		c := h.command(h.exec(policy, append(args, a.url)...)...)
		c.Env = append(c.Env, env...)
		r := h.run(c)
		var got answer
		if r.code != 0 {
			got.Error = r.stderr
		} else if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
			h.t.Fatalf("%v: %v", err, r)
		}
		body := h.read("/srv/body")
		got.SHA256, got.Text = hexSHA256([]byte(body)), body[:min(len(body), 4096)]
		got.pid = uint32(c.Process.Pid)
		answers = append(answers, got)
	}
	return answers
}

func hexSHA256(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// realClients are the programs that MCP servers use to reach the world.
func realClients() []client {
	nodePath := func(h *host) []string { return []string{"NODE_PATH=" + h.nodeModules()} }
	return []client{
		{name: "curl", proxies: true, ask: curlAsks},
		{name: "python-requests", proxies: true, ask: scripted(func(h *host) []string {
			return []string{"python3", h.testdata("requests_client.py")}
		}, nil)},
		{name: "node-fetch", ask: scripted(func(h *host) []string {
			return []string{"node", h.testdata("fetch_client.mjs")}
		}, nil)},
		{name: "node-axios", proxies: true, ask: scripted(func(h *host) []string {
			return []string{"node", h.testdata("axios_client.js")}
		}, nodePath)},
		{name: "go-net-http", proxies: true, ask: scripted(func(h *host) []string {
			return []string{h.program("nethttp")}
		}, nil)},
		{name: "java-httpclient", ask: scripted(func(h *host) []string {
			return []string{"java", h.testdata("Client.java")}
		}, nil)},
	}
}

const clientRules = `
workloads:
  under-test: { match: { command: "*" } }
rules:
  - name: secrets
    match: { hosts: [api.example.com], paths: [/secret/**] }
    action: deny
  - name: api
    match: { hosts: [api.example.com], methods: [GET, POST] }
    action: allow
`

// proxyVariables name a proxy that must never be contacted.
func proxyVariables() []string {
	const p = "http://203.0.113.14:3128"
	return []string{"HTTP_PROXY=" + p, "http_proxy=" + p, "HTTPS_PROXY=" + p, "https_proxy=" + p}
}

// TestRealClients: each client, unmodified, gets whole bodies of what is
// allowed and the contract's answer to what is not, and every request is in
// the audit. With proxy variables set the same holds, and the proxy that they
// name sees nobody.
func TestRealClients(t *testing.T) {
	for _, c := range realClients() {
		for _, proxied := range []bool{false, true} {
			if proxied && !c.proxies {
				continue
			}
			name := c.name
			if proxied {
				name += "/proxy-variables"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				var env []string
				if proxied {
					env = proxyVariables()
				}
				tryClient(t, c, env)
			})
		}
	}
}

func tryClient(t *testing.T, c client, env []string) {
	h := newHost(t)
	const size = 300_000
	payload := make([]byte, size)
	io.ReadFull(newStream(1), payload)
	h.net.setHandler(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/payload":
			w.Write(payload)
		default:
			seen := h.net.seen()
			fmt.Fprintf(w, `{"path":%q,"host":%q,"sha256":%q}`, r.URL.Path, r.Host, seen[len(seen)-1].BodySHA256)
		}
	})
	var proxyContacts atomic.Int64
	h.net.serveTCP(3128, func(net.Conn) { proxyContacts.Add(1) })

	upload := `{"text":"` + strings.Repeat("0123456789", 2000) + `"}`
	rpc := `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x"}}`
	asks := []ask{
		{"GET", "https://api.example.com/payload", ""},
		{"POST", "https://api.example.com/upload", upload},
		{"GET", "http://api.example.com/clear", ""},
		{"GET", "https://api.example.com/secret/1", ""},
		{"POST", "https://api.example.com/secret/2", rpc},
		{"DELETE", "https://api.example.com/item", ""},
		{"GET", "http://api.example.com/secret/3", ""},
	}
	got := c.ask(h, h.config(clientRules), env, asks)

	for i, want := range []answer{
		{Status: 200, SHA256: hexSHA256(payload)},
		{Status: 200, Text: `"sha256":"` + hexSHA256([]byte(upload)) + `"`},
		{Status: 200, Text: `"path":"/clear"`},
		{Status: 403, Reason: "rule_denied", Text: `"rule":"secrets"`},
		{Status: 200, Reason: "rule_denied", Text: `"id":7`},
		{Status: 403, Reason: "no_rule"},
		{Status: 403, Reason: "rule_denied", Text: `"rule":"secrets"`},
	} {
		g := got[i]
		if g.Error != "" || g.Status != want.Status || g.Reason != want.Reason || !strings.Contains(g.Text, want.Text) || want.SHA256 != "" && g.SHA256 != want.SHA256 {
			t.Errorf("%s %s: got %+v, want %+v", asks[i].method, asks[i].url, g, want)
		}
	}
	checkRefusalBody(t, []byte(got[3].Text))
	var reply struct {
		JSONRPC string
		ID      int
		Error   struct {
			Code    int
			Message string
			Data    struct {
				Status              int
				Reason, Rule, Event string
			}
		}
	}
	if err := json.Unmarshal([]byte(got[4].Text), &reply); err != nil || reply.JSONRPC != "2.0" || reply.ID != 7 || reply.Error.Code != -32001 || reply.Error.Message == "" ||
		reply.Error.Data.Status != 403 || reply.Error.Data.Reason != "rule_denied" || reply.Error.Data.Rule != "secrets" || reply.Error.Data.Event == "" {
		t.Errorf("refused JSON-RPC: %v %s", err, got[4].Text)
	}

	for i, want := range []audit.Event{
		{Verdict: "allow", Rule: "api", HTTP: audit.HTTP{Method: "GET", Scheme: "https", Path: "/payload", Status: 200, ResponseBytes: size}},
		{Verdict: "allow", Rule: "api", HTTP: audit.HTTP{Method: "POST", Scheme: "https", Path: "/upload", Status: 200, RequestBytes: int64(len(upload)), ResponseBytes: int64(len(got[1].Text))}},
		{Verdict: "allow", Rule: "api", HTTP: audit.HTTP{Method: "GET", Scheme: "http", Path: "/clear", Status: 200, ResponseBytes: int64(len(got[2].Text))}},
		{Verdict: "deny", Reason: "rule_denied", Rule: "secrets", HTTP: audit.HTTP{Method: "GET", Scheme: "https", Path: "/secret/1", Status: 403, ResponseBytes: int64(len(got[3].Text))}},
		{Verdict: "deny", Reason: "rule_denied", Rule: "secrets", HTTP: audit.HTTP{Method: "POST", Scheme: "https", Path: "/secret/2", Status: 200, ResponseBytes: int64(len(got[4].Text))}},
		{Verdict: "deny", Reason: "no_rule", HTTP: audit.HTTP{Method: "DELETE", Scheme: "https", Path: "/item", Status: 403, ResponseBytes: int64(len(got[5].Text))}},
		{Verdict: "deny", Reason: "rule_denied", Rule: "secrets", HTTP: audit.HTTP{Method: "GET", Scheme: "http", Path: "/secret/3", Status: 403, ResponseBytes: int64(len(got[6].Text))}},
	} {
		e := h.waitAudit(asks[i].url, func(e *audit.Event) bool { return e.Kind == audit.Exchange && e.HTTP.Path == want.HTTP.Path })
		if e.Verdict != want.Verdict || e.Reason != want.Reason || e.Rule != want.Rule || e.Workload.Name != "under-test" || e.Workload.PID != got[i].pid ||
			e.HTTP.Host != "api.example.com" || e.HTTP.Method != want.HTTP.Method || e.HTTP.Scheme != want.HTTP.Scheme || e.HTTP.Status != want.HTTP.Status || e.HTTP.ResponseBytes != want.HTTP.ResponseBytes ||
			want.HTTP.RequestBytes != 0 && e.HTTP.RequestBytes != want.HTTP.RequestBytes {
			t.Errorf("audit of %s %s by pid %d:\n got %+v\nwant %+v", asks[i].method, asks[i].url, got[i].pid, e, want)
		}
	}
	// A CONNECT to the named proxy is a request of its own, which we answered.
	exchanges, connects := 0, 0
	for _, e := range h.audit() {
		switch {
		case e.Kind == audit.Exchange && e.HTTP.Method == "CONNECT":
			connects++
		case e.Kind == audit.Exchange:
			exchanges++
		}
	}
	if exchanges != len(asks) || (connects > 0) != (env != nil) {
		t.Errorf("%d exchanges and %d CONNECTs in the audit for %d requests, proxy variables %v", exchanges, connects, len(asks), env)
	}
	if seen := h.net.seen(); len(seen) != 3 {
		t.Errorf("the origin saw %d requests, want the 3 allowed ones: %+v", len(seen), seen)
	}
	if n := proxyContacts.Load(); n != 0 {
		t.Errorf("the proxy of the variables was contacted %d times", n)
	}
}

// checkRefusalBody holds a body against contract §4: what, why, which rule,
// which event, and how to allow it.
func checkRefusalBody(t *testing.T, body []byte) {
	t.Helper()
	var fields map[string]string
	if err := json.Unmarshal(body, &fields); err != nil {
		t.Errorf("refusal %q: %v", body, err)
		return
	}
	for _, key := range []string{"error", "reason", "event"} {
		if fields[key] == "" {
			t.Errorf("refusal %s: %q is missing", body, key)
		}
	}
	if _, ok := fields["rule"]; !ok {
		t.Errorf("refusal %s: no rule", body)
	}
}
