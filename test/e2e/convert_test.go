package e2e

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/config"
	"sallyport/pkg/policy"
)

// A gateway is a host on which another gateway's configuration was converted.
type gateway struct {
	*host
	t *testing.T
}

// service is the origin of the examples.
const service = "api.external-service.com"

// newGateway makes a host whose internet has the origins of the examples. They
// answer with the status that a path ends in.
func newGateway(t *testing.T) *gateway {
	h := newHost(t)
	for _, name := range []string{service, "api1.external-service.com", "api2.external-service.com"} {
		h.net.setName(name, originV4)
	}
	h.net.setHandler(func(w http.ResponseWriter, r *http.Request) {
		parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
		last := parts[len(parts)-1]
		w.Header().Set("Content-Type", "text/plain")
		if n, err := strconv.Atoi(last); err == nil && n >= 200 && n < 600 {
			w.WriteHeader(n)
			return
		}
		if size, ok := strings.CutPrefix(last, "bytes-"); ok {
			n, _ := strconv.Atoi(size)
			w.Header().Set("Content-Length", size)
			chunk := make([]byte, 1<<16)
			for n > 0 {
				k, err := w.Write(chunk[:min(n, len(chunk))])
				if err != nil {
					return
				}
				n -= k
			}
			return
		}
		fmt.Fprintf(w, "%s %s\n", r.Host, r.URL.Path)
	})
	return &gateway{h, t}
}

// convert converts an example, given with what makes it this host's, and gives
// the configuration, which has neither mistakes nor warnings.
func (g *gateway) convert(kind, example string, adapt ...string) string {
	g.t.Helper()
	data, err := os.ReadFile("../../pkg/convert/testdata/" + example)
	if err != nil {
		g.t.Fatal(err)
	}
	source := strings.NewReplacer(adapt...).Replace(string(data))
	g.write("/srv/source", source)
	r := g.run(g.sallyport("convert", kind, "/srv/source"))
	if r.code != 0 || !strings.HasPrefix(r.stdout, "version: 1\ndefault: deny\n") || !strings.Contains(r.stderr, "/srv/source:") {
		g.t.Fatalf("convert: %v", r)
	}
	g.write("/srv/converted.yaml", r.stdout)
	if check := g.run(g.sallyport("config", "check", "--strict", "/srv/converted.yaml")); check.code != 0 {
		g.t.Fatalf("config check: %v\n%s", check, r.stdout)
	}
	return r.stdout
}

// start runs a daemon with what was converted; only where things lie is this
// host's.
func (g *gateway) start(yaml string) {
	g.t.Helper()
	lines := strings.Split(g.config(""), "\n")
	for _, l := range lines[1:] {
		key, _, _ := strings.Cut(l, ":")
		if key != "" && !strings.Contains(yaml, "\n"+key+":") {
			yaml += l + "\n"
		}
	}
	g.startDaemon(yaml)
}

// behind asks the origin itself, from behind the gate, and gives the status.
func (g *gateway) behind(workload string, options ...string) string {
	g.t.Helper()
	argv := []string{g.binary, "exec", "--config", daemonConfig}
	if workload != "" {
		argv = append(argv, "--workload", workload)
	}
	argv = append(argv, "--", "curl", "-sS", "-m", "30", "-o", "/dev/null", "-w", "%{http_code}\\n")
	r := g.run(g.command(append(argv, options...)...))
	return strings.TrimSpace(r.stdout)
}

// reaching counts the requests that origins got while f runs, and the path of
// the last.
func (g *gateway) reaching(f func()) (n int, path string) {
	before := len(g.net.seen())
	f()
	seen := g.net.seen()
	if len(seen) > before {
		path = seen[len(seen)-1].Path
	}
	return len(seen) - before, path
}

