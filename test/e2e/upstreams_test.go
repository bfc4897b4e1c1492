package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// A farm is a host whose internet has several nginx with names of their own, to
// which an upstream sends what is asked of search.internal: a name that no name
// server knows.
type farm struct {
	*host
	dir     string
	running map[string]*exec.Cmd
}

// A target of the farm speaks HTTPS and HTTP/2 on 9443, and HTTP on 9080, each
// at an address of its own.
var farmTargets = map[string]string{"t1": originV4, "t2": "203.0.113.11", "t3": "203.0.113.12", "bad": "203.0.113.13", "front": "203.0.113.14"}

const farmConfig = `daemon off;
user root;
worker_processes 1;
error_log stderr crit;
pid DIR/NAME.pid;
events { worker_connections 256; }
http {
  log_format line '$request_method $uri $status';
  access_log DIR/NAME.log line;
  client_body_temp_path DIR/NAME-b; proxy_temp_path DIR/NAME-p; fastcgi_temp_path DIR/NAME-f; uwsgi_temp_path DIR/NAME-u; scgi_temp_path DIR/NAME-s;
  client_max_body_size 100m;
  keepalive_requests 100000;
  server {
    listen ADDRESS:9443 ssl http2;
    listen ADDRESS:9080;
    ssl_certificate DIR/CERT.example.com.pem;
    ssl_certificate_key DIR/CERT.example.com.key;
    default_type text/plain;
    location / {
      if (-f DIR/NAME.busy) { return 503 "NAME busy\n"; }
      return 200 "NAME $http_host $server_protocol $ssl_server_name $uri\n";
    }
    location /health {
      if (-f DIR/NAME.ill) { return 500; }
      return 200 "";
    }
    location /upload {
      client_body_buffer_size 10m;
      proxy_pass http://ADDRESS:9080/busy;
    }
    location /busy { return 503; }
  }
  EXTRA
}
`

