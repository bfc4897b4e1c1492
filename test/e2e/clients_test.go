package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sallyport/pkg/audit"
)

// npmClients installs what test/e2e/testdata/clients/package-lock.json names
// into the user's cache directory, once for each content of that file, and
// gives the directory. Without a network it works when it did so before.
var npmClients = sync.OnceValues(func() (string, error) {
	lock, err := os.ReadFile("testdata/clients/package-lock.json")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = "/var/cache"
	}
	sum := sha256.Sum256(lock)
	dir := filepath.Join(cache, "sallyport-test", "clients-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), "installing-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	for _, name := range []string{"package.json", "package-lock.json"} {
		b, err := os.ReadFile(filepath.Join("testdata/clients", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(temp, name), b, 0o644)
		}
		if err != nil {
			return "", err
		}
	}
	c := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error")
	c.Dir = temp
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %v: %s", err, out)
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return "", err
	}
	// Another run of the tests may have been faster: its directory is as good.
	if err := os.Rename(temp, dir); err != nil {
		if _, statErr := os.Stat(dir); statErr != nil {
			return "", err
		}
	}
	return dir, nil
})

// nodeModules gives the directory in which Node finds the npm packages of the
// tests. It is visible on every host, wherever the cache directory lies.
func (h *host) nodeModules() string {
	h.t.Helper()
	dir, err := npmClients()
	if err != nil {
		h.t.Fatal(err)
	}
	const seen = "/srv/npm"
	if err := os.MkdirAll(h.path(seen), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if _, err := os.Stat(h.path(seen + "/node_modules")); err == nil {
		return seen + "/node_modules"
	}
	// A copy by hard links is not possible across file systems; 55 MB are quick.
	if out, err := exec.Command("cp", "-a", dir+"/.", h.path(seen)).CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	return seen + "/node_modules"
}

// goPrograms builds the programs of testdata/clients that are Go, static.
var goPrograms = sync.OnceValues(func() (map[string][]byte, error) {
	dir, err := os.MkdirTemp("", "sallyport-clients-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	programs := map[string][]byte{}
	for _, name := range []string{"nethttp", "rawhttp"} {
		out := filepath.Join(dir, name)
		c := exec.Command("go", "build", "-o", out, "testdata/clients/"+name+"/main.go")
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if msg, err := c.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build %s: %v: %s", name, err, msg)
		}
		if programs[name], err = os.ReadFile(out); err != nil {
			return nil, err
		}
	}
	return programs, nil
})

// program puts a Go program of testdata/clients on the host and gives its path.
func (h *host) program(name string) string {
	h.t.Helper()
	all, err := goPrograms()
	if err != nil {
		h.t.Fatal(err)
	}
	p := "/srv/bin/" + name
	if err := os.WriteFile(h.path(p), all[name], 0o755); err != nil {
		h.t.Fatal(err)
	}
	return p
}

// testdata puts a file of testdata/clients on the host and gives its path.
func (h *host) testdata(name string) string {
	h.t.Helper()
	b, err := os.ReadFile("testdata/clients/" + name)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write("/srv/clients/"+name, string(b))
	return "/srv/clients/" + name
}

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

// TestExamplePrograms: the two programs that people have today, which reach
// their gateway through proxy variables, work as they are, with the variables
// and without.
func TestExamplePrograms(t *testing.T) {
	programs := []struct {
		name, file string
		argv       func(h *host, source string) []string
		// refused is what the program prints when the gate says no.
		refused string
	}{
		{"axios", "mcp_client_axios.js", func(h *host, source string) []string {
			h.write("/srv/clients/run.js", source+`
new MCPServer().makeApiCall(process.argv[2], { text: 'hello' }).then(
    (data) => console.log('RESULT ' + JSON.stringify(data)), (error) => { console.log('FAILED ' + JSON.stringify(error.response?.data)); process.exit(3); });
`)
			return []string{"node", "/srv/clients/run.js"}
		}, "API call failed: Request failed with status code 403"},
		{"requests", "mcp_client_requests.py", func(h *host, source string) []string {
			h.write("/srv/clients/run.py", source+`
import json, sys
try:
    print("RESULT", json.dumps(MCPServer().make_api_call(sys.argv[1], {"text": "hello"})))
except requests.exceptions.HTTPError as e:
    print("FAILED", e.response.text)
    sys.exit(3)
`)
			return []string{"python3", "/srv/clients/run.py"}
		}, "API call failed: 403 Client Error: Forbidden"},
	}
	for _, p := range programs {
		for _, scheme := range []string{"https", "http"} {
			for _, proxied := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/proxy=%v", p.name, scheme, proxied), func(t *testing.T) {
					t.Parallel()
					h := newHost(t)
					source, err := os.ReadFile("testdata/clients/" + p.file)
					if err != nil {
						t.Fatal(err)
					}
					argv := p.argv(h, string(source))
					var proxyContacts atomic.Int64
					h.net.serveTCP(3128, func(net.Conn) { proxyContacts.Add(1) })
					try := func(url string) result {
						c := h.command(h.exec(h.config(clientRules), append(argv, url)...)...)
						c.Env = append(c.Env, "NODE_PATH="+h.nodeModules())
						if proxied {
							c.Env = append(c.Env, "HTTP_PROXY=http://203.0.113.14:3128", "HTTPS_PROXY=http://203.0.113.14:3128")
						}
						return h.run(c)
					}
					r := try(scheme + "://api.example.com/v1/call")
					if r.code != 0 || !strings.Contains(r.stdout, `RESULT {`) || !strings.Contains(r.stdout, "/v1/call") {
						t.Fatalf("allowed: %v", r)
					}
					if seen := h.net.seen(); len(seen) != 1 || seen[0].Host != "api.example.com" || seen[0].TLS != (scheme == "https") || !strings.Contains(seen[0].Body, "hello") {
						t.Errorf("the origin saw %+v", seen)
					}
					r = try(scheme + "://api.example.com/secret/call")
					if r.code != 3 || !strings.Contains(r.stdout+r.stderr, p.refused) || !strings.Contains(r.stdout, `"reason": "rule_denied"`) && !strings.Contains(r.stdout, `"reason":"rule_denied"`) {
						t.Errorf("denied: %v", r)
					}
					for path, verdict := range map[string]string{"/v1/call": "allow", "/secret/call": "deny"} {
						e := h.waitAudit(path, func(e *audit.Event) bool { return e.Kind == audit.Exchange && e.HTTP.Path == path })
						if e.Verdict != verdict || e.HTTP.Method != "POST" || e.HTTP.Host != "api.example.com" || e.HTTP.Scheme != scheme || e.Workload.Name != "under-test" || e.Workload.PID == 0 {
							t.Errorf("audit of %s: %+v", path, e)
						}
					}
					if len(h.net.seen()) != 1 || proxyContacts.Load() != 0 {
						t.Errorf("the origin saw %d requests, the proxy %d connections", len(h.net.seen()), proxyContacts.Load())
					}
				})
			}
		}
	}
}

