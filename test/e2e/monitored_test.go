package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const monitoredRules = `
metrics: { listen: "127.0.0.1:9595" }
workloads: { sender: {}, pin: {} }
upstreams:
  search:
    targets: [ { target: "api.example.com:443" }, { target: "other.example.com:9" } ]
    healthchecks: { active: { type: https, http_path: /health, timeout: 2s, healthy: { interval: 500ms, successes: 1 }, unhealthy: { interval: 500ms, tcp_failures: 1 } } }
  gone:
    targets: [ { target: "other.example.com:9" } ]
    healthchecks: { active: { type: https, http_path: /health, timeout: 2s, healthy: { interval: 500ms, successes: 1 }, unhealthy: { interval: 500ms, tcp_failures: 1 } } }
rules:
  - { name: search, match: { hosts: [search.internal] }, action: allow, upstream: search }
  - { name: gone, match: { hosts: [gone.internal] }, action: allow, upstream: gone }
  - { name: limited, match: { hosts: [api.example.com], paths: [/limited/**] }, action: allow, rate_limit: { day: 2 } }
  - { name: cached, match: { hosts: [api.example.com], paths: [/cached/**] }, action: allow, cache: { content_types: [text/plain], ttl: 5m } }
  - { name: sealed, match: { hosts: [api.example.com], paths: [/sealed/**] }, action: allow, secrets: block }
  - { name: guarded, match: { hosts: [api.example.com], paths: [/guarded/**] }, action: allow, auth: { header: X-Api-Key, secret_file: /srv/secret } }
  - { name: trial, mode: observe, match: { hosts: [api.example.com], paths: [/trial/**] }, action: deny }
  - { name: closed, match: { hosts: [api.example.com], paths: [/closed/**] }, action: deny }
  - { name: plain, match: { hosts: [api.example.com] }, action: allow }
  - { name: pinned, match: { hosts: [v4.example.com] }, action: allow }
  - { name: odd, match: { hosts: [bad.example.com] }, action: allow }
`

// The traffic: a line for each thing that the page counts apart.
const monitoredTraffic = `
ask() { curl -sS -o /dev/null --max-time 20 "$@"; }
ask 'https://api.example.com/plain/[1-5]' --http1.1
ask 'https://api.example.com:8444/plain/[1-5]' --http2
ask https://api.example.com/plain/post -d 'a body that is counted'
ask https://api.example.com/plain/missing
ask https://api.example.com/plain/broken
ask 'https://api.example.com/limited/[1-5]'
ask 'https://api.example.com/cached/[1-2]'; ask 'https://api.example.com/cached/[1-2]'
ask https://api.example.com/sealed/x -H 'Content-Type: text/plain' -d 'key AKIAQ3EGRXMWY7PNB2KD'
ask https://api.example.com/guarded/x
ask https://api.example.com/trial/x
ask https://api.example.com/closed/x
ask 'https://search.internal/[1-4]'
ask https://gone.internal/x
ask https://bad.example.com/x
ask https://nobody.example.com/x
curl -sS -o /dev/null --cacert /usr/local/share/ca-certificates/internet.crt --capath /nowhere https://v4.example.com/x
curl -sS -o /dev/null --cacert /usr/local/share/ca-certificates/internet.crt --capath /nowhere https://v4.example.com/x
python3 /srv/odd.py
true
`

// oddClients sends UDP to a place that takes none, on a socket that the first
// lock sees and on one that only the second does, and floods an HTTP/2
// connection with PING (RFC 9113 §10.5).
const oddClients = `
import socket, ssl
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for connect in (False, True):
    for _ in range(3):
        try:
            if connect:
                s.connect(("203.0.113.10", 443)); s.send(b"x")
            else:
                s.sendto(b"x", ("203.0.113.10", 443))
        except OSError as e:
            pass
c = ssl.create_default_context()
c.set_alpn_protocols(["h2"])
s = c.wrap_socket(socket.create_connection(("api.example.com", 8444)), server_hostname="api.example.com")
assert s.selected_alpn_protocol() == "h2", s.selected_alpn_protocol()
try:
    s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    for _ in range(20):
        s.sendall(bytes([0, 0, 8, 6, 0, 0, 0, 0, 0] + [0] * 8) * 1000)
    while s.recv(65536):
        pass
except OSError:
    pass
`

// A monitored host is one whose daemon a real Prometheus scrapes.
type monitored struct {
	*host
	// release ends the answers to /plain/held.
	release chan struct{}
}