// TestConvertedNginx: each request that a real nginx passed to the origin, made
// directly by a workload, gets the same status; what nginx refused is refused.
func TestConvertedNginx(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	yaml := g.convert("nginx", "nginx/example.conf",
		"events {", "user root; pid /run/nginx.pid; error_log /tmp/error.log;\nevents {",
		"http {", "http {\n client_body_temp_path /tmp/nb; proxy_temp_path /tmp/np; fastcgi_temp_path /tmp/nf; uwsgi_temp_path /tmp/nu; scgi_temp_path /tmp/ns;",
		"/var/log/nginx/mcp_access.log", "/tmp/access.log",
		"listen 8080", "listen 127.0.0.1:8080",
		"proxy_ssl_verify on;", "proxy_ssl_verify on; proxy_ssl_server_name on; proxy_ssl_name "+service+";",
		"/etc/ssl/certs/ca-certificates.crt", "/usr/local/share/ca-certificates/internet.crt",
	)
	if r := g.run(g.command("nginx", "-c", "/srv/source")); r.code != 0 {
		t.Fatalf("nginx: %v", r)
	}
	t.Cleanup(func() { g.sh("kill $(cat /run/nginx.pid)") })
	g.start(yaml)
	g.sh("head -c 10485760 /dev/zero > /tmp/ten; head -c 10485761 /dev/zero > /tmp/more")

	through := func(options ...string) string {
		r := g.run(g.command(append([]string{"curl", "-sS", "-m", "30", "-o", "/dev/null", "-w", "%{http_code}\\n"}, options...)...))
		return strings.TrimSpace(r.stdout)
	}
	passed := 0
	for _, c := range []struct {
		path    string
		options []string
	}{
		{"/api/", nil},
		{"/api/plain", nil},
		{"/api/deep/er/still", nil},
		{"/api/with?query=1&b=%20", nil},
		{"/api/encoded%20space", nil},
		{"/api/not/404", nil},
		{"/api/bad/500", nil},
		{"/api/gone/204", []string{"-X", "DELETE"}},
		{"/api/head", []string{"-I"}},
		{"/api/post", []string{"-d", "x=1"}},
		{"/api/ten", []string{"--data-binary", "@/tmp/ten", "-H", "Expect:"}},
		{"/api/more", []string{"--data-binary", "@/tmp/more", "-H", "Expect:"}},
		{"/api/chunked", []string{"--data-binary", "@/tmp/more", "-H", "Expect:", "-H", "Transfer-Encoding: chunked"}},
		{"/api", nil},
		{"/other", nil},
		{"/", nil},
	} {
		var status string
		n, path := g.reaching(func() { status = through(append(c.options, "http://127.0.0.1:8080"+c.path)...) })
		switch {
		case n > 1:
			t.Errorf("%s: nginx asked %d times", c.path, n)
		case n == 1 && status != "413":
			passed++
			direct := ""
			if m, _ := g.reaching(func() { direct = g.behind("", append(c.options, "https://"+service+path)...) }); m != 1 || direct != status {
				t.Errorf("%s: nginx passed it as %s and answered %s; directly it is %s, and %d reached the origin", c.path, path, status, direct, m)
			}
		case status == "413":
			// What was too much is so here, and is not seen whole by the origin.
			if direct := g.behind("", append(c.options, "https://"+service+strings.TrimPrefix(c.path, "/api"))...); direct != "413" {
				t.Errorf("%s: nginx answered 413, directly it is %s", c.path, direct)
			}
		}
		time.Sleep(250 * time.Millisecond) // the rate is 10r/s on both ways
	}
	if passed < 10 {
		t.Errorf("nginx passed %d requests", passed)
	}

	// The rate: as many as nginx lets through at once, and the rest with 503.
	time.Sleep(2500 * time.Millisecond)
	count := func(out string, took time.Duration) (ok int) {
		for status := range strings.FieldsSeq(out) {
			switch status {
			case "200":
				ok++
			case "503":
			default:
				t.Errorf("status %s", status)
			}
		}
		if most := 21 + int(took.Seconds()*10) + 1; ok < 21 || ok > most {
			t.Errorf("%d passed in %v, want 21 to %d", ok, took, most)
		}
		return ok
	}
	for _, way := range []struct {
		what string
		ask  func() string
	}{
		{"nginx", func() string { return through("http://127.0.0.1:8080/api/burst?n=[1-200]", "-o", "/dev/null") }},
		{"directly", func() string { return g.behind("", "https://"+service+"/burst?n=[1-200]", "-o", "/dev/null") }},
	} {
		start := time.Now()
		out := way.ask()
		if ok := count(out, time.Since(start)); ok > 199 {
			t.Errorf("%s: %d of 200 passed", way.what, ok)
		}
	}
	// What nginx wrote into requests is written here too.
	for _, r := range g.net.seen() {
		if strings.HasPrefix(r.Path, "/plain") && (r.Header.Get("X-Real-Ip") == "" || r.Header.Get("X-Forwarded-For") == "" || r.Header.Get("X-Forwarded-Proto") == "") {
			t.Errorf("%s: %v", r.Path, r.Header)
		}
	}
	if status := g.behind("", "https://other.example.com/"); status != "000" {
		t.Errorf("another origin: %s", status)
	}
}

