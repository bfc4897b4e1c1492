package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// otherRules let each protocol through in one of the ways in which a rule can
// name it.
const otherRules = `
rules:
  - name: ssh
    match: { hosts: [api.example.com], ports: [22], protocols: [tcp] }
    action: allow
  - name: mysql
    match: { cidrs: [203.0.113.11/32], ports: [3306], protocols: [tcp] }
    action: allow
  - name: whatever
    match: { cidrs: [203.0.113.13/32], ports: [2222] }
    action: allow
    handling: tunnel
  - name: smtp
    match: { hosts: [api.example.com], ports: [25], protocols: [tcp] }
    action: allow
  - name: postgres
    match: { hosts: [api.example.com], ports: [5432], protocols: [tcp] }
    action: allow
  - name: imaps
    match: { hosts: [api.example.com], ports: [993], protocols: [tls] }
    action: allow
  - name: mqtt
    match: { hosts: [api.example.com], ports: [8883], protocols: [tls] }
    action: allow
    handling: tunnel
  - name: web
    match: { hosts: [api.example.com], ports: [443] }
    action: allow
`

// greeting is a server that speaks first and then echoes lines.
func greeting(text string) func(net.Conn) {
	return func(c net.Conn) {
		io.WriteString(c, text)
		io.Copy(c, c)
	}
}

// TestServersThatSpeakFirst: their greetings come at once where a rule lets them
// through, by name and port or by address, and not at all where none does.
func TestServersThatSpeakFirst(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for port, text := range map[int]string{
		22: "SSH-2.0-OpenSSH_9.2\r\n", 25: "220 mail ESMTP\r\n", 3306: "\x4a\x00\x00\x00\x0a8.0.32\x00\r\n", 2222: "SSH-2.0-other\r\n", 2525: "220 secret\r\n",
	} {
		h.net.serveTCP(port, greeting(text))
	}
	const client = `
import socket, time
for name, port in [('api.example.com', 22), ('203.0.113.11', 3306), ('203.0.113.13', 2222), ('api.example.com', 25), ('api.example.com', 2525), ('203.0.113.12', 3306)]:
    best, got = 9, b''
    for _ in range(10):
        s = socket.create_connection((name, port))
        s.settimeout(15)
        begin = time.time()
        try:
            got = s.recv(100)
            best = min(best, time.time() - begin)
            s.sendall(b'\x01 hello\r\n')
            assert s.recv(100) == b'\x01 hello\r\n'
        except ConnectionResetError:
            got = b'reset'
            break
        finally:
            s.close()
        if best < 0.3: break
    print(name, port, got.split(b'\r')[0], 'at once' if best < 0.3 else 'late' if best < 9 else '-', flush=True)
`
	// At once is before the gate would give up to wait for the client's first bytes.
	begin := time.Now()
	r := h.run(h.command(h.exec(h.config("timeouts: { sniff: 1s }\n"+otherRules), "python3", "-c", client)...))
	const want = `api.example.com 22 b'SSH-2.0-OpenSSH_9.2' at once
203.0.113.11 3306 b'J\x00\x00\x00\n8.0.32\x00' at once
203.0.113.13 2222 b'SSH-2.0-other' at once
api.example.com 25 b'220 mail ESMTP' at once
api.example.com 2525 b'reset' -
203.0.113.12 3306 b'reset' -
`
	if r.stdout != want || r.code != 0 {
		t.Errorf("after %v: %v", time.Since(begin), r)
	}
	for _, rule := range []string{"ssh", "mysql", "whatever", "smtp"} {
		h.waitAudit("the tunnel by "+rule, func(e *audit.Event) bool {
			return e.Kind == audit.FlowClose && e.TLS.Handling == "tunnel" && e.Counters.Upstream.BytesReceived > 0
		})
		h.waitAudit("the opening by "+rule, func(e *audit.Event) bool {
			return e.Kind == audit.FlowOpen && e.Rule == rule && e.TLS.Handling == "tunnel"
		})
	}
	h.waitAudit("the refusal", func(e *audit.Event) bool {
		return e.Kind == audit.Refused && e.Dst.Port == 2525 && e.Reason == "no_rule"
	})
}

// TestTLSThatIsNotHTTP: TLS whose ALPN names another protocol passes untouched
// where a rule tunnels it; TLS that names none and carries a server that speaks
// first passes behind our certificate. Where no rule lets it through, nothing
// comes of it.
func TestTLSThatIsNotHTTP(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for port, alpn := range map[int][]string{993: nil, 8883: {"mqtt"}, 9999: {"mqtt"}} {
		h.net.serveTCP(port, func(c net.Conn) {
			s := tls.Server(c, &tls.Config{GetCertificate: h.net.ca.Certificate, NextProtos: alpn})
			greeting("* OK ready\r\n")(s)
		})
	}
	const client = `
import socket, ssl
for port, alpn in [(993, []), (8883, ['mqtt']), (9999, ['mqtt'])]:
    context = ssl.create_default_context()
    if alpn: context.set_alpn_protocols(alpn)
    try:
        s = context.wrap_socket(socket.create_connection(('api.example.com', port)), server_hostname='api.example.com')
        issuer = dict(x[0] for x in s.getpeercert()['issuer'])['commonName']
        got = s.recv(100)
        s.sendall(b'\x01 hello\r\n')
        assert s.recv(100) == b'\x01 hello\r\n'
        print(port, got, 'sallyport' if 'sallyport' in issuer.lower() else 'its own', s.selected_alpn_protocol())
    except (ssl.SSLError, OSError) as e:
        print(port, 'ALERT' if 'alert' in str(e).lower() else e)
`
	r := h.run(h.command(h.exec(h.config(otherRules), "python3", "-c", client)...))
	const want = `993 b'* OK ready\r\n' sallyport None
8883 b'* OK ready\r\n' its own mqtt
9999 ALERT
`
	if r.stdout != want || r.code != 0 {
		t.Errorf("%v", r)
	}
}

