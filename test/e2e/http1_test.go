package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// webRules allow one host, and two hosts by TLS without a name.
const webRules = `
rules:
  - name: not-this
    match: { hosts: [api.example.com], paths: [/forbidden/**] }
    action: deny
  - name: api
    match: { hosts: [api.example.com] }
    action: allow
`

// A silentOrigin answers a request with what it is told and then stays silent.
// It tells when the connection of a request ends.
type silentOrigin struct {
	asked, ended atomic.Int64
}

func (n *internet) serveSilence(port int, say string) *silentOrigin {
	o := new(silentOrigin)
	n.serveTCP(port, func(c net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body)
		io.WriteString(c, say)
		o.asked.Add(1)
		c.Read(make([]byte, 1))
		o.ended.Add(1)
	})
	return o
}

// TestClientThatLeaves: the upstream's exchange is stopped within some two
// seconds when the workload's socket is closed, also where nothing is left to be
// written to it; a workload that has only ended its side gets its answer.
func TestClientThatLeaves(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	quiet := h.net.serveSilence(8081, "")
	stream := h.net.serveSilence(8082, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
	h.net.serveTCP(8083, func(c net.Conn) {
		http.ReadRequest(bufio.NewReader(c))
		time.Sleep(3500 * time.Millisecond)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
	})
	const client = `
import socket, sys, time
def ask(port):
    s = socket.create_connection(('api.example.com', port))
    s.sendall(b'GET /left HTTP/1.1\r\nHost: api.example.com\r\n\r\n')
    return s
s = ask(8081)
sys.stdin.readline()
s.close()
s = ask(8082)
got = b''
while b'data: 1' not in got: got += s.recv(4096)
s.close()
s = ask(8083)
s.shutdown(socket.SHUT_WR)
got = b''
while True:
    p = s.recv(4096)
    if not p: break
    got += p
print(got.decode())
time.sleep(0.5)
`
	c := h.command(h.exec(h.config(webRules), "python3", "-c", client)...)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	done := make(chan result, 1)
	go func() { done <- h.run(c) }()
	for _, o := range []struct {
		name string
		*silentOrigin
	}{{"before the answer", quiet}, {"within a stream", stream}} {
		eventually(t, time.Minute, o.name+": the origin is asked", func() bool { return o.asked.Load() == 1 })
		begin := time.Now()
		fmt.Fprintln(in) // the first goes when it is told to
		eventually(t, 20*time.Second, o.name+": the origin's connection ends", func() bool { return o.ended.Load() == 1 })
		t.Logf("%s: noticed within %v", o.name, time.Since(begin).Round(10*time.Millisecond))
	}
	if r := <-done; r.code != 0 || !strings.HasSuffix(r.stdout, "\r\n\r\nlate\n") {
		t.Errorf("the client that waits: %v", r)
	}
	for port, status := range map[uint16]int{8081: 0, 8082: 200} {
		h.waitAudit(fmt.Sprintf("the exchange on port %d", port), func(e *audit.Event) bool {
			return e.Kind == audit.Exchange && e.Dst.Port == port && e.HTTP.Status == status && strings.Contains(e.Message, "closed the connection")
		})
	}
}

// TestEarlyAnswer: an origin that answers while the request is still being sent
// stops the upload, and the client gets the answer.
func TestEarlyAnswer(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	took := make(chan int64, 8)
	h.net.serveTCP(8081, func(c net.Conn) {
		r := bufio.NewReader(c)
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large")
		// As servers do: what still comes is thrown away for a while.
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, _ := io.Copy(io.Discard, r)
		took <- n
	})
	h.write("/srv/big", "")
	if r := h.sh("truncate -s 2G /srv/big"); r.code != 0 {
		t.Fatal(r)
	}
	for _, options := range [][]string{{}, {"-H", "Transfer-Encoding: chunked"}} {
		argv := append([]string{"curl", "-sS", "-o", "-", "-w", " %{http_code} %{size_upload}", "-H", "Expect:", "-T", "/srv/big"}, options...)
		r := h.run(h.command(h.exec(h.config(webRules), append(argv, "http://api.example.com:8081/upload")...)...))
		var sent int64
		fmt.Sscanf(r.stdout, "too large 413 %d", &sent)
		select {
		case n := <-took:
			if !strings.HasPrefix(r.stdout, "too large 413 ") || sent >= 2<<30 || n >= 2<<30 {
				t.Errorf("%v: the origin got %d bytes: %v", options, n, r)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%v: the origin was not asked, or its connection has no end: %v", options, r)
		}
	}
}

// TestRefusedUpload: clients that send a long body before they look for an
// answer see the refusal all the same, and why.
func TestRefusedUpload(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	conf := h.config(webRules)
	if r := h.sh("truncate -s 20M /srv/big"); r.code != 0 {
		t.Fatal(r)
	}
	h.write("/srv/upload.mjs", `
import { readFileSync } from 'node:fs';
const r = await fetch(process.argv[2], { method: 'POST', body: readFileSync('/srv/big') });
console.log(r.status, r.headers.get('x-sallyport-reason'), (await r.json()).rule);
`)
	h.write("/srv/upload.py", `
import requests, sys
r = requests.post(sys.argv[1], data=open('/srv/big', 'rb'))
print(r.status_code, r.headers['x-sallyport-reason'], r.json()['rule'])
`)
	h.write("/srv/upload.sh", `curl -sS -H Expect: -T /srv/big -o /srv/body -w '%{http_code} %header{x-sallyport-reason} ' "$1"; sed 's/.*"rule":"\([^"]*\)".*/\1/' /srv/body`)
	for _, base := range []string{"http", "https"} {
		for _, client := range [][]string{{"python3", "/srv/upload.py"}, {"node", "/srv/upload.mjs"}, {"bash", "/srv/upload.sh"}} {
			r := h.run(h.command(h.exec(conf, append(client, base+"://api.example.com/forbidden/upload")...)...))
			if r.stdout != "403 rule_denied not-this\n" || r.code != 0 || r.took > patience(20*time.Second) {
				t.Errorf("%s %v: %v", base, client, r)
			}
		}
	}
	if seen := h.net.seen(); len(seen) > 0 {
		t.Errorf("the origin got %d requests", len(seen))
	}
}

// TestHostSpellings: a final dot, another case and another port in Host name the
// same host; where to is the connection's. A client without SNI is known by what
// it asked the resolver.
func TestHostSpellings(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	const client = `
import socket, ssl, sys
def ask(port, host, path='/spelled', tls=None):
    s = socket.create_connection(('api.example.com', port))
    if tls is not None:
        context = ssl.create_default_context()
        context.check_hostname = False
        s = context.wrap_socket(s, server_hostname=tls or None)
    s.sendall(f'GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n'.encode())
    got = b''
    while True:
        try: p = s.recv(65536)
        except OSError as e: p = b''
        if not p: break
        got += p
    return got.decode()
for port, host, tls in [
    (80, 'api.example.com', None), (80, 'API.Example.COM', None), (80, 'api.example.com.', None), (80, 'api.example.com:80', None),
    (80, 'api.example.com:8443', None), (443, 'api.example.com', 'api.example.com'), (443, 'api.example.com.', 'api.example.com'),
    (443, 'api.example.com:443', 'api.example.com'), (443, 'api.example.com:80', 'api.example.com'),
    (443, 'api.example.com', ''), (443, 'other.example.com', ''), (443, 'other.example.com', 'api.example.com'), (80, 'other.example.com', None),
]:
    answer = ask(port, host, tls=tls)
    head, _, body = answer.partition('\r\n\r\n')
    status = head.split(' ')[1]
    reason = [l.split(': ')[1] for l in head.split('\r\n') if l.startswith('X-Sallyport-Reason')]
    print(port, host, '-' if tls is None else tls or 'none', status, ' '.join(reason))
`
	r := h.run(h.command(h.exec(h.config(webRules), "python3", "-c", client)...))
	const want = `80 api.example.com - 200 
80 API.Example.COM - 200 
80 api.example.com. - 200 
80 api.example.com:80 - 200 
80 api.example.com:8443 - 200 
443 api.example.com api.example.com 200 
443 api.example.com. api.example.com 200 
443 api.example.com:443 api.example.com 200 
443 api.example.com:80 api.example.com 200 
443 api.example.com none 200 
443 other.example.com none 403 no_rule
443 other.example.com api.example.com 403 name_mismatch
80 other.example.com - 403 no_rule
`
	if r.stdout != want || r.code != 0 {
		t.Errorf("%v", r)
	}
	for _, seen := range h.net.seen() {
		if seen.Path == "/spelled" && strings.HasPrefix(seen.Host, "other") {
			t.Errorf("%+v", seen)
		}
	}
}
