package e2e

import (
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

// TestCallersIdentifyThemselves: without the secret nothing leaves, in observe
// mode neither; with it the secret stays here.
func TestCallersIdentifyThemselves(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write("/srv/secret", "s3cret-of-callers\n")
	h.sh("chmod 600 /srv/secret")
	h.startDaemon(h.config(`
rules:
  - { name: asks, match: { hosts: [api.example.com] }, action: allow, auth: { header: X-Caller, secret_file: /srv/secret } }
  - { name: watches, match: { hosts: [other.example.com] }, action: allow, mode: observe, auth: { header: X-Caller, secret_file: /srv/secret } }
`))
	for _, c := range []struct {
		name, options, want string
		origin              bool
	}{
		{"absent", "", `401 auth_required Key realm="sallyport"`, false},
		{"right", "-H 'X-Caller: s3cret-of-callers'", "200", true},
		{"another case", "-H 'x-CALLER: s3cret-of-callers'", "200", true},
		{"wrong", "-H 'X-Caller: s3cret-of-caller'", "403 auth_denied", false},
		{"repeated", "-H 'X-Caller: s3cret-of-callers' -H 'X-Caller: s3cret-of-callers'", "403 auth_denied", false},
		{"JSON-RPC", `-H 'Content-Type: application/json' -d '{"jsonrpc":"2.0","id":1,"method":"x"}'`, `200 auth_required Key realm="sallyport"`, false},
	} {
		for _, url := range []string{"https://api.example.com/a", "https://other.example.com:8443/a", "http://api.example.com/a"} {
			for _, version := range []string{"--http1.1", "--http2"} {
				before := len(h.net.seen())
				line := fmt.Sprintf(`curl -sS -o /dev/null %s -w '%%{http_code} %%header{x-sallyport-reason} %%header{www-authenticate}' %s %s`, version, c.options, url)
				r := h.run(h.command(h.execBy("bash", "-c", line)...))
				if strings.TrimSpace(r.stdout) != c.want {
					t.Errorf("%s %s %s: %v", c.name, url, version, r)
				}
				seen := h.net.seen()[before:]
				if len(seen) != 0 && !c.origin || len(seen) != 1 && c.origin {
					t.Errorf("%s: the origin saw %+v", c.name, seen)
				}
				for _, s := range seen {
					if s.Header.Get("X-Caller") != "" {
						t.Errorf("%s: the secret left: %v", c.name, s.Header)
					}
				}
			}
		}
	}
	h.waitAudit("a refusal in observe mode", func(e *audit.Event) bool {
		return e.Rule == "watches" && e.Verdict == "deny" && e.Reason == "auth_denied"
	})
	if text := h.read("/var/log/sallyport/audit.jsonl"); strings.Contains(text, "s3cret-of") {
		t.Error("the secret is in the audit")
	}
	page := h.metricsPage()
	for _, want := range []string{`reason="auth_required",rule="asks"`, `reason="auth_denied",rule="asks"`} {
		if !strings.Contains(page, want) {
			t.Errorf("not counted: %s", want)
		}
	}
}

// TestHeaderChanges: fields on both ways, for HTTP/1.1, HTTP/2 and the opening of
// a WebSocket; without a rule nothing is added.
func TestHeaderChanges(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.net.setHandler(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "origin/1")
		w.Header().Add("X-Kept", "1")
		if r.Header.Get("Upgrade") != "" {
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nServer: origin/1\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
			rw.Flush()
			// A Close frame.
			c.Write([]byte{0x88, 2, 3, 0xe8})
			io.Copy(io.Discard, c)
			return
		}
		io.WriteString(w, "ok")
	})
	const changes = `
    headers:
      request:
        set: { X-Forwarded-For: "{forwarded_for}", X-Real-IP: "{client_ip}", X-What: "{workload} {rule} {method} {scheme}://{host}:{port}{path}?{query} {none}" }
        add: { X-Tag: two }
        remove: [User-Agent, Cookie]
      response:
        set: { X-By: "{workload}" }
        add: { X-Kept: "2" }
        remove: [Server]
`
	h.startDaemon(h.config(`
rules:
  - name: changes
    match: { hosts: [api.example.com] }
    action: allow` + changes + `
  - name: watches
    match: { hosts: [other.example.com] }
    action: allow
    mode: observe` + changes))
	ask := func(url, options string) (string, seenRequest) {
		before := len(h.net.seen())
		r := h.run(h.command(h.execBy("bash", "-c", "curl -sS -m 10 -D - -o /dev/null -H 'X-Tag: one' -H 'Cookie: a=b' -H 'X-Forwarded-For: 192.0.2.7' "+options+" '"+url+"'")...))
		seen := h.net.seen()[before:]
		if len(seen) != 1 {
			t.Fatalf("%s %s: %d requests: %v", url, options, len(seen), r)
		}
		return strings.ToLower(r.stdout), seen[0]
	}
	const upgrade = " --http1.1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='"
	for _, options := range []string{"--http1.1", "--http2", upgrade} {
		head, seen := ask("https://api.example.com/a%20b?c=d&e", options)
		for name, want := range map[string]string{
			"X-Forwarded-For": "192.0.2.7, LO", "X-Real-Ip": "LO", "X-Tag": "one|two", "User-Agent": "", "Cookie": "",
			"X-What": "bash changes GET https://api.example.com:443/a%20b?c=d&e {none}",
		} {
			// The workload's end of a redirected connection is on loopback.
			if got := strings.Join(seen.Header.Values(name), "|"); got != strings.ReplaceAll(want, "LO", "127.0.0.1") && got != strings.ReplaceAll(want, "LO", "::1") {
				t.Errorf("%s: %s is %q, want %q", options, name, got, want)
			}
		}
		if !strings.Contains(head, "x-by: bash\r\n") || strings.Contains(head, "origin/1") || !strings.Contains(head, "x-kept: 2\r\n") {
			t.Errorf("%s: %s", options, head)
		}
	}
	for _, options := range []string{"--http1.1", "--http2"} {
		head, seen := ask("https://other.example.com:8443/", options)
		if got := strings.Join(seen.Header.Values("X-Tag"), "|"); got != "one" || seen.Header.Get("Cookie") != "a=b" || seen.Header.Get("X-Forwarded-For") != "192.0.2.7" || seen.Header.Get("X-Real-Ip") != "" {
			t.Errorf("observed, and changed: %v", seen.Header)
		}
		if strings.Contains(head, "x-by") || !strings.Contains(head, "origin/1") {
			t.Errorf("observed, and changed: %s", head)
		}
	}
}