// TestPostgreSQL: psql at a real server through a tunnel, in the clear and with
// TLS that both ends negotiate inside it.
func TestPostgreSQL(t *testing.T) {
	t.Parallel()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		t.Fatal("no PostgreSQL server: apt-get install postgresql")
	}
	bin := filepath.Dir(found[len(found)-1])
	h := newHost(t)
	// The server does not run as root, and its socket directory is its own.
	dir, err := os.MkdirTemp("/var/tmp", "sallyport-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	key, cert := h.net.leafFiles(dir, "api.example.com")
	prepare := fmt.Sprintf(`set -e; chown -R postgres %[1]s; chmod 700 %[1]s; chmod 600 %[2]s
cd %[1]s; runuser -u postgres -- %[3]s/initdb -D %[1]s/data --auth=trust --no-sync >/dev/null
echo "host all all 0.0.0.0/0 trust" >> data/pg_hba.conf; cp %[2]s data/server.key; cp %[4]s data/server.crt; chown postgres data/server.*; chmod 600 data/server.key`, dir, key, bin, cert)
	if out, err := exec.Command("bash", "-c", prepare).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	server := exec.Command("runuser", "-u", "postgres", "--", bin+"/postgres", "-D", dir+"/data", "-h", originV4, "-k", dir, "-c", "ssl=on", "-c", "fsync=off")
	server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out := &syncBuffer{}
	server.Stdout, server.Stderr = out, out
	inNetns(t, h.net.ns, func() { err = server.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-server.Process.Pid, syscall.SIGINT)
		server.Wait()
	})
	eventually(t, 20*time.Second, "PostgreSQL is ready", func() bool {
		return strings.Contains(out.String(), "ready to accept connections")
	})
	conf := h.config(otherRules)
	for _, mode := range []string{"disable", "require", "verify-full"} {
		query := `select coalesce((select ssl::text from pg_stat_ssl where pid = pg_backend_pid()), '?'), sum(n), length(repeat('x', 3000000)) from generate_series(1, 100000) n`
		c := h.command(h.exec(conf, "psql", "-XAt", "host=api.example.com user=postgres dbname=postgres sslrootcert=/usr/local/share/ca-certificates/internet.crt sslmode="+mode, "-c", query)...)
		want := "true|5000050000|3000000\n"
		if mode == "disable" {
			want = strings.Replace(want, "true", "false", 1)
		}
		if r := h.run(c); r.stdout != want || r.code != 0 {
			t.Errorf("sslmode=%s: %v", mode, r)
		}
	}
	e := h.waitAudit("the tunnel", func(e *audit.Event) bool { return e.Kind == audit.FlowOpen && e.Rule == "postgres" })
	if e.Dst.Host != "api.example.com" || e.TLS.Handling != "tunnel" || e.Upstream.Target != "api.example.com:5432" {
		t.Errorf("%+v", e)
	}
	// No rule, no connection.
	if r := h.run(h.command(h.exec(h.config(webRules+"    # nothing else\n"), "psql", "-XAt", "host=203.0.113.12 port=5432 user=postgres sslmode=disable connect_timeout=10", "-c", "select 1")...)); r.code == 0 {
		t.Errorf("%v", r)
	}
}

// TestSMTP: a mail by Python's smtplib with STARTTLS inside a tunnel.
func TestSMTP(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	mails := make(chan string, 1)
	h.net.serveTCP(25, func(c net.Conn) { serveSMTP(c, &tls.Config{GetCertificate: h.net.ca.Certificate}, mails) })
	const client = `
import smtplib, ssl
with smtplib.SMTP('api.example.com', 25, timeout=20) as s:
    s.starttls(context=ssl.create_default_context())
    s.sendmail('a@example.com', ['b@example.com'], 'Subject: gate\r\n\r\nthrough the gate\r\n' + 'x' * 70 + '\r\n')
print('sent')
`
	r := h.run(h.command(h.exec(h.config(otherRules), "python3", "-c", client)...))
	if r.stdout != "sent\n" || r.code != 0 {
		t.Fatalf("%v", r)
	}
	if mail := <-mails; !strings.Contains(mail, "through the gate") {
		t.Errorf("%q", mail)
	}
}

// serveSMTP is what smtplib needs of RFC 5321 and RFC 3207.
func serveSMTP(c net.Conn, config *tls.Config, mails chan<- string) {
	r := bufio.NewReader(c)
	say := func(text string) { io.WriteString(c, text+"\r\n") }
	secure := false
	say("220 api.example.com ESMTP")
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		switch verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(line)), " "); verb {
		case "EHLO":
			if secure {
				say("250 api.example.com")
				continue
			}
			say("250-api.example.com\r\n250 STARTTLS")
		case "STARTTLS":
			say("220 go ahead")
			c = tls.Server(c, config)
			r, secure = bufio.NewReader(c), true
		case "DATA":
			say("354 go ahead")
			var mail strings.Builder
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				mail.WriteString(line)
			}
			if secure {
				mails <- mail.String()
			}
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 well")
		}
	}
}
