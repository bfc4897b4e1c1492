package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// A peer is a proxy that sallyport is compared with.
type peer struct {
	processes []int
	lines     func() (int, error) // log lines that it has written so far
}

// peers are those that sallyport is compared with, at a site without
// sallyport, and the client of that site.
type peers struct {
	site           *site
	client         *client
	nginx, haproxy peer
	// sslsplit comes with an RSA key for its leaves, levelSplit has one of P-256
	// like everybody else.
	sslsplit, levelSplit peer
}

// Where the peers listen, on their site's loopback.
const (
	nginxPort      = 8443
	haproxyH2Port  = 8444
	haproxyH1Port  = 8445
	sslsplitPort   = 8446
	levelSplitPort = 8447
	loopback       = "127.0.0.1"
	nginxLog       = "/var/log/nginx-proxy.jsonl"
	sslsplitLog    = "/var/log/sslsplit.log"
	levelSplitLog  = "/var/log/sslsplit-level.log"
	startPatience  = 5 * time.Second
	stopPatience   = 2 * time.Second
	haproxyBackLog = 16384
)

// The proxy is set up for speed: keep-alive upstream, one read buffer as large
// as a TLS record, never a temporary file.
const nginxProxy = nginxCommon + `  log_format json escape=json '{"time":"$time_iso8601","remote":"$remote_addr","host":"$host","method":"$request_method","path":"$request_uri","status":$status,"request_bytes":$request_length,"response_bytes":$body_bytes_sent,"duration":$request_time,"upstream":"$upstream_addr","upstream_duration":"$upstream_response_time","tls":"$ssl_protocol","sni":"$ssl_server_name"}';
  access_log %[4]s json buffer=64k flush=1s;
  upstream origin { server %[2]s:443; keepalive 256; keepalive_requests 1000000000; }
  server {
    listen %[3]s ssl;
    location / {
      proxy_pass https://origin;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_ssl_server_name on;
      proxy_ssl_name $host;
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate /etc/ssl/certs/ca-certificates.crt;
      proxy_ssl_protocols TLSv1.3;
      proxy_buffer_size 16k;
      proxy_buffers 8 16k;
      proxy_max_temp_file_size 0;
    }
  }
}
`

// HAProxy has no buffered log file. The nearest is a ring in memory from which
// lines go out in batches by TCP: cheaper for it than a datagram or a write for
// each line. One thread; leaves are signed with the key of the default
// certificate and cached, upstream connections are shared by all.
const haproxyProxy = `global
  nbthread 1
  maxconn 8000
  log ring@requests format raw local0 info
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
  ssl-default-bind-curves X25519
  ssl-default-server-options ssl-min-ver TLSv1.3
  ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
ring requests
  format raw
  maxlen 1024
  size 16777216
  timeout connect 5s
  timeout server 1h
  server sink %[1]s:%[2]d
defaults
  mode http
  log global
  log-format '{"time":"%%[date(0,ms),utime(%%Y-%%m-%%dT%%H:%%M:%%S)]","remote":"%%ci","host":"%%[var(txn.host),json]","method":"%%HM","path":"%%[var(txn.path),json]","status":%%ST,"request_bytes":%%U,"response_bytes":%%B,"duration":%%Ta,"upstream":"%%si:%%sp","upstream_duration":%%Tr,"tls":"%%sslv","sni":"%%[ssl_fc_sni,json]"}'
  http-reuse always
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  timeout http-keep-alive 300s
frontend h2
  bind %[3]s:%[4]d backlog %[8]d ssl crt /srv/haproxy/both.pem alpn h2 generate-certificates ca-sign-file /srv/haproxy/ca.pem
  http-request set-var(txn.host) req.hdr(host)
  http-request set-var(txn.path) path
  default_backend h2
backend h2
  server origin %[6]s:443 ssl alpn h2 verify required ca-file /etc/ssl/certs/ca-certificates.crt sni ssl_fc_sni
frontend h1
  bind %[3]s:%[5]d backlog %[8]d ssl crt /srv/haproxy/both.pem alpn http/1.1 generate-certificates ca-sign-file /srv/haproxy/ca.pem
  http-request set-var(txn.host) req.hdr(host)
  http-request set-var(txn.path) path
  default_backend h1
backend h1
  server origin %[7]s:443 ssl alpn http/1.1 verify required ca-file /etc/ssl/certs/ca-certificates.crt sni ssl_fc_sni
`