const recordRules = `
rules:
  - name: recorded
    match: { hosts: [api.example.com] }
    action: allow
    log: { request_body: true, response_body: true, max_body: 8KiB, redact: ["$.password", "$..token", "$.list[*].pin", "header:X-Custom"] }
  - name: bare
    match: { hosts: [other.example.com] }
    action: allow
`

// serveRecorded answers with JSON that holds what must not be recorded, in the
// coding that the path names, or as events.
func (n *internet) serveRecorded() {
	n.setHandler(func(w http.ResponseWriter, r *http.Request) {
		const text = `{"ok":true,"Password":"hunter2-response","list":[{"pin":"hunter2-list"},{"x":1}],"note":"` + githubToken + `"}`
		w.Header().Set("Set-Cookie", "sid=hunter2-cookie")
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/gzip":
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			io.WriteString(z, text)
			z.Close()
		case "/br":
			w.Header().Set("Content-Encoding", "br")
			z := brotli.NewWriter(w)
			io.WriteString(z, text)
			z.Close()
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(w, "data: {\"n\":%d,\"token\":\"hunter2-event\"}\n\n", i)
				http.NewResponseController(w).Flush()
				time.Sleep(20 * time.Millisecond)
			}
		case "/long":
			io.WriteString(w, `{"x":"`+strings.Repeat("word ", 4000)+`","password":"hunter2-late"}`)
		default:
			io.WriteString(w, text)
		}
	})
}

