package e2e

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"sallyport/pkg/audit"
)

// sClient is a line of shell that runs OpenSSL's s_client against a host and
// asks it for a page.
func sClient(host, options string) string {
	return fmt.Sprintf(`printf 'GET /s_client HTTP/1.1\r\nHost: %[1]s\r\nConnection: close\r\n\r\n' | timeout 40 openssl s_client -ign_eof -connect %[1]s:443 -CApath /etc/ssl/certs -verify_return_error -verify_hostname %[1]s %[2]s 2>&1`, host, options)
}

// sCommands is one that gives commands to s_client while it is connected, each by
// itself: what follows a command in the same read is thrown away. said waits for a word
// of s_client's.
func sCommands(version, commands string) string {
	return `: > /srv/s/said; said() { for i in $(seq 400); do grep -q "$1" /srv/s/said && return; sleep 0.05; done; }; ` +
		`(said 'Verify return code'; ` + commands + `) | timeout 40 openssl s_client -connect api.example.com:443 ` + version + ` -CApath /etc/ssl/certs > /srv/s/said 2>&1; cat /srv/s/said`
}

// sections runs lines of shell in one workload and gives what each wrote.
func (h *host) sections(policy string, lines []string) []string {
	h.t.Helper()
	const mark = "=====next====="
	r := h.run(h.command(h.exec(policy, "bash", "-c", strings.Join(lines, "\necho "+mark+"\n"))...))
	parts := strings.Split(r.stdout, mark+"\n")
	if len(parts) != len(lines) {
		h.t.Fatalf("%d answers to %d lines: %v", len(parts), len(lines), r)
	}
	return parts
}

// TestOddClients covers what OpenSSL's s_client can make of a ClientHello: each
// either ends in a verified page or in the alert that fits.
func TestOddClients(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.net.bigTickets("9447", 20000)
	if r := h.sh(`mkdir -p /srv/s; echo | timeout 40 openssl s_client -connect api.example.com:9447 -servername api.example.com -tls1_2 -sess_out /srv/s/big12 2>&1 | grep -c 'TLS session ticket:'; chmod -R a+rwx /srv/s; ls -l /srv/s`); !strings.Contains(r.stdout, "big12") {
		t.Fatalf("no session with a huge ticket: %v", r)
	}
	const api = "api.example.com"
	page := []string{"Verification: OK", "HTTP/1.1 200"}
	tests := []struct {
		name, line string
		// want are parts of the output, refused of none.
		want, never []string
	}{
		{"TLS 1.2 only", sClient(api, "-tls1_2"), append([]string{"Protocol  : TLSv1.2"}, page...), nil},
		{"TLS 1.3 only", sClient(api, "-tls1_3"), append([]string{"New, TLSv1.3"}, page...), nil},
		{"TLS 1.1", sClient(api, "-tls1_1 -cipher DEFAULT@SECLEVEL=0"), []string{"alert protocol version"}, []string{"HTTP/1.1"}},
		{"no SNI", sClient(api, "-noservername"), page, nil},
		{"an address as SNI", strings.Replace(sClient(api, "-servername "+originV6), "-verify_hostname "+api, "-verify_ip "+originV6, 1), []string{"Verification: OK", "HTTP/1.1 403", "name_mismatch"}, nil},
		{"no SNI, an address", strings.Replace(sClient(api, "-noservername"), "-verify_hostname "+api, "-verify_ip "+originV6, 1), page, nil},
		{"SNI in capitals", sClient(api, "-servername API.Example.COM"), page, nil},
		{"SNI with a final dot", sClient(api, "-servername api.example.com."), []string{"alert number 112"}, []string{"HTTP/1.1"}},
		{"SNI that is no name", sClient(api, "-servername 'api example'"), []string{"alert number 112"}, []string{"HTTP/1.1"}},
		{"every cipher there is", sClient(api, "-cipher ALL:COMPLEMENTOFALL:@SECLEVEL=0"), page, nil},
		{"P-256 only", sClient(api, "-groups P-256"), page, nil},
		{"P-384 only", sClient(api, "-groups P-384"), page, nil},
		{"P-521 first", sClient(api, "-groups P-521:X25519"), page, nil},
		{"no group of ours", sClient(api, "-tls1_3 -groups ffdhe2048"), []string{"alert"}, []string{"HTTP/1.1"}},
		{"small records", sClient(api, "-max_send_frag 512 -cipher ALL:COMPLEMENTOFALL:@SECLEVEL=0"), page, nil},
		{"maximum fragment length", sClient(api, "-maxfraglen 512"), page, nil},
		{"ALPN http/1.1", sClient(api, "-alpn http/1.1"), append([]string{"ALPN protocol: http/1.1"}, page...), nil},
		{"ALPN http/1.0 and odd ones", sClient(api, "-alpn http/1.1,foo,http/0.9"), append([]string{"ALPN protocol: http/1.1"}, page...), nil},
		{"OCSP asked for", sClient(api, "-status"), page, nil},
		{"a huge ticket of another server", sClient(api, "-tls1_2 -sess_in /srv/s/big12"), append([]string{"New, TLSv1.2"}, page...), nil},
		{"a session", sClient(api, "-tls1_3 -sess_out /srv/s/a13"), append([]string{"New, TLSv1.3"}, page...), nil},
		{"the session resumed", sClient(api, "-tls1_3 -sess_in /srv/s/a13"), []string{"Reused, TLSv1.3", "HTTP/1.1 200"}, nil},
		{"the session with another name", sClient("other.example.com", "-tls1_3 -sess_in /srv/s/a13"), append([]string{"New, TLSv1.3"}, page...), nil},
		{"early data", "printf 'GET /early HTTP/1.1\r\nHost: api.example.com\r\n\r\n' > /srv/s/early; " + sClient(api, "-tls1_3 -sess_in /srv/s/a13 -early_data /srv/s/early"), []string{"HTTP/1.1 200"}, []string{"Early data was accepted"}},
		{"a session of TLS 1.2", sClient(api, "-tls1_2 -sess_out /srv/s/a12"), append([]string{"New, TLSv1.2"}, page...), nil},
		{"that resumed", sClient(api, "-tls1_2 -sess_in /srv/s/a12"), []string{"Reused, TLSv1.2", "HTTP/1.1 200"}, nil},
		{"renegotiation", sCommands("-tls1_2", `printf 'R\n'; said RENEGOTIATING; sleep 1; printf 'GET /after HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n'; sleep 0.4`),
			[]string{"RENEGOTIATING"}, []string{"HTTP/1.1 200"}},
		{"renegotiation to TLS 1.3's key update", sCommands("-tls1_3", `printf 'K\n'; said KEYUPDATE; printf 'GET /s_client HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n'; said HTTP/1.1`),
			[]string{"KEYUPDATE", "HTTP/1.1 200"}, nil},
		{"hello in records of one byte", "python3 /srv/s/split.py api.example.com 443 1 0", []string{"HTTP/1.1 200"}, nil},
		{"in records and segments of one byte", "python3 /srv/s/split.py api.example.com 443 1 1", []string{"HTTP/1.1 200"}, nil},
		{"in segments of one byte", "python3 /srv/s/split.py api.example.com 443 16384 1", []string{"HTTP/1.1 200"}, nil},
		{"of 50 KB in records of 100", "python3 /srv/s/split.py api.example.com 443 100 1400 200", []string{"HTTP/1.1 200"}, nil},
	}
	b, err := os.ReadFile("testdata/tls/split.py")
	if err != nil {
		t.Fatal(err)
	}
	h.write("/srv/s/split.py", string(b))
	lines := make([]string, len(tests))
	for i, tt := range tests {
		lines[i] = tt.line
	}
	out := h.sections(h.config("default: allow\nrules: [{name: all, match: {protocols: [tcp]}, action: allow}]"), lines)
	for i, tt := range tests {
		for _, want := range tt.want {
			if !strings.Contains(out[i], want) {
				t.Errorf("%s: no %q in\n%s", tt.name, want, tail(out[i]))
			}
		}
		for _, never := range tt.never {
			if strings.Contains(out[i], never) {
				t.Errorf("%s: %q in\n%s", tt.name, never, tail(out[i]))
			}
		}
	}
	for _, s := range h.net.seen() {
		if s.Path == "/early" || s.Path == "/after" {
			t.Errorf("%s reached the upstream", s.Path)
		}
	}
	if e := h.waitAudit("the refused names", func(e *audit.Event) bool {
		return e.Kind == audit.Refused && strings.Contains(e.Message, "server name")
	}); e.Reason != "malformed_request" {
		t.Errorf("%+v", e)
	}
}

