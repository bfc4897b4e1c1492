package e2e

import (
	"bytes"
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
	"sync/atomic"
	"testing"

	"sallyport/pkg/audit"
)

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
			fmt.Fprintf(&script, "curl -sS -m 30 -o /dev/null -w '%%{http_code}%%header{x-sallyport-reason}\\n' -x %s %s 2>&1\n", p, url)
		}
		// What a connection may not be opened to is refused by the CONNECT's answer.
		fmt.Fprintf(&script, "curl -sS -m 30 -o /dev/null -w '%%{http_connect}' -x %s https://denied.example.com/ 2>/dev/null; echo\n", p)
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