// TestConvertedKong: the examples run, requests go through, limits hold.
func TestConvertedKong(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.start(g.convert("kong", "kong/example.yml"))
	g.sh("head -c 10485760 /dev/zero > /tmp/ten; head -c 10485761 /dev/zero > /tmp/more")
	// A minute must not end in between: what is counted must be in one.
	withinWindow(time.Minute, 40*time.Second)
	const url = "https://" + service
	asked := 0
	for _, c := range []struct {
		want    string
		options []string
	}{
		{"200", []string{url + "/"}},
		{"200", []string{url + "/anything/below"}},
		{"200", []string{"--data-binary", "@/tmp/ten", "-H", "Expect:", url + "/ten"}},
		{"413", []string{"--data-binary", "@/tmp/more", "-H", "Expect:", url + "/more"}},
		{"200", []string{url + "/bytes-52428800"}},
		{"502", []string{url + "/bytes-52428801"}},
		{"403", []string{"http://" + service + "/"}},
		{"000", []string{"https://other.example.com/"}}, // no rule lists the name
	} {
		if got := g.behind("w", c.options...); got != c.want {
			t.Errorf("%v: %s, want %s", c.options, got, c.want)
		}
		if c.want == "200" || c.want == "502" {
			asked++
		}
	}
	statuses := strings.Fields(g.behind("w", url+"/limit?n=[1-110]", "-o", "/dev/null"))
	ok, refused := count(statuses, "200"), count(statuses, "429")
	if ok != 100-asked || refused != 110-ok {
		t.Errorf("%d passed and %d were refused, want %d and the rest", ok, refused, 100-asked)
	}
	if got := g.behind("another", url+"/"); got != "200" {
		t.Errorf("another workload: %s", got)
	}
}

// TestConvertedKongFull: with global plugins, an upstream and health checks.
// Nobody passes but the workload that stands for Kong's callers.
func TestConvertedKongFull(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.start(g.convert("kong", "kong/example-full.yml"))
	const callers = "callers"
	for _, c := range []struct {
		workload, want string
		options        []string
	}{
		{callers, "200", []string{"https://external-service-upstream/v2/search"}},
		{callers, "200", []string{"https://api1.external-service.com/v2/search/more"}},
		{callers, "200", []string{"-d", "x", "https://api2.external-service.com/v2/search"}},
		{callers, "403", []string{"-X", "DELETE", "https://external-service-upstream/v2/search"}},
		{callers, "403", []string{"https://external-service-upstream/v2/other"}},
		{callers, "403", []string{"https://external-service-upstream/search"}},
		{callers, "200", []string{"https://" + service + "/fresh"}},
		// A name that no rule lists for a workload does not exist for it.
		{"w", "000", []string{"https://external-service-upstream/v2/search"}},
		{"w", "000", []string{"https://" + service + "/"}},
	} {
		if got := g.behind(c.workload, c.options...); got != c.want {
			t.Errorf("%s %v: %s, want %s", c.workload, c.options, got, c.want)
		}
	}
	// The second of two is answered from memory. Health checks reach the origin too.
	if got := g.behind(callers, "https://"+service+"/cached?n=[1-1]", "https://"+service+"/cached?n=1", "-o", "/dev/null", "-o", "/dev/null"); got != "200\n200" {
		t.Errorf("cached: %q", got)
	}
	if n := g.reached("/cached"); n != 1 {
		t.Errorf("%d reached the origin, want 1", n)
	}
}