// TestRecordedBodies: what curl, Python and Node send and get is in the audit,
// decoded, and what is to be redacted is nowhere in it.
func TestRecordedBodies(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.net.serveRecorded()
	h.startDaemon(h.config(recordRules))
	const body = `{"user":"u","PASSWORD":"hunter2-request","a":{"token":"hunter2-deep"}}`
	const sent = `{"user":"u","PASSWORD":"[redacted]","a":{"token":"[redacted]"}}`
	const got = `{"ok":true,"Password":"[redacted]","list":[{"pin":"[redacted]"},{"x":1}],"note":"[redacted:github-token]"}`
	h.write("/srv/body", body)
	h.write("/srv/batch", "["+body+","+body+"]")
	h.write("/srv/ask.py", `
import requests
r = requests.post("https://api.example.com/gzip?python", data=open("/srv/body"), headers={"Content-Type": "application/json", "X-Custom": "hunter2-custom", "Authorization": "Bearer hunter2-bearer"})
assert r.json()["Password"] == "hunter2-response", r.text
assert r.headers["Set-Cookie"] == "sid=hunter2-cookie"
`)
	h.write("/srv/ask.mjs", `
import { readFileSync } from "fs"
const r = await fetch("https://api.example.com/br?node", { method: "POST", body: readFileSync("/srv/body"), headers: { "Content-Type": "application/json", "X-Custom": "hunter2-custom" } })
if ((await r.json()).Password != "hunter2-response") process.exit(3)
`)
	curl := func(options, path string) string {
		return "curl -sS -o /dev/null " + options + " -H 'X-Custom: hunter2-custom' -H 'Content-Type: application/json' 'https://api.example.com" + path + "'"
	}
	for _, c := range []struct {
		name, line, query, request, response string
		truncated                            bool
	}{
		{"curl", curl("--http1.1 -d @/srv/body", "/plain?curl1"), "curl1", sent, got, false},
		{"curl, HTTP/2", curl("--http2 -d @/srv/body", "/gzip?curl2"), "curl2", sent, got, false},
		{"curl, chunked", curl("--http1.1 -H 'Transfer-Encoding: chunked' -d @/srv/body", "/plain?curl3"), "curl3", sent, got, false},
		{"curl, zipped", "gzip -c /srv/body > /srv/body.gz; " + curl("-H 'Content-Encoding: gzip' --data-binary @/srv/body.gz", "/plain?curl4"), "curl4", sent, got, false},
		{"a batch", curl("-d @/srv/batch", "/plain?curl5"), "curl5", "[" + sent + "," + sent + "]", got, false},
		{"events", curl("-N", "/events?curl6"), "curl6", "", "data: {\"n\":0,\"token\":\"[redacted]\"}\n\ndata: {\"n\":1,\"token\":\"[redacted]\"}\n\ndata: {\"n\":2,\"token\":\"[redacted]\"}\n\n", false},
		{"long", curl("", "/long?curl7"), "curl7", "", `{"x":"word word`, true},
		{"Python", "python3 /srv/ask.py", "python", sent, got, false},
		{"Node", "node /srv/ask.mjs", "node", sent, got, false},
	} {
		if r := h.run(h.command(h.execBy("bash", "-c", c.line)...)); r.code != 0 {
			t.Errorf("%s: %v", c.name, r)
			continue
		}
		e := h.waitAudit(c.name, func(e *audit.Event) bool { return e.Kind == audit.Exchange && e.HTTP.Query == c.query })
		if e.HTTP.RequestBody != c.request {
			t.Errorf("%s: request body %q", c.name, e.HTTP.RequestBody)
		}
		if c.truncated != e.HTTP.Truncated || e.HTTP.ResponseBody != c.response && !(c.truncated && strings.HasPrefix(e.HTTP.ResponseBody, c.response) && len(e.HTTP.ResponseBody) > 8000) {
			t.Errorf("%s: response body %q, truncated %v", c.name, e.HTTP.ResponseBody, e.HTTP.Truncated)
		}
		of := func(list []audit.Header, name string) string {
			for _, f := range list {
				if f.Name == name {
					return f.Value
				}
			}
			return "none"
		}
		if of(e.HTTP.RequestHeaders, "x-custom") != "[redacted]" || of(e.HTTP.ResponseHeaders, "set-cookie") != "[redacted]" || of(e.HTTP.ResponseHeaders, "content-type") == "none" {
			t.Errorf("%s: %v %v", c.name, e.HTTP.RequestHeaders, e.HTTP.ResponseHeaders)
		}
	}
	// The trace passes as it is and is in the event, also without the stage.
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	r := h.run(h.command(h.execBy("curl", "-sS", "-o", "/dev/null", "-H", "traceparent: "+trace, "-H", "tracestate: a=b", "-d", "hunter2-unrecorded", "https://other.example.com:8443/trace")...))
	seen := h.net.seen()
	if last := seen[len(seen)-1]; r.code != 0 || last.Header.Get("Traceparent") != trace || last.Header.Get("Tracestate") != "a=b" || last.Header.Get("X-Forwarded-For") != "" {
		t.Errorf("%v: %v", r, last.Header)
	}
	e := h.waitAudit("the trace", func(e *audit.Event) bool { return e.HTTP.Path == "/trace" })
	if e.Traceparent != trace || e.HTTP.RequestBody != "" || e.HTTP.RequestHeaders != nil {
		t.Errorf("%+v", e)
	}
	if text := h.read("/var/log/sallyport/audit.jsonl"); strings.Contains(text, "hunter2") || strings.Contains(text, githubToken) {
		at := max(strings.Index(text, "hunter2"), strings.Index(text, githubToken))
		t.Errorf("a secret is in the audit: %s", text[max(0, at-200):min(len(text), at+100)])
	}
}