func newFarm(t *testing.T) *farm {
	t.Helper()
	h := newHost(t)
	dir, err := os.MkdirTemp("", "farm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &farm{host: h, dir: dir, running: map[string]*exec.Cmd{}}
	for name, addr := range farmTargets {
		h.net.setName(name+".example.com", addr)
		h.net.leafFiles(dir, name+".example.com")
	}
	return f
}

func (f *farm) file(name string) string { return filepath.Join(f.dir, name) }

// start starts one nginx and waits until it answers.
func (f *farm) start(name, extra string) {
	t := f.t
	t.Helper()
	cert := name
	if name == "bad" {
		cert = "t1" // not its own
	}
	conf := strings.NewReplacer("DIR", f.dir, "NAME", name, "ADDRESS", farmTargets[name], "CERT", cert, "EXTRA", extra).Replace(farmConfig)
	if err := os.WriteFile(f.file(name+".conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("nginx", "-p", f.dir, "-c", f.file(name+".conf"))
	out := &syncBuffer{}
	c.Stdout, c.Stderr = out, out
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	inNetns(t, f.net.ns, func() {
		if err := c.Start(); err != nil {
			t.Errorf("nginx: %v", err)
		}
	})
	f.running[name] = c
	t.Cleanup(func() { f.stop(name) })
	eventually(t, 15*time.Second, "nginx "+name+" answers: "+out.String(), func() bool {
		return strings.HasPrefix(f.inside("curl", "-sS", "--max-time", "2", "http://"+farmTargets[name]+":9080/started"), name+" ")
	})
}

// stop ends one nginx.
func (f *farm) stop(name string) {
	if c := f.running[name]; c != nil {
		syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		c.Wait()
		delete(f.running, name)
	}
}

// inside runs a command on the internet's end.
func (f *farm) inside(argv ...string) string {
	var out []byte
	inNetns(f.t, f.net.ns, func() {
		var err error
		if out, err = exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			out = append(out, err.Error()...)
		}
	})
	return string(out)
}

// mark makes a file that changes what an nginx answers, or removes it.
func (f *farm) mark(name string, there bool) {
	f.t.Helper()
	if !there {
		os.Remove(f.file(name))
	} else if err := os.WriteFile(f.file(name), nil, 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// served counts the requests that an nginx has answered for a path.
func (f *farm) served(name, line string) int {
	b, _ := os.ReadFile(f.file(name + ".log"))
	n := 0
	for l := range strings.Lines(string(b)) {
		if strings.HasPrefix(l, line) {
			n++
		}
	}
	return n
}

// policy is the configuration with these targets; each is NAME:PORT=WEIGHT.
func (f *farm) policy(upstream, rule string, targets ...string) string {
	var list []string
	for _, s := range targets {
		at, weight, _ := strings.Cut(s, "=")
		name, port, _ := strings.Cut(at, ":")
		if weight == "" {
			weight = "100"
		}
		list = append(list, fmt.Sprintf("{ target: %q, weight: %s }", name+".example.com:"+port, weight))
	}
	return f.config(fmt.Sprintf(`metrics: { listen: 127.0.0.1:9595 }
upstreams:
  search:
    targets: [ %s ]
%s
rules:
  - name: search
    match: { hosts: [search.internal] }
    action: allow
    upstream: search
%s`, strings.Join(list, ", "), upstream, rule))
}

// get asks the farm n times on one connection and gives the first word of each
// answer.
func (f *farm) get(n int, options ...string) []string {
	f.t.Helper()
	r := f.run(f.command(f.execBy(append(append([]string{"curl", "-sS"}, options...), fmt.Sprintf("https://search.internal/x?n=[1-%d]", n))...)...))
	if r.code != 0 {
		f.t.Fatalf("curl: %v", r)
	}
	var words []string
	for line := range strings.Lines(r.stdout) {
		if fields := strings.Fields(line); len(fields) > 0 {
			words = append(words, fields[0])
		}
	}
	return words
}

func count(words []string, word string) (n int) {
	for _, w := range words {
		if w == word {
			n++
		}
	}
	return n
}

// healthy tells what the metrics say of a target.
func (f *farm) healthy(target string) bool {
	f.t.Helper()
	return f.scrape(fmt.Sprintf("sallyport_upstream_target_healthy{target=%q,upstream=%q}", target, "search")) == 1
}

// TestUpstreamTargets: the order of weighted targets is that of a real nginx
// with the same weights; each is verified and asked under its own name, and the
// name of the rule is never resolved.
func TestUpstreamTargets(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.start("t1", "")
	f.start("t2", "")
	f.start("t3", "")
	f.start("front", `upstream u { server 203.0.113.10:9080 weight=5; server 203.0.113.11:9080 weight=1; server 203.0.113.12:9080 weight=2; }
  server { listen 203.0.113.14:9081; location / { proxy_pass http://u; } }`)
	var theirs []string
	for line := range strings.Lines(f.inside("curl", "-sS", "http://203.0.113.14:9081/order?n=[1-24]")) {
		theirs = append(theirs, strings.Fields(line)[0])
	}
	f.startDaemon(f.policy("", "", "t1:9443=500", "t2:9443=100", "t3:9443=200"))
	if ours := f.get(24, "--http1.1"); !slices.Equal(ours, theirs) || len(ours) != 24 {
		t.Errorf("order %v, nginx's is %v", ours, theirs)
	}
	for _, tt := range []struct{ option, want string }{
		{"--http1.1", "t1 t1.example.com:9443 HTTP/1.1 t1.example.com /x"},
		{"--http2", "t1 t1.example.com:9443 HTTP/2.0 t1.example.com /x"},
	} {
		r := f.run(f.command(f.execBy("curl", "-sS", tt.option, "https://search.internal/x?n=[1-8]")...))
		if !strings.Contains(r.stdout, tt.want) {
			t.Errorf("%s: %v", tt.option, r)
		}
	}
	// Many streams at once are spread as their requests come.
	words := f.get(160, "--http2", "--parallel", "--parallel-max", "20")
	if a, b, c := count(words, "t1"), count(words, "t2"), count(words, "t3"); a+b+c != 160 || a < 98 || a > 102 || b < 18 || b > 22 {
		t.Errorf("%d, %d, %d", a, b, c)
	}
	e := f.waitAudit("an exchange with t2", func(e *audit.Event) bool {
		return e.Kind == audit.Exchange && e.Upstream.Target == "t2.example.com:9443"
	})
	if e.HTTP.Host != "search.internal" || e.Upstream.IP.String() != farmTargets["t2"] || e.Upstream.Attempts != 1 || e.Rule != "search" {
		t.Errorf("%+v", e)
	}
	if slices.Contains(f.net.asked(), "search.internal") {
		t.Error("the name of the rule was asked of a name server")
	}
	f.write("/srv/daemon/policy.yaml", f.policy("    preserve_host: true", "", "t1:9443"))
	eventually(t, 10*time.Second, "the request's own Host is kept", func() bool {
		r := f.run(f.command(f.execBy("curl", "-sS", "https://search.internal/x")...))
		return strings.HasPrefix(r.stdout, "t1 search.internal HTTP/2.0 t1.example.com")
	})
	// In clear where the request is.
	f.write("/srv/daemon/policy.yaml", f.policy("", "", "t1:9080"))
	eventually(t, 10*time.Second, "a request in clear", func() bool {
		r := f.run(f.command(f.execBy("curl", "-sS", "http://search.internal/y")...))
		return strings.HasPrefix(r.stdout, "t1 t1.example.com:9080 HTTP/1.1  /y")
	})
}

// TestUpstreamFailover: a target that is gone, busy, or of another name costs no
// request where the rule retries; each try counts for its health, which a reload
// keeps; after recover_after one request brings it back.
func TestUpstreamFailover(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.start("t1", "")
	f.start("t2", "")
	f.start("t3", "")
	f.start("bad", "")
	const passive = "    healthchecks: { passive: { statuses: [503], unhealthy: { http_failures: 4, tcp_failures: 2, timeouts: 2 }, recover_after: 4s } }"
	const retry = "    retry: { attempts: 4, on: [connect, \"503\"], backoff: 5ms }"
	all := []string{"t1:9443", "t2:9443", "t3:9443", "bad:9443"}
	f.startDaemon(f.policy(passive, retry, all...))
	f.stop("t2")
	f.mark("t3.busy", true)
	words := f.get(30, "--http1.1")
	if count(words, "t1") != 30 {
		t.Errorf("%v", words)
	}
	for _, target := range []string{"t2.example.com:9443", "t3.example.com:9443", "bad.example.com:9443"} {
		if f.healthy(target) {
			t.Errorf("%s is healthy", target)
		}
	}
	if !f.healthy("t1.example.com:9443") {
		t.Error("t1 is unhealthy")
	}
	if n := f.served("bad", "GET /x"); n != 0 {
		t.Errorf("%d requests to a target that did not prove its name", n)
	}
	if n := f.served("t3", "GET /x"); n < 4 || n > 6 {
		t.Errorf("%d requests to the busy target, which is out after 4", n)
	}
	e := f.waitAudit("a request with several tries", func(e *audit.Event) bool { return e.Kind == audit.Exchange && e.Upstream.Attempts >= 3 })
	if e.HTTP.Status != 200 || e.Upstream.Target != "t1.example.com:9443" || e.Verdict != "allow" {
		t.Errorf("%+v", e)
	}
	e = f.waitAudit("why bad is out", func(e *audit.Event) bool {
		return e.Kind == audit.Lifecycle && strings.Contains(e.Message, "bad.example.com:9443 is unhealthy")
	})
	if !strings.Contains(e.Message, "certificate") {
		t.Errorf("%s", e.Message)
	}
	if r := f.run(f.sallyport("status", "--config", daemonConfig)); !strings.Contains(r.stdout+r.stderr, "t2.example.com:9443 is unhealthy") {
		t.Errorf("status: %v", r)
	}
	// A reload keeps what is known.
	f.write("/srv/daemon/policy.yaml", f.policy(strings.Replace(passive, "4s", "1h", 1), retry, all...))
	reload := f.run(f.sallyport("reload", "--config", daemonConfig))
	if reload.code != 0 || f.healthy("t2.example.com:9443") {
		t.Errorf("after a reload: %v", reload)
	}
	f.start("t2", "")
	f.mark("t3.busy", false)
	f.write("/srv/daemon/policy.yaml", f.policy(strings.Replace(passive, "4s", "1s", 1), retry, all...))
	f.run(f.sallyport("reload", "--config", daemonConfig))
	eventually(t, 20*time.Second, "t2 and t3 are back, bad is not", func() bool {
		words := f.get(4, "--http1.1")
		return count(words, "t1")+count(words, "t2")+count(words, "t3") == 4 &&
			f.healthy("t2.example.com:9443") && f.healthy("t3.example.com:9443") && !f.healthy("bad.example.com:9443")
	})
	// Without a retry its failure is the workload's to see.
	f.write("/srv/daemon/policy.yaml", f.policy("", "", "bad:9443"))
	f.run(f.sallyport("reload", "--config", daemonConfig))
	r := f.run(f.command(f.execBy("curl", "-sS", "-w", " %{http_code}", "https://search.internal/x")...))
	if !strings.Contains(r.stdout, `"reason":"upstream_tls"`) || !strings.HasSuffix(r.stdout, " 502") {
		t.Errorf("%v", r)
	}
}

// TestUpstreamActiveChecks: a target that fails its checks is out and comes back
// with them; without a healthy one nothing is contacted.
func TestUpstreamActiveChecks(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.start("t1", "")
	f.start("t2", "")
	const checks = "    healthchecks: { active: { type: https, http_path: /health, timeout: 10s, statuses: [200], healthy: { interval: 100ms, successes: 2 }, unhealthy: { interval: 100ms, http_failures: 2, tcp_failures: 2, timeouts: 2 } } }"
	f.startDaemon(f.policy(checks, "", "t1:9443", "t2:9443", "bad:9443"))
	f.start("bad", "")
	out := func(what string, targets ...string) {
		t.Helper()
		eventually(t, 10*time.Second, what, func() bool {
			for _, name := range []string{"t1", "t2", "bad"} {
				if f.healthy(name+".example.com:9443") == slices.Contains(targets, name) {
					return false
				}
			}
			return true
		})
	}
	out("a target of another name fails its checks", "bad")
	if n := f.served("bad", "GET /health"); n != 0 {
		t.Errorf("%d checks at a target that did not prove its name", n)
	}
	f.mark("t2.ill", true)
	out("t2 is out", "t2", "bad")
	if words := f.get(6, "--http1.1"); count(words, "t1") != 6 {
		t.Errorf("%v", words)
	}
	f.stop("t1")
	out("all are out", "t1", "t2", "bad")
	before := f.served("t2", "GET /x")
	r := f.run(f.command(f.execBy("curl", "-sS", "-w", " %{http_code}", "https://search.internal/x")...))
	if !strings.Contains(r.stdout, `"reason":"no_healthy_target"`) || !strings.HasSuffix(r.stdout, " 503") || !strings.Contains(r.stdout, "it answered 500") {
		t.Errorf("%v", r)
	}
	if f.served("t2", "GET /x") != before {
		t.Error("an unhealthy target was contacted")
	}
	f.waitAudit("the refusal", func(e *audit.Event) bool {
		return e.Kind == audit.Exchange && e.Reason == "no_healthy_target" && e.HTTP.Status == 503
	})
	f.start("t1", "")
	f.mark("t2.ill", false)
	out("both are back", "bad")
	if words := f.get(6, "--http1.1"); count(words, "t1") != 3 || count(words, "t2") != 3 {
		t.Errorf("%v", words)
	}
}

// TestUpstreamRetries: what may not be sent twice is not, and an outage is not
// multiplied.
func TestUpstreamRetries(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.start("t1", "")
	f.start("t2", "")
	f.startDaemon(f.policy("", "    retry: { attempts: 3, on: [connect, \"503\"], backoff: 1ms }", "t1:9443", "t2:9443"))
	f.write("/srv/large", strings.Repeat("0123456789abcdef", 1<<16))
	post := func(want int, path string, argv ...string) {
		t.Helper()
		before := f.served("t1", "P") + f.served("t2", "P")
		r := f.run(f.command(f.execBy(append([]string{"curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "https://search.internal" + path}, argv...)...)...))
		if !strings.HasSuffix(r.stdout, "503") {
			t.Errorf("%v: %v", argv, r)
		}
		// An upload is counted twice: nginx asks itself for the answer. It counts what
		// it has answered.
		sent := func() int { return f.served("t1", "P") + f.served("t2", "P") - before }
		eventually(t, 5*time.Second, "each is counted", func() bool { return sent() >= want })
		if n := sent(); n != want {
			t.Errorf("%v: sent %d times, want %d", argv, n, want)
		}
	}
	for _, version := range []string{"--http1.1", "--http2"} {
		post(3, "/busy", version, "-X", "PUT", "-d", "short")
		post(1, "/busy", version, "-d", "short")
		post(2, "/upload", version, "-T", "/srv/large")
		post(2, "/upload", version, "-H", "Expect:", "--data-binary", "@/srv/large")
	}
	// Of t1 alone, which is busy: a fifth more and ten.
	f.mark("t1.busy", true)
	f.write("/srv/daemon/policy.yaml", f.policy("", "    retry: { attempts: 5, on: [\"503\"], backoff: 0s }", "t1:9443"))
	f.run(f.sallyport("reload", "--config", daemonConfig))
	before := f.served("t1", "GET /x")
	words := f.get(200, "--http1.1")
	if n := f.served("t1", "GET /x") - before; count(words, "t1") != 200 || n < 205 || n > 250 {
		t.Errorf("%d answers, %d requests for 200", count(words, "t1"), n)
	}
}

// TestUpstreamExec: the same without a daemon, in observe mode, where the host of
// the rule has other ways too.
func TestUpstreamExec(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.start("t1", "")
	f.start("t2", "")
	conf := "mode: observe\n" + f.policy("", "    retry: { attempts: 2, on: [connect], backoff: 0s }", "t1:9443", "t2:9443")
	r := f.run(f.command(f.exec(conf, "curl", "-sS", "https://search.internal/x?n=[1-4]", "https://api.example.com/other")...))
	if strings.Count(r.stdout, "t1 t1.example.com:9443") != 2 || strings.Count(r.stdout, "t2 t2.example.com:9443") != 2 || !strings.Contains(r.stdout, `"path":"/other"`) {
		t.Errorf("%v", r)
	}
	if slices.Contains(f.net.asked(), "search.internal") {
		t.Error("the name of the rule was asked of a name server")
	}
}