func newMonitored(t *testing.T, extra string) *monitored {
	t.Helper()
	h := newHost(t)
	h.write("/srv/secret", "a secret that nobody sends\n")
	if err := os.Chmod(h.path("/srv/secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.putKeep()
	h.meet(foreignPlace)
	h.write("/srv/odd.py", oddClients)
	h.write("/srv/traffic.sh", monitoredTraffic)
	release := make(chan struct{})
	answer := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		switch r.URL.Path {
		case "/plain/missing":
			w.WriteHeader(http.StatusNotFound)
		case "/plain/broken":
			w.WriteHeader(http.StatusInternalServerError)
		case "/plain/held":
			w.(http.Flusher).Flush()
			<-release
		}
		fmt.Fprintln(w, "an answer")
	}
	h.net.setHandler(answer)
	h.net.put("bad.example.com", present(nil, sign(t, nil, nil, site("bad.example.com", nil))))
	web := &http.Server{Handler: http.HandlerFunc(answer), ErrorLog: log.New(io.Discard, "", 0)}
	inNetns(t, h.net.ns, func() {
		go web.Serve(tls.NewListener(h.net.listen(":8444"), &tls.Config{GetCertificate: h.net.ca.Certificate, NextProtos: []string{"h2", "http/1.1"}}))
	})
	t.Cleanup(func() { web.Close() })
	conf := strings.Replace(h.config(monitoredRules), "tls: {", "tls: { on_pinned: tunnel,", 1)
	h.startDaemon(strings.Replace(conf, "audit.jsonl }", "audit.jsonl"+extra+" }", 1))
	return &monitored{h, release}
}

// foreignPlace is a port of the internet to which a process connects before it
// becomes part of a workload.
const foreignPlace = 7777

// traffic makes everything happen once.
func (m *monitored) traffic() {
	m.t.Helper()
	withinWindow(24*time.Hour, time.Minute) // the rate limit of a day
	m.foreignEvent(m.keep(0, "plain", originV4, foreignPlace, "receiver"))
	if r := m.run(m.sallyport("exec", "--config", daemonConfig, "--workload", "sender", "--", "bash", "/srv/traffic.sh")); r.code != 0 {
		m.t.Fatalf("traffic: %v", r)
	}
}

// monitoring gives a file of docs/monitoring.
func monitoring(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/monitoring/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// startPrometheus starts the real one beside the daemon with the files of
// docs/monitoring; only the interval is shorter than theirs.
func (m *monitored) startPrometheus() {
	t := m.t
	t.Helper()
	conf := monitoring(t, "prometheus.yaml")
	if !strings.Contains(conf, "scrape_interval: 15s") {
		t.Fatalf("no interval to shorten in %s", conf)
	}
	m.write("/srv/monitoring/prometheus.yaml", "global: { evaluation_interval: 1s }\n"+strings.Replace(conf, "scrape_interval: 15s", "scrape_interval: 1s", 1))
	m.write("/srv/monitoring/alerts.yaml", monitoring(t, "alerts.yaml"))
	c := m.command("prometheus", "--config.file=/srv/monitoring/prometheus.yaml", "--storage.tsdb.path=/srv/tsdb", "--web.listen-address=127.0.0.1:9090", "--log.level=warn")
	out := &syncBuffer{}
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		t.Fatalf("prometheus (scripts/setup test installs it): %v", err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	eventually(t, time.Minute, "Prometheus is ready: "+out.String(), func() bool {
		return m.sh("curl -sS --max-time 2 http://127.0.0.1:9090/-/ready").code == 0 && len(m.query("up == 1").values) == 1
	})
}

// scraped waits until Prometheus has asked twice for the page of now: one may be under
// way, and of three more two are whole ones.
func (m *monitored) scraped() {
	m.t.Helper()
	asked := func() float64 { return m.query(`count_over_time(sallyport_build_info[1h])`).most() }
	before := asked()
	eventually(m.t, time.Minute, "the page is asked for", func() bool { return asked() >= before+3 })
}

// An answered query is what Prometheus says of an expression.
type answered struct {
	err    string
	values []float64
}

// most is the greatest value that is a number, 0 without one.
func (a answered) most() (most float64) {
	for _, v := range a.values {
		if v > most {
			most = v
		}
	}
	return most
}

func (m *monitored) query(expr string) (a answered) {
	m.t.Helper()
	r := m.run(m.command("curl", "-sS", "--max-time", "20", "--data-urlencode", "query="+expr, "http://127.0.0.1:9090/api/v1/query"))
	var body struct {
		Status, Error string
		Data          struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.Unmarshal([]byte(r.stdout), &body); err != nil {
		return answered{err: fmt.Sprintf("%v: %v", err, r)}
	}
	if body.Status != "success" {
		return answered{err: body.Error}
	}
	for _, row := range body.Data.Result {
		v, err := strconv.ParseFloat(row.Value[1].(string), 64)
		if err != nil {
			return answered{err: err.Error()}
		}
		a.values = append(a.values, v)
	}
	return a
}

// alerts gives the state of each alert that is not inactive, by its name and
// the labels that tell what it is about.
func (m *monitored) alerts() map[string]string {
	m.t.Helper()
	r := m.sh("curl -sS --max-time 20 http://127.0.0.1:9090/api/v1/alerts")
	var body struct {
		Data struct {
			Alerts []struct {
				Labels, Annotations map[string]string
				State               string
			}
		}
	}
	if err := json.Unmarshal([]byte(r.stdout), &body); err != nil {
		m.t.Fatalf("alerts: %v: %v", err, r)
	}
	all := make(map[string]string)
	for _, a := range body.Data.Alerts {
		all[strings.TrimSpace(a.Labels["alertname"]+" "+a.Labels["upstream"]+" "+a.Labels["target"])] = a.State + ": " + a.Annotations["summary"]
	}
	return all
}

// sums gives a family of the page, added up by one label, of the series that
// have all of these labels; without what is 0.
func (m *monitored) sums(family, label string, having ...string) map[string]uint64 {
	m.t.Helper()
	all := make(map[string]uint64)
	for line := range strings.Lines(m.metricsPage()) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		labels, ok := strings.CutPrefix(series, family+"{")
		if !ok || slices.ContainsFunc(having, func(h string) bool { return !strings.Contains(labels, h) }) {
			continue
		}
		_, rest, _ := strings.Cut(","+labels, ","+label+"=\"")
		name, _, _ := strings.Cut(rest, "\"")
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			m.t.Fatal(err)
		}
		if v > 0 {
			all[name] += uint64(v)
		}
	}
	return all
}