// journal stands in for systemd-journald: it reads datagrams of the native
// protocol.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (h *host) startJournal() *journal {
	h.t.Helper()
	path := h.path("/run/systemd/journal/socket")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	j := &journal{}
	go func() {
		buf, oob := make([]byte, 1<<20), make([]byte, 256)
		for {
			n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
			if err != nil {
				return
			}
			entry := buf[:n]
			if oobn > 0 {
				entry = readPassed(oob[:oobn])
			}
			j.mu.Lock()
			j.text.Write(entry)
			j.mu.Unlock()
		}
	}()
	return j
}

// readPassed reads the file that came with a message: an entry that was too large
// for one.
func readPassed(oob []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return nil
	}
	f := os.NewFile(uintptr(fds[0]), "entry")
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	b := make([]byte, info.Size())
	n, _ := f.ReadAt(b, 0)
	return b[:n]
}

func (j *journal) has(s string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Contains(j.text.String(), s)
}

// startRsyslog starts a real rsyslogd on the host that listens at /run/audit.sock
// and TCP port 601 and writes messages to /srv/syslog.
func (h *host) startRsyslog() *exec.Cmd {
	h.t.Helper()
	h.write("/srv/rsyslog.conf", `global(workDirectory="/srv" maxMessageSize="3m")
module(load="imtcp") module(load="imuxsock" SysSock.Use="off")
input(type="imtcp" address="127.0.0.1" port="601")
input(type="imuxsock" socket="/run/audit.sock" UseSpecialParser="off")
template(name="t" type="string" string="%app-name% %msgid% %syslogfacility-text%.%syslogseverity-text%%msg%\n")
action(type="omfile" file="/srv/syslog" template="t")
`)
	c := h.command("rsyslogd", "-n", "-f", "/srv/rsyslog.conf", "-i", "/run/rsyslog.pid")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	eventually(h.t, 15*time.Second, "rsyslogd listens", func() bool {
		return h.sh("test -s /run/rsyslog.pid && test -S /run/audit.sock && ss -Hltn | grep -q 127.0.0.1:601").code == 0
	})
	return c
}