// TestGit: a clone over https, answered by git's own server, and a push that
// the policy refuses because it is another service of the same host.
func TestGit(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	repo := t.TempDir()
	sh(t, fmt.Sprintf(`cd %s && git init -q -b main work && cd work && echo one > file && git add file && git -c user.name=t -c user.email=t@example.com commit -q -m first && cd .. && git clone -q --bare work repo.git && git -C repo.git config http.receivepack true`, repo))
	backend, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	git := &cgi.Handler{Path: strings.TrimSpace(string(backend)) + "/git-http-backend", Env: []string{"GIT_PROJECT_ROOT=" + repo, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}
	h.net.setHandler(func(w http.ResponseWriter, r *http.Request) {
		seen := h.net.seen()
		r.Body = io.NopCloser(strings.NewReader(seen[len(seen)-1].Body))
		git.ServeHTTP(w, r)
	})
	policy := h.config(`
rules:
  - name: no-push
    match: { hosts: [registry.example.com], paths: ["/*/git-receive-pack"] }
    action: deny
  - name: fetch
    match: { hosts: [registry.example.com] }
    action: allow
`)
	r := h.run(h.command(h.exec(policy, "git", "clone", "-q", "https://registry.example.com/repo.git", "/srv/clone")...))
	if r.code != 0 || h.read("/srv/clone/file") != "one\n" {
		t.Fatalf("clone: %v", r)
	}
	r = h.run(h.command(h.exec(policy, "sh", "-c", "cd /srv/clone && echo two > file && git -c user.name=t -c user.email=t@example.com commit -q -a -m second && git push -q origin main")...))
	if r.code == 0 || !strings.Contains(r.stderr, "403") {
		t.Errorf("push: %v", r)
	}
	h.waitAudit("the refused push", func(e *audit.Event) bool {
		return e.Kind == audit.Exchange && e.Verdict == "deny" && e.Rule == "no-push" && e.HTTP.Path == "/repo.git/git-receive-pack"
	})
	if out, err := exec.Command("git", "-C", filepath.Join(repo, "repo.git"), "rev-list", "--count", "main").Output(); err != nil || !bytes.Equal(bytes.TrimSpace(out), []byte("1")) {
		t.Errorf("the repository was changed: %s commits, %v", out, err)
	}
}

// TestProxyForms: whatever proxy a client names, by address, as localhost, over
// TLS or with a password, the target is what is judged, nobody is contacted
// there, and the origin sees nothing of the proxy.
func TestProxyForms(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	policy := h.config(clientRules)
	var contacts atomic.Int64
	for _, port := range []int{3128, 3129} {
		h.net.serveTCP(port, func(net.Conn) { contacts.Add(1) })
	}
	proxies := []string{"http://localhost:3128", "http://127.0.0.1:3128", "http://[::1]:3128", "http://user:password@203.0.113.14:3128", "https://203.0.113.14:3129"}
	var script strings.Builder
	for _, p := range proxies {
		for _, url := range []string{"https://api.example.com/x", "http://api.example.com/x", "https://api.example.com/secret/x", "http://api.example.com/secret/x"} {
			fmt.Fprintf(&script, "curl -sS -m 10 -o /dev/null -w '%%{http_code}%%header{x-sallyport-reason}\\n' -x %s %s 2>&1\n", p, url)
		}
		// What a connection may not be opened to is refused by the CONNECT's answer.
		fmt.Fprintf(&script, "curl -sS -m 10 -o /dev/null -w '%%{http_connect}' -x %s https://denied.example.com/ 2>/dev/null; echo\n", p)
	}
	r := h.run(h.command(h.exec(policy, "sh", "-c", script.String())...))
	got := strings.Split(strings.TrimSpace(r.stdout), "\n")
	for i, p := range proxies {
		want := []string{"200", "200", "403rule_denied", "403rule_denied", "403"}
		if len(got) < 5*(i+1) {
			t.Fatalf("%d answers: %v", len(got), r)
		}
		if g := got[5*i : 5*(i+1)]; !slices.Equal(g, want) {
			t.Errorf("%s: %q, want %q", p, g, want)
		}
	}
	for _, s := range h.net.seen() {
		for _, name := range []string{"Proxy-Authorization", "Proxy-Connection", "Forwarded", "Via", "X-Forwarded-For"} {
			if s.Header.Get(name) != "" {
				t.Errorf("the origin got %s: %s", name, s.Header.Get(name))
			}
		}
	}
	if n := len(h.net.seen()); n != 2*len(proxies) || contacts.Load() != 0 {
		t.Errorf("the origin saw %d requests, want %d; the proxy %d connections", n, 2*len(proxies), contacts.Load())
	}
	if strings.Contains(h.read("/var/log/sallyport/audit.jsonl"), "password") {
		t.Error("the proxy's password is in the audit")
	}
}