func tail(s string) string {
	const most = 1500
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// bigTickets serves TLS whose session tickets have that many bytes.
func (n *internet) bigTickets(port string, size int) {
	inNetns(n.t, n.ns, func() {
		ln := n.listen(":" + port)
		config := &tls.Config{GetCertificate: n.ca.Certificate, WrapSession: func(tls.ConnectionState, *tls.SessionState) ([]byte, error) { return make([]byte, size), nil }}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func(c net.Conn) {
					defer c.Close()
					t := tls.Server(c, config)
					if t.Handshake() == nil {
						t.Read(make([]byte, 1))
					}
				}(c)
			}
		}()
	})
}

// TestUpstreamSessions: the second connection to an upstream resumes the session
// of the first, in both versions of TLS, and that of another name does not.
func TestUpstreamSessions(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		port := fmt.Sprint(9450 + int(version&0xf))
		h.net.tellsResumption(port, version)
		ask := func(name string) string { return "curl --http1.1 -sS https://" + name + ":" + port + "/; echo" }
		out := h.sections(h.config("default: allow\nrules: [{name: all, match: {protocols: [tcp]}, action: allow}]"), []string{ask("api.example.com"), ask("api.example.com"), ask("other.example.com")})
		if got := strings.Join(strings.Fields(strings.Join(out, " ")), " "); got != "false true false" {
			t.Errorf("%s: resumed %s, want false true false", tls.VersionName(version), got)
		}
	}
}

// tellsResumption answers whether the connection resumed a session, and closes
// it.
func (n *internet) tellsResumption(port string, version uint16) {
	inNetns(n.t, n.ns, func() {
		ln := n.listen(":" + port)
		config := &tls.Config{GetCertificate: n.ca.Certificate, MaxVersion: version, NextProtos: []string{"http/1.1"}}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func(c net.Conn) {
					defer c.Close()
					t := tls.Server(c, config)
					buf := make([]byte, 4096)
					if _, err := t.Read(buf); err != nil {
						return
					}
					text := fmt.Sprint(t.ConnectionState().DidResume)
					fmt.Fprintf(t, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(text), text)
					t.CloseWrite()
					t.Read(buf)
				}(c)
			}
		}()
	})
}