// TestAuditSinks: file, journal and syslog side by side; and what becomes of
// exchanges when one of them is away.
func TestAuditSinks(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, address string }{{"local", "/run/audit.sock"}, {"tcp", "tcp://127.0.0.1"}} {
		for _, onFailure := range []string{"block", "continue"} {
			t.Run(tt.name+" "+onFailure, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				j := h.startJournal()
				conf := h.config("mode: observe\n")
				conf = strings.Replace(conf, "audit: { file:", "audit: { sinks: [file, journald, syslog], on_failure: "+onFailure+", syslog: { address: '"+tt.address+"' }, file:", 1)
				syslogd := h.startRsyslog()
				h.startDaemon(conf)
				ask := func(path string) string {
					return h.run(h.command(h.execBy("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "https://api.example.com"+path)...)).stdout
				}
				if got := ask("/one"); got != "200" {
					t.Fatal(got)
				}
				e := h.waitAudit("in the file", func(e *audit.Event) bool { return e.HTTP.Path == "/one" })
				eventually(t, 5*time.Second, "in the journal", func() bool {
					return j.has("SALLYPORT_EVENT="+e.ID+"\nSALLYPORT_VERDICT=would_deny\n") && j.has(`"path":"/one"`)
				})
				eventually(t, 10*time.Second, "in the syslog", func() bool {
					text := h.read("/srv/syslog")
					return strings.Contains(text, "sallyport exchange authpriv.notice{") && strings.Contains(text, e.ID)
				})
				// The receiver goes away.
				h.sh("kill -9 $(cat /run/rsyslog.pid); rm -f /run/audit.sock /run/rsyslog.pid")
				syslogd.Wait()
				ask("/two")
				eventually(t, 10*time.Second, "the failure shows", func() bool {
					return strings.Contains(strings.Join(h.status().Problems, "\n"), "audit: cannot be written to syslog")
				})
				if got := ask("/three"); (got == "200") != (onFailure == "continue") {
					t.Errorf("%s: %s", onFailure, got)
				}
				eventually(t, 5*time.Second, "the file goes on", func() bool {
					// Of each of the three commands.
					return strings.Count(h.read("/var/log/sallyport/audit.jsonl"), "runs as root") == 3
				})
				eventually(t, 5*time.Second, "the failure is counted", func() bool {
					page := h.metricsPage()
					return strings.Contains(page, `sallyport_audit_failures_total{sink="syslog"} `) && !strings.Contains(page, `sallyport_audit_failures_total{sink="syslog"} 0`)
				})
				if page := h.metricsPage(); !strings.Contains(page, `sallyport_audit_failures_total{sink="file"} 0`) ||
					!strings.Contains(page, `sallyport_resource_capacity{resource="audit_queue_syslog"}`) || !strings.Contains(page, `sallyport_resource_capacity{resource="audit_queue_journald_bytes"}`) {
					t.Error(page)
				}
				// And comes back: nothing is lost.
				h.startRsyslog()
				eventually(t, 15*time.Second, "what waited is in the syslog", func() bool {
					text := h.read("/srv/syslog")
					return strings.Count(text, "runs as root") == 3 && strings.Contains(text, "the audit could not be written to syslog for")
				})
				if got := ask("/four"); got != "200" {
					t.Errorf("after its return: %s", got)
				}
			})
		}
	}
}

// TestAuditWithoutFile: the journal alone, and a reload that would change sinks.
func TestAuditWithoutFile(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	j := h.startJournal()
	conf := strings.Replace(h.config(`mode: observe
rules:
  - { name: large, match: { hosts: [api.example.com] }, action: allow, log: { response_body: true, max_body: 512KiB } }
`), "audit: { file:", "audit: { sinks: [journald], file:", 1)
	h.net.setHandler(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		if r.URL.Path == "/large" {
			io.WriteString(w, strings.Repeat("many words ", 40_000)+"to the end")
		}
	})
	h.startDaemon(conf)
	if r := h.run(h.command(h.execBy("curl", "-sS", "-o", "/dev/null", "https://api.example.com/only")...)); r.code != 0 {
		t.Fatal(r)
	}
	eventually(t, 5*time.Second, "in the journal", func() bool { return j.has(`"path":"/only"`) })
	h.run(h.command(h.execBy("curl", "-sS", "-o", "/dev/null", "https://api.example.com/large")...))
	eventually(t, 5*time.Second, "a large one is in the journal", func() bool { return j.has(`many words to the end"`) })
	if text := h.read("/var/log/sallyport/audit.jsonl"); text != "" {
		t.Errorf("a file was written: %s", text)
	}
	if r := h.run(h.sallyport("tail", "--config", daemonConfig)); !strings.Contains(r.stdout, "/only") {
		t.Errorf("tail: %v", r)
	}
	h.write(daemonConfig, strings.Replace(conf, "sinks: [journald]", "sinks: [file]", 1))
	if r := h.run(h.sallyport("reload", "--config", daemonConfig)); r.code == 0 || !strings.Contains(r.stderr, "audit.sinks cannot change while running") {
		t.Errorf("reload: %v", r)
	}
}
