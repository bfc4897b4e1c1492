package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"sallyport/pkg/audit"
)

// serveFiltered answers /echo with what it got, /text?say= with that text,
// /coded/CODING the same encoded, /events an event for each word, the last one
// when somebody has asked for /read, /bomb with 100 MiB of zeros as gzip, /long?n= with as many bytes and the text
// behind them.
func (n *internet) serveFiltered() {
	read := make(chan struct{}, 1)
	n.setHandler(func(w http.ResponseWriter, r *http.Request) {
		// Encoded, so that no filter finds it in the URL.
		decoded, _ := base64.RawURLEncoding.DecodeString(r.URL.Query().Get("say"))
		say := string(decoded)
		w.Header().Set("Content-Type", "text/plain")
		flush := http.NewResponseController(w).Flush
		coding, coded := strings.CutPrefix(r.URL.Path, "/coded/")
		switch {
		case coded:
			w.Header().Set("Content-Encoding", coding)
			var z io.WriteCloser
			switch coding {
			case "gzip":
				z = gzip.NewWriter(w)
			case "br":
				z = brotli.NewWriter(w)
			case "zstd":
				z, _ = zstd.NewWriter(w)
			default:
				io.WriteString(w, say)
				return
			}
			io.WriteString(z, say)
			z.Close()
		case r.URL.Path == "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			select {
			case <-read: // of a stream before
			default:
			}
			words := strings.Fields(say)
			for i, word := range words {
				if i == len(words)-1 {
					select {
					case <-read:
					case <-r.Context().Done():
						return
					case <-time.After(20 * time.Second):
						return
					}
				}
				fmt.Fprintf(w, "id: %d\ndata: {\"delta\":", i)
				flush()
				fmt.Fprintf(w, "\"%s\"}\n\n", word)
				if flush() != nil {
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		case r.URL.Path == "/read":
			select {
			case read <- struct{}{}:
			default:
			}
		case r.URL.Path == "/bomb":
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			io.CopyN(z, zeros{}, 100<<20)
			z.Close()
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(b.Bytes())
		case r.URL.Path == "/query":
			io.WriteString(w, r.URL.RawQuery)
		case r.URL.Path == "/long", r.URL.Path == "/declared":
			var size int64
			fmt.Sscan(r.URL.Query().Get("n"), &size)
			if r.URL.Path == "/declared" {
				w.Header().Set("Content-Length", fmt.Sprint(size+int64(len(say))))
			}
			io.CopyN(w, spaces{}, size)
			io.WriteString(w, say)
		default:
			io.WriteString(w, say+" ")
			io.WriteString(w, r.Header.Get("X-Note"))
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// githubToken has the form of one and was never valid.
const githubToken = "gh" + "p_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"

const filterRules = `
rules:
  - name: block
    match: { hosts: [block.example.com] }
    action: allow
    size_limit: { request: 100KB, response: 40MB }
    secrets: block
    content_filter: [ { name: bad, pattern: 'bad[- ]word', in: both, action: block, status: 418 } ]
  - name: size
    match: { hosts: [size.example.com] }
    action: allow
    size_limit: { request: 100KB, response: 40MB }
  - name: redact
    match: { hosts: [redact.example.com] }
    action: allow
    secrets: redact
    content_filter: [ { name: bad, pattern: 'bad[- ]word', in: both, action: redact } ]
  - name: report
    match: { hosts: [report.example.com] }
    action: allow
    secrets: report
    content_filter: [ { name: bad, pattern: 'bad[- ]word', in: both, action: report } ]
  - name: observed
    match: { hosts: [observed.example.com] }
    action: allow
    mode: observe
    secrets: redact
    size_limit: { request: 10B }
    content_filter: [ { name: bad, pattern: 'bad[- ]word', in: both, action: block } ]
`

// TestFilters: what curl sends and gets through rules that block, redact, report
// and observe, by HTTP/1.1 and HTTP/2.
func TestFilters(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.net.serveFiltered()
	for _, name := range []string{"block", "redact", "report", "observed", "size"} {
		h.net.setName(name+".example.com", originV4)
	}
	h.startDaemon(h.config(filterRules))
	h.write("/srv/token.json", `{"text":"my token is \u0067hp_`+githubToken[4:]+`\n"}`)
	h.write("/srv/big", strings.Repeat("0123456789", 20_000))
	h.write("/srv/huge", strings.Repeat("0123456789", 200_000)+"bad word")
	h.sh("printf 'a bad word, zipped' | gzip > /srv/zipped; printf 'one bad' > /srv/one; printf 'bad word' > /srv/bad")
	const more = "a bad word and more"
	for _, c := range []struct {
		name, host string
		// options are curl's, say is what the origin answers.
		options, path, say string
		status             int
		reason             string // header X-Sallyport-Reason
		body               string // what curl prints
		has, hasNot        string
		origin             string // the request's body there; "-" where it is not asked, "…-" where not wholly
		message            string // of the event
		verdict            string
	}{
		{name: "clean", host: "block", options: "-d hello", path: "/echo", say: "fine", status: 200, body: "fine ", origin: "hello"},
		{name: "body", host: "block", options: "-d 'a bad word'", path: "/echo", status: 418, reason: "content_filter", has: `"error":"Request blocked by content filter"`, origin: "-", message: "content_filter bad in the request's body", verdict: "deny"},
		{name: "JSON-RPC", host: "block", options: `-H 'Content-Type: application/json' -d '{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"text":"a bad word"}}'`, path: "/mcp", status: 200, reason: "content_filter",
			has: `"id":7,"error":{"code":-32001,"message":"Request blocked by content filter"`, origin: "-", verdict: "deny"},
		{name: "JSON-RPC, held and let through", host: "block", options: `-H 'Content-Type: application/json' -d '{"jsonrpc":"2.0","id":7,"method":"ping"}'`, path: "/mcp", say: "pong", status: 200, body: "pong ", origin: `{"jsonrpc":"2.0","id":7,"method":"ping"}`},
		{name: "100-continue", host: "block", options: "-H 'Expect: 100-continue' -d 'a bad word'", path: "/echo", status: 418, reason: "content_filter"},
		{name: "100-continue, clean", host: "block", options: "-H 'Expect: 100-continue' -d 'a good word'", path: "/echo", say: "ok", status: 200, body: "ok ", origin: "a good word"},
		{name: "chunked body", host: "block", options: "-H 'Transfer-Encoding: chunked' -F a=@/srv/one -F b=@/srv/bad", path: "/echo", status: 418, reason: "content_filter", origin: "-"},
		{name: "zipped body", host: "block", options: "-H 'Content-Encoding: gzip' --data-binary @/srv/zipped", path: "/echo", status: 418, reason: "content_filter", origin: "-"},
		{name: "unknown coding", host: "block", options: "-H 'Content-Encoding: compress' -d x", path: "/echo", status: 418, reason: "content_filter", has: "cannot be judged", origin: "-"},
		{name: "URL", host: "block", path: "/echo?q=b%61d%20word", status: 418, reason: "content_filter", origin: "-", message: "in the request's URL"},
		{name: "field", host: "block", options: "-H 'X-Note: a bad word'", path: "/echo", status: 418, reason: "content_filter", origin: "-", message: "in the request's header field X-Note"},
		{name: "escaped secret", host: "block", options: "-H 'Content-Type: application/json' -d @/srv/token.json", path: "/echo", status: 403, reason: "secret_found", has: "github-token", hasNot: "ghp_", origin: "-", message: "secret github-token in the request's body"},
		{name: "credential", host: "block", options: "-H 'Authorization: Bearer " + githubToken + "'", path: "/echo", say: "ok", status: 200, body: "ok "},
		{name: "too large", host: "block", options: "-d @/srv/big", path: "/echo", status: 413, reason: "request_too_large", origin: "-", verdict: "deny"},
		{name: "too large in chunks", host: "block", options: "-H 'Transfer-Encoding: chunked' -d @/srv/big", path: "/echo", status: 413, reason: "request_too_large", origin: "-", verdict: "deny"},
		{name: "too large for its size alone", host: "size", options: "-H 'Transfer-Encoding: chunked' -d @/srv/big", path: "/echo", status: 413, reason: "request_too_large", origin: "…-", verdict: "deny"},
		{name: "WebSocket", host: "block", options: "--http1.1 -H 'Connection: Upgrade' -H 'Upgrade: websocket'", path: "/echo", status: 400, reason: "content_filter", has: "upgrade to websocket", origin: "-"},
		{name: "response", host: "block", path: "/text", say: "a bad\nword", status: 200, body: "a bad\nword "},
		{name: "blocked response", host: "block", path: "/text", say: more, status: 502, reason: "response_filter", has: "Response blocked by content filter", message: "in the response's body", verdict: "deny"},
		{name: "gzip", host: "block", options: "--compressed", path: "/coded/gzip", say: more, status: 502, reason: "response_filter"},
		{name: "br", host: "block", options: "-H 'Accept-Encoding: br, x'", path: "/coded/br", say: more, status: 502, reason: "response_filter"},
		{name: "zstd", host: "block", path: "/coded/zstd", say: more, status: 502, reason: "response_filter"},
		{name: "coding of the response", host: "block", path: "/coded/lzma", say: more, status: 502, reason: "response_filter", has: "cannot be judged"},
		{name: "bomb", host: "block", path: "/bomb", status: 502, reason: "response_filter", message: "decompresses"},
		{name: "large response", host: "size", path: "/long?n=41000000", status: 200, reason: "", body: "cut", verdict: "deny", message: "size_limit.response"},
		{name: "declared large response", host: "size", path: "/declared?n=41000000", status: 502, reason: "response_too_large", verdict: "deny"},
		{name: "long blocked response", host: "block", path: "/long?n=3000000", say: more, status: 200, body: "cut", verdict: "deny", message: "in the response's body before byte"},

		{name: "redacted body", host: "redact", options: "-d 'a bad word and " + githubToken + "'", path: "/echo", say: "ok", status: 200, body: "ok ", origin: "a [redacted:bad] and [redacted:github-token]", message: "redacted"},
		{name: "redacted zipped body", host: "redact", options: "-H 'Content-Encoding: gzip' --data-binary @/srv/zipped", path: "/echo", say: "ok", status: 200, origin: "a [redacted:bad], zipped"},
		{name: "redacted long body", host: "redact", options: "-d @/srv/huge", path: "/echo", say: "ok", status: 200, body: "ok ", message: "before byte 2000008, redacted"},
		{name: "redacted field", host: "redact", options: "-H 'X-Note: a bad word!'", path: "/echo", status: 200, body: " a [redacted:bad]!"},
		{name: "redacted query", host: "redact", options: "-G --data-urlencode 'q=a bad word' --data-urlencode 'r=s t'", path: "/query", status: 200, body: "q=a+%5Bredacted%3Abad%5D&r=s+t"},
		{name: "redacted response", host: "redact", path: "/text", say: more, status: 200, body: "a [redacted:bad] and more "},
		{name: "redacted gzip", host: "redact", options: "--compressed", path: "/coded/gzip", say: more, status: 200, body: "a [redacted:bad] and more"},
		{name: "redacted zstd", host: "redact", path: "/coded/zstd", say: more, status: 200, body: "a [redacted:bad] and more"},

		{name: "reported", host: "report", options: "-d 'a bad word'", path: "/text", say: more, status: 200, body: "a bad word and more ", origin: "a bad word", message: "content_filter bad in the request's body", verdict: "allow"},
		{name: "reported gzip", host: "report", options: "--compressed", path: "/coded/gzip", say: more, status: 200, body: "a bad word and more", message: "content_filter bad in the response's body", verdict: "allow"},
		{name: "reported bomb", host: "report", options: "-o /dev/null --compressed", path: "/bomb", status: 200, message: "not judged to its end", verdict: "allow"},
		{name: "observed", host: "observed", options: "-d 'a bad word'", path: "/echo", say: "ok", status: 200, body: "ok ", origin: "a bad word", message: "Request blocked by content filter", verdict: "would_deny"},
		{name: "observed size", host: "observed", options: "-d 0123456789a", path: "/echo", say: "ok", status: 200, body: "ok ", origin: "0123456789a", verdict: "would_deny"},
	} {
		for _, version := range []string{"--http1.1", "--http2"} {
			if strings.Contains(c.options, "--http") && version == "--http2" {
				continue
			}
			t.Run(c.name+" "+version[2:], func(t *testing.T) {
				h := &host{t: t, name: h.name, holder: h.holder, pid: h.pid, net: h.net, slice: h.slice, binary: h.binary}
				before, events := len(h.net.seen()), len(h.audit())
				path := c.path
				if c.say != "" {
					path += map[bool]string{false: "?", true: "&"}[strings.Contains(path, "?")] + "say=" + base64.RawURLEncoding.EncodeToString([]byte(c.say))
				}
				options := c.options
				if version == "--http2" {
					// It has no other framing.
					options = strings.ReplaceAll(options, "-H 'Transfer-Encoding: chunked' ", "")
				}
				line := fmt.Sprintf(`curl -sS %s -w '\n%%{http_code} %%header{x-sallyport-reason}' %s 'https://%s.example.com%s'`, version, options, c.host, path)
				r := h.run(h.command(h.execBy("bash", "-c", line)...))
				end := strings.LastIndex(r.stdout, "\n")
				if end < 0 {
					t.Fatalf("%s: %v", line, r)
				}
				body, head := r.stdout[:end], strings.TrimSpace(r.stdout[end+1:])
				if r.stdout = r.stdout[:min(len(r.stdout), 2000)]; c.body == "cut" {
					if r.code == 0 || strings.Contains(body, "bad") {
						t.Errorf("%s: looks whole: %v", line, r)
					}
					body = "cut"
				}
				if head != strings.TrimSpace(fmt.Sprint(c.status, " ", c.reason)) || c.body != "" && body != c.body || !strings.Contains(body, c.has) || c.hasNot != "" && strings.Contains(body, c.hasNot) {
					t.Errorf("%s: %v", line, r)
				}
				seen := h.net.seen()[before:]
				switch {
				case c.origin == "-" && len(seen) > 0:
					t.Errorf("%s: the origin was asked: %+v", line, seen)
				case c.origin == "…-" && len(seen) > 0 && len(seen[0].Body) > 100_000:
					t.Errorf("%s: the origin saw %d bytes", line, len(seen[0].Body))
				case c.origin != "" && !strings.HasSuffix(c.origin, "-") && (len(seen) != 1 || seen[0].Body != c.origin):
					t.Errorf("%s: the origin saw %+v", line, seen)
				}
				var e audit.Event
				eventually(t, 20*time.Second, "the exchange's event", func() bool {
					for _, e = range h.audit()[events:] {
						if e.Kind == audit.Exchange {
							return true
						}
					}
					return false
				})
				if !strings.Contains(e.Message, c.message) || c.verdict != "" && e.Verdict != c.verdict || c.reason != "" && e.Reason != c.reason {
					t.Errorf("%s: event %s %s %q; want %s %q", line, e.Verdict, e.Reason, e.Message, c.verdict, c.message)
				}
				if strings.Contains(e.Message, "bad word") || strings.Contains(e.Message, githubToken) {
					t.Errorf("the event tells what was found: %q", e.Message)
				}
			})
		}
	}
}

// TestFilteredEvents: Node and Python read a stream of events as they come: the
// last is sent only when they have read the first. One is redacted, and where it
// is blocked the stream ends.
func TestFilteredEvents(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.net.serveFiltered()
	for _, name := range []string{"block", "redact"} {
		h.net.setName(name+".example.com", originV4)
	}
	h.startDaemon(h.config(filterRules))
	h.write("/srv/events.mjs", `
const [url, read] = process.argv.slice(2);
let text = '';
try {
  const r = await fetch(url);
  for await (const chunk of r.body) {
    if (text === '' && read) await fetch(read);
    text += Buffer.from(chunk).toString();
  }
  text += 'END';
} catch (e) { text += 'CUT'; }
console.log(text);
`)
	h.write("/srv/events.py", `
import sys, urllib.request
text = ''
try:
    with urllib.request.urlopen(sys.argv[1]) as r:
        for line in r:
            if text == '' and sys.argv[2]:
                urllib.request.urlopen(sys.argv[2]).read()
            text += line.decode()
    text += 'END'
except Exception:
    text += 'CUT'
print(text)
`)
	words := "one two " + githubToken + strings.Repeat(" more", 10) + " last"
	for _, reader := range []string{"node /srv/events.mjs", "python3 /srv/events.py"} {
		for _, host := range []string{"redact", "block"} {
			read := ""
			if host == "redact" {
				read = "https://redact.example.com/read"
			}
			r := h.run(h.command(h.execBy("bash", "-c", fmt.Sprintf("%s 'https://%s.example.com/events?say=%s' '%s'", reader, host, base64.RawURLEncoding.EncodeToString([]byte(words)), read))...))
			if host == "redact" && (!strings.Contains(r.stdout, "[redacted:github-token]") || !strings.Contains(r.stdout, "last") || !strings.Contains(r.stdout, "END") || strings.Contains(r.stdout, githubToken)) {
				t.Errorf("%s, redacted: %v", reader, r)
			}
			// Python takes the cut of a chunked body for its end.
			cut := strings.Contains(r.stdout, "CUT") || strings.HasPrefix(reader, "python")
			if host == "block" && (!strings.Contains(r.stdout, "two") || strings.Contains(r.stdout, "more") || !cut || strings.Contains(r.stdout, githubToken)) {
				t.Errorf("%s, blocked: %v", reader, r)
			}
		}
	}
	e := h.waitAudit("the stream that was cut", func(e *audit.Event) bool { return e.Kind == audit.Exchange && e.Rule == "block" })
	if e.Verdict != "deny" || e.Reason != "response_filter" || !strings.Contains(e.Message, "event 3") {
		t.Errorf("audit: %+v", e)
	}
}

// TestFilteredPeers: other people's programs notice nothing of filters that find
// nothing, but that redacting ones leave no ranges.
func TestFilteredPeers(t *testing.T) {
	t.Parallel()
	type peer struct {
		name string
		try  func(*street)
	}
	for action, peers := range map[string][]peer{
		"redact": {{"node", (*street).tryNode}, {"eventsource", (*street).tryEventSource}},
		"report": {
			{"node", (*street).tryNode}, {"requests", (*street).tryRequests}, {"eventsource", (*street).tryEventSource},
			{"grpc", (*street).tryGRPC}, {"websocket", (*street).tryWebSocket}, {"net/http", (*street).tryNetHTTP},
		},
	} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			s := newStreetUnder(t, fmt.Sprintf("\ndefaults:\n  secrets: %s\n  content_filter: [ { name: never, pattern: 'no such (text|words) [0-9]+', in: both, action: %s } ]\n%s", action, action, peerRules[1:]))
			for _, p := range peers {
				t.Run(p.name, func(t *testing.T) {
					t.Parallel()
					p.try(s.within(t))
				})
			}
		})
	}
}

// TestFilteredGRPC: grpc-go on both sides, messages plain, compressed and in a
// stream: redacted in their place, or refused with the status that its clients
// understand.
func TestFilteredGRPC(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.net.serveGRPC()
	for _, name := range []string{"block", "redact"} {
		h.net.setName(name+".example.com", originV4)
	}
	h.startDaemon(h.config(filterRules))
	client := h.peerProgram("goclient")
	for _, c := range []struct {
		host, text string
		want       []string // beginning of each line
	}{
		{"redact", "my token is " + githubToken + ".", []string{"my token is [redacted:github-token]*****************.", "my token is [redacted:github-token]*****************.", "5 bytes", "53 bytes"}},
		{"redact", "nothing to see", []string{"nothing to see", "nothing to see", "5 bytes", "14 bytes"}},
		{"block", "nothing to see", []string{"nothing to see", "nothing to see", "5 bytes", "14 bytes"}},
		{"block", "a bad word", []string{"error rpc error: code = InvalidArgument desc = Request blocked by content filter", "error rpc error: code = InvalidArgument desc = Request blocked by content filter", "5 bytes", "error rpc error: "}},
		{"block", githubToken, []string{"error rpc error: code = PermissionDenied desc = a secret (github-token) was found", "error rpc error: code = PermissionDenied", "5 bytes", "error rpc error: "}},
	} {
		r := h.run(h.command(h.execBy(client, "say", c.host+".example.com:"+portGRPC, c.text)...))
		lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
		ok := len(lines) == len(c.want)
		for i := range lines {
			ok = ok && strings.HasPrefix(lines[i], c.want[i])
		}
		if !ok {
			t.Errorf("%s, %q: %v", c.host, c.text, r)
		}
	}
}
