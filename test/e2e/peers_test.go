package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// peerRules let the peers do all but one thing.
const peerRules = `
workloads:
  under-test: { match: { command: "*" } }
rules:
  - name: secrets
    match: { hosts: ["*.example.com"], paths: [/secret/**, "/*.Service/Secret", "/grpc.testing.TestService/UnimplementedCall"] }
    action: deny
  - name: peers
    match: { hosts: ["*.example.com"] }
    action: allow
`

// A street is a host with a running daemon, and an internet full of servers of
// other people. The tests of a run share it.
type street struct {
	*host
	origin *peerOrigin
	// modules is where Node finds the tests' packages on the host.
	modules string
	// nginx is the directory of the one nginx, where a test has it.
	nginx string
}

// newStreet makes the host and starts the daemon; each test adds the servers
// that it needs.
func newStreet(t *testing.T) *street {
	t.Helper()
	return newStreetUnder(t, peerRules)
}

// newStreetUnder is newStreet with other rules.
func newStreetUnder(t *testing.T, rules string) *street {
	t.Helper()
	h := newHost(t)
	for _, name := range []string{"go", "nginx", "nghttpd", "grpc", "ws", "mcp", "git"} {
		h.net.setName(name+".example.com", originV4)
	}
	s := &street{host: h, origin: h.net.servePeerOrigin(), modules: h.nodeModules()}
	h.startDaemon(h.config(rules))
	// Bodies that clients send, and compare what they get with.
	for _, n := range []int64{0, 1, 1000, 16384, 70_000, 3_000_000} {
		if err := os.MkdirAll(h.path("/srv/stream"), 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(h.path(fmt.Sprintf("/srv/stream/%d", n)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(f, newStream(1), n); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return s
}

// within gives the street to a subtest.
func (s *street) within(t *testing.T) *street {
	h := *s.host
	h.t = t
	return &street{&h, s.origin, s.modules, s.nginx}
}

// peer puts a file of testdata/peers on the host and gives its path.
func (h *host) peer(name string) string {
	h.t.Helper()
	b, err := os.ReadFile("testdata/peers/" + name)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write("/srv/peers/"+name, string(b))
	return "/srv/peers/" + name
}

// peerPrograms builds the Go programs of testdata/peers, once.
var peerPrograms = sync.OnceValues(func() (map[string][]byte, error) {
	dir, err := os.MkdirTemp("", "sallyport-peers-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c := exec.Command("go", "build", "-o", dir+"/", "./testdata/peers/goclient")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build testdata/peers: %v: %s", err, msg)
	}
	programs := map[string][]byte{}
	for _, name := range []string{"goclient"} {
		if programs[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return programs, nil
})

// peerProgram puts a Go program of testdata/peers on the host and gives its
// path.
func (h *host) peerProgram(name string) string {
	h.t.Helper()
	all, err := peerPrograms()
	if err != nil {
		h.t.Fatal(err)
	}
	p := "/srv/bin/" + name
	if _, err := os.Stat(h.path(p)); err == nil {
		return p
	}
	h.putProgram(p, all[name])
	return p
}

// checks runs a client behind the gate that prints "ok NAME" or "not ok NAME:
// why" for each thing that it tried, and demands at least so many of them.
func (s *street) checks(atLeast int, env []string, argv ...string) result {
	s.t.Helper()
	c := s.command(s.execBy(argv...)...)
	c.Env = append(append(c.Env, "STREAM=/srv/stream"), env...)
	r := s.run(c)
	good := 0
	for line := range strings.Lines(r.stdout) {
		switch {
		case strings.HasPrefix(line, "ok "):
			good++
		case strings.HasPrefix(line, "not ok "):
			s.t.Error(strings.TrimSpace(strings.TrimPrefix(line, "not ok ")))
		}
	}
	if good < atLeast && !s.t.Failed() || r.code != 0 {
		s.t.Errorf("%d checks, want %d or more: %v", good, atLeast, r)
	}
	return r
}

// exchanges gives the audited exchanges whose path begins so.
func (s *street) exchanges(prefix string) (all []audit.Event) {
	for _, e := range s.audit() {
		if e.Kind == audit.Exchange && strings.HasPrefix(e.HTTP.Path, prefix) {
			all = append(all, e)
		}
	}
	return all
}

// TestPeers: programs that other people wrote, as they are, on both sides of
// the gate.
func TestPeers(t *testing.T) {
	s := newStreet(t)
	s.nginx = s.startNginx()
	for name, try := range map[string]func(*street){
		"curl":        (*street).tryCurl,
		"net-http":    (*street).tryNetHTTP,
		"grpc":        (*street).tryGRPC,
		"node":        (*street).tryNode,
		"websocket":   (*street).tryWebSocket,
		"eventsource": (*street).tryEventSource,
		"mcp":         (*street).tryMCP,
		"nginx":       (*street).tryNginx,
		"nghttp":      (*street).tryNghttp,
		"java":        (*street).tryJava,
		"requests":    (*street).tryRequests,
		"git":         (*street).tryGit,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			try(s.within(t))
		})
	}
}

// wantHTTP2 fails a test whose client would only be refused HTTP/2: clients of
// both versions fall back, and nothing else would tell.
func (s *street) wantHTTP2() {
	s.t.Helper()
	r := s.run(s.command(s.execBy("curl", "-sS", "-o", "/dev/null", "-w", "%{http_version}", "https://go.example.com:"+portTLS+"/sum")...))
	if r.stdout != "2" {
		s.t.Fatalf("the gate speaks %q to a client and an origin that both have HTTP/2: %v", r.stdout, r)
	}
}

// tryCurl: curl by HTTP/1.1, HTTP/2 and HTTP/2 with prior knowledge.
func (s *street) tryCurl() {
	script := s.peer("curl.sh")
	for _, c := range []struct {
		base, version string
		options       []string
	}{
		{"https://go.example.com:" + portTLSOne, "1.1", []string{"--http2"}},
		{"http://go.example.com:" + portClear, "1.1", nil},
		{"https://go.example.com:" + portTLS, "2", []string{"--http2"}},
		{"http://go.example.com:" + portClear, "2", []string{"--http2-prior-knowledge"}},
	} {
		s.t.Run(strings.Trim(c.version+strings.Join(c.options, ""), "-"), func(t *testing.T) {
			s := s.within(t)
			if c.version == "2" {
				s.wantHTTP2()
			}
			s.checks(38, nil, append([]string{"bash", script, c.base, c.version}, c.options...)...)
		})
	}
}

// tryNode: fetch, axios and the http2 module.
func (s *street) tryNode() {
	s.nodeChecks(20, "node_fetch.mjs", "https://go.example.com:"+portTLS)
	s.wantHTTP2()
	s.nodeChecks(18, "node_http2.mjs", "https://go.example.com:"+portTLS)
	s.nodeChecks(18, "node_http2.mjs", "http://go.example.com:"+portClear)
}

// tryWebSocket: Node's ws on both sides, and in streams of HTTP/2 (RFC 8441)
// with a client of our own: none of the packages has one.
func (s *street) tryWebSocket() {
	s.startNode("sockets_server.mjs", "ws.example.com", portSockets)
	s.nodeChecks(20, "sockets.mjs", "wss://ws.example.com:"+portSockets)
	s.startNode("sockets_http2_server.mjs", "ws.example.com", portTwoSocks)
	s.checks(11, nil, s.peerProgram("goclient"), "socket", "ws.example.com:"+portTwoSocks)
	s.checkSocketEvents()
}

// tryEventSource: npm's eventsource at net/http.
func (s *street) tryEventSource() {
	s.nodeChecks(6, "events.mjs", "https://go.example.com:"+portTLSOne)
}

// tryJava: Java's own client.
func (s *street) tryJava() {
	program := s.peer("Http.java")
	s.checks(17, nil, "java", program, "https://go.example.com:"+portTLSOne, "1")
	s.checks(17, nil, "java", program, "http://go.example.com:"+portClear, "1")
	s.wantHTTP2()
	s.checks(17, nil, "java", program, "https://go.example.com:"+portTLS, "2")
}

// tryRequests: Python's requests.
func (s *street) tryRequests() {
	program := s.peer("requests_peer.py")
	s.checks(19, nil, "python3", program, "https://go.example.com:"+portTLS)
	s.checks(19, nil, "python3", program, "http://go.example.com:"+portClear)
}

// checkSocketEvents: each WebSocket that opened has its event at once, and one
// at its end with messages and close code, whichever protocol carried it.
func (s *street) checkSocketEvents() {
	s.t.Helper()
	type key struct{ version, code string }
	opened, ended, codes := 0, 0, map[key]int{}
	eventually(s.t, 5*time.Second, "25 WebSockets or more, and each that opened has ended", func() bool {
		opened, ended = 0, 0
		clear(codes)
		for _, e := range s.audit() {
			switch {
			case e.Dst.Host != "ws.example.com":
			case e.Kind == audit.WebSocketOpen:
				opened++
			case e.Kind == audit.Exchange && e.WebSocket.MessagesSent+e.WebSocket.MessagesReceived > 0:
				ended++
				codes[key{e.HTTP.Version, strconv.Itoa(int(e.WebSocket.CloseCode))}]++
			}
		}
		return ended >= 25 && opened == ended
	})
	for _, k := range []key{{"1.1", "4001"}, {"1.1", "4002"}, {"2", "4001"}} {
		if codes[k] != 1 {
			s.t.Errorf("%d WebSockets by HTTP/%s ended with %s: %v", codes[k], k.version, k.code, codes)
		}
	}
}