// locationsConfig has locations of every kind, each with an origin of its own
// that gets the name of the location as Host.
const locationsConfig = `user root; pid /run/nginx.pid; error_log /tmp/error.log;
events { worker_connections 512; }
http {
  client_body_temp_path /tmp/nb; proxy_temp_path /tmp/np; fastcgi_temp_path /tmp/nf; uwsgi_temp_path /tmp/nu; scgi_temp_path /tmp/ns;
  access_log off;
  server {
    listen 127.0.0.1:8080;
    location / { proxy_pass http://root.example.com; }
    location /a/ { proxy_pass http://taken.example.com/; }
    location /a/b { proxy_pass http://moved.example.com/v1; }
    location /a/ab/ { return 403; }
    location = /a/a { proxy_pass http://exact.example.com/a; }
    location ^~ /b/ { proxy_pass http://stop.example.com; location /b/b/ { proxy_pass http://inner.example.com/ab/; } }
    location ~ ^/ab/[^/]+/b$ { proxy_pass http://regex.example.com; }
    location ~* /AB/A$ { proxy_pass http://folded.example.com; }
    location ~ a/b/$ { return 404; }
    location /ab/b/ { proxy_pass http://slash.example.com; }
    location /off/ { rewrite ^/off/(.*)$ /$1 break; proxy_pass http://off.example.com; }
  }
}
`

// TestConvertedLocations: of all paths of few letters those are allowed that a
// real nginx sends to an origin, and no others.
func TestConvertedLocations(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	hosts := []string{"root", "taken", "moved", "exact", "stop", "inner", "regex", "folded", "slash", "off"}
	for i, h := range hosts {
		hosts[i] = h + ".example.com"
		g.net.setName(hosts[i], originV4)
	}
	g.write("/srv/nginx.conf", locationsConfig)
	r := g.run(g.sallyport("convert", "nginx", "/srv/nginx.conf"))
	if r.code != 0 {
		t.Fatalf("convert: %v", r)
	}
	c, err := config.Parse([]config.File{{Name: "converted.yaml", Data: []byte(r.stdout)}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	if r := g.run(g.command("nginx", "-c", "/srv/nginx.conf")); r.code != 0 {
		t.Fatalf("nginx: %v", r)
	}
	t.Cleanup(func() { g.sh("kill $(cat /run/nginx.pid)") })

	// Paths of up to four segments, with and without a final slash.
	paths := []string{"/"}
	for level, n := []string{""}, 0; n < 4; n++ {
		var next []string
		for _, at := range level {
			for _, s := range []string{"a", "b", "ab", "AB", "off"} {
				next = append(next, at+"/"+s)
			}
		}
		for _, at := range next {
			paths = append(paths, at, at+"/")
		}
		level = next
	}
	// Of the gateway those that have one segment more, so that nothing is missing
	// of what is left when one is taken off.
	var list strings.Builder
	for _, path := range paths {
		for _, front := range []string{"", "/a", "/off", "/b/b", "/v1"} {
			fmt.Fprintf(&list, "url = \"http://127.0.0.1:8080%s%s\"\noutput = /dev/null\n", front, path)
		}
	}
	g.write("/srv/urls", list.String())
	if r := g.run(g.command("curl", "-sS", "--path-as-is", "-K", "/srv/urls")); r.code != 0 {
		t.Fatalf("curl: %v", r)
	}
	sent := make(map[string]bool)
	for _, s := range g.net.seen() {
		sent[s.Host+s.Path] = true
	}
	allowed, missing := 0, 0
	for _, host := range hosts {
		for _, path := range paths {
			d := p.Decide(&policy.Query{
				Workload: "w", Host: host, Addrs: []netip.Addr{netip.MustParseAddr(originV4)}, Port: 80, Protocol: policy.HTTP,
				HTTP: &policy.HTTPQuery{Method: "GET", Path: path},
			})
			switch ok := d.Verdict == policy.Allow; {
			case ok && !sent[host+path]:
				t.Errorf("http://%s%s is allowed, and nginx never sent it", host, path)
			case ok:
				allowed++
			case sent[host+path]:
				// A refusal holds with and without the final slash, and so refuses more.
				twin := path + "/"
				if bare, slashed := strings.CutSuffix(path, "/"); slashed {
					twin = bare
				}
				if sent[host+twin] {
					missing++
					t.Errorf("nginx sent http://%s%s, which is refused by %s", host, path, d.Rule)
				}
			}
		}
	}
	if allowed < 100 {
		t.Errorf("%d paths are allowed, %d are missing", allowed, missing)
	}
}