// The clients keep no sessions, and sallyport makes no tickets for those who
// cannot use them; OpenSSL makes two for everybody unless it is told not to.
const (
	opensslConfig = "/srv/openssl.cnf"
	noTickets     = `openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = tls
[tls]
NumTickets = 0
`
)

func (m *machine) startPeers() (p *peers, err error) {
	p = &peers{}
	if err := m.write(opensslConfig, []byte(noTickets)); err != nil {
		return nil, err
	}
	if p.site, err = m.newSite(); err != nil {
		return nil, err
	}
	for _, start := range []func() error{p.startNginx, p.startHAProxy, p.startSSLsplit} {
		if err := start(); err != nil {
			return nil, err
		}
	}
	p.client, err = p.site.startPlainClient()
	return p, err
}

// run starts a peer and waits until it listens.
func (p *peers) run(name string, port int, argv ...string) ([]int, error) {
	m := p.site.machine
	c := p.site.pinned(m.cpus[0], argv...)
	c.Env = append(c.Env, "OPENSSL_CONF="+opensslConfig)
	var text bytes.Buffer
	c.Stderr, c.Stdout = &text, &text
	if _, err := m.start(c, stopPatience); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	err := eventually(startPatience, name+" listens", func() bool { return listening(port, family(c.Process.Pid)...) })
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(text.Bytes()))
	}
	return family(c.Process.Pid), nil
}

func (p *peers) startNginx() (err error) {
	m := p.site.machine
	listen := loopback + ":" + strconv.Itoa(nginxPort)
	if err := m.write("/srv/nginx.conf", fmt.Appendf(nil, nginxProxy, "nginx", originAddress, listen, nginxLog)); err != nil {
		return err
	}
	p.nginx.lines = m.linesOf(nginxLog)
	p.nginx.processes, err = p.run("nginx", nginxPort, m.options.nginx, "-c", "/srv/nginx.conf")
	if err == nil {
		err = eventually(startPatience, "nginx has a worker", func() bool {
			p.nginx.processes = family(p.nginx.processes[0])
			return len(p.nginx.processes) == 2
		})
	}
	return err
}

func (p *peers) startHAProxy() (err error) {
	m := p.site.machine
	if err := m.write("/srv/haproxy.cfg", fmt.Appendf(nil, haproxyProxy, originOwnAddress, logPort, loopback, haproxyH2Port, haproxyH1Port, originH2Address, originAddress, haproxyBackLog)); err != nil {
		return err
	}
	p.haproxy.lines = func() (int, error) {
		page, err := p.site.fetch(fmt.Sprintf("http://%s:%d/lines", originOwnAddress, ownPort))
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(strings.TrimSpace(page))
	}
	p.haproxy.processes, err = p.run("HAProxy", haproxyH1Port, m.options.haproxy, "-db", "-f", "/srv/haproxy.cfg")
	return err
}

// startSSLsplit starts sslsplit, as it comes and with a P-256 key for its leaves
// (made once, as the RSA key of 2048 bits that it makes for itself). It looks the
// name up by DNS as sallyport does. It does not verify the origin: told to, it
// reads all of the system's certificates for each connection and needs ten times
// as long.
func (p *peers) startSSLsplit() (err error) {
	m := p.site.machine
	start := func(peer *peer, port int, log string, key ...string) error {
		peer.lines = m.linesOf(log)
		args := append([]string{m.options.sslsplit, "-u", "root", "-c", "/srv/sslsplit/ca.pem", "-l", log}, key...)
		args = append(args, "https", loopback, strconv.Itoa(port), "sni", "443")
		peer.processes, err = p.run("sslsplit", port, args...)
		return err
	}
	if err := start(&p.sslsplit, sslsplitPort, sslsplitLog); err != nil {
		return err
	}
	return start(&p.levelSplit, levelSplitPort, levelSplitLog, "-K", "/srv/sslsplit/key.pem")
}

// linesOf counts the lines of a file of the machine.
func (m *machine) linesOf(path string) func() (int, error) {
	return func() (int, error) {
		b, err := os.ReadFile(m.path(path))
		return bytes.Count(b, []byte{'\n'}), err
	}
}

// version gives the first line in which a program says what it is.
func version(program, flag string) string {
	out, _ := exec.Command(program, flag).CombinedOutput()
	line, _, _ := strings.Cut(string(out), "\n")
	line = strings.TrimPrefix(strings.TrimSpace(line), "nginx version: ")
	line, _, _ = strings.Cut(line, " (")
	line, _, _ = strings.Cut(line, " 20") // a date
	return line
}
