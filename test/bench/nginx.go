package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// nginxAddress is where nginx as a proxy listens.
const nginxAddress = "127.0.0.1:8443"

// blockSize is the period of the large body, so that a client can compare it.
const (
	blockSize = 1 << 20
	smallSize = 1 << 10
	largeSize = 256 << 20
)

// nginxCommon is the same for origin and proxy. One cipher suite and one group
// for all make the cryptography the same on every leg.
const nginxCommon = `worker_processes 1;
daemon off;
user root;
error_log stderr error;
pid /run/%[1]s.pid;
events { worker_connections 8192; multi_accept on; }
http {
  keepalive_requests 1000000000;
  keepalive_timeout 300s;
  client_body_temp_path /run/%[1]s-b; proxy_temp_path /run/%[1]s-p; fastcgi_temp_path /run/%[1]s-f; uwsgi_temp_path /run/%[1]s-u; scgi_temp_path /run/%[1]s-s;
  ssl_certificate /srv/tls/leaf.pem;
  ssl_certificate_key /srv/tls/key.pem;
  ssl_protocols TLSv1.3;
  ssl_ecdh_curve X25519;
  ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
`

// The proxy is set up for speed: keep-alive upstream, one read buffer as large
// as a TLS record, never a temporary file.
const nginxProxy = nginxCommon + `  log_format json escape=json '{"time":"$time_iso8601","remote":"$remote_addr","host":"$host","method":"$request_method","path":"$request_uri","status":$status,"request_bytes":$request_length,"response_bytes":$body_bytes_sent,"duration":$request_time,"upstream":"$upstream_addr","upstream_duration":"$upstream_response_time","tls":"$ssl_protocol","sni":"$ssl_server_name"}';
  access_log /var/log/nginx-proxy.jsonl json buffer=64k flush=1s;
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

const nginxOrigin = nginxCommon + `  access_log off;
  server {
    listen %[2]s:443 ssl;
    default_type text/plain;
    location = /small { return 200 "%[3]s"; }
    location = /large { alias /srv/large; }
  }
}
`

// small is the body of the small answer.
func small() string { return strings.Repeat("0123456789abcdef", smallSize/16) }

// block is one period of the large body.
func block() []byte {
	b := make([]byte, blockSize)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func (m *machine) startOrigin() error {
	f, err := os.Create(m.path("/srv/large"))
	if err != nil {
		return err
	}
	defer f.Close()
	for b, n := block(), 0; n < largeSize; n += blockSize {
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
	if err := m.write("/srv/origin.conf", fmt.Appendf(nil, nginxOrigin, "origin", originAddress, small())); err != nil {
		return err
	}
	// The host's files, the origin's network.
	c := exec.Command("taskset", "-c", strconv.Itoa(m.cpus[1]),
		"nsenter", "-t", strconv.Itoa(m.host.Process.Pid), "-m", "--wdns=/srv",
		"nsenter", "--net=/proc/self/fd/3", "--", m.options.nginx, "-c", "/srv/origin.conf")
	net, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", m.outside.Process.Pid))
	if err != nil {
		return err
	}
	defer net.Close()
	c.ExtraFiles = []*os.File{net}
	if err := m.start(c, 2*time.Second); err != nil {
		return err
	}
	_, err = onlyChild(c.Process.Pid)
	return err
}

func (m *machine) startNginx() (err error) {
	if err := m.write("/srv/proxy.conf", fmt.Appendf(nil, nginxProxy, "proxy", originAddress, nginxAddress)); err != nil {
		return err
	}
	c := m.pinned(m.cpus[0], m.options.nginx, "-c", "/srv/proxy.conf")
	if err := m.start(c, 2*time.Second); err != nil {
		return err
	}
	m.nginx, err = onlyChild(c.Process.Pid)
	return err
}

// onlyChild waits for a process's first child.
func onlyChild(pid int) (child int, err error) {
	err = eventually(5*time.Second, "a worker of process "+strconv.Itoa(pid), func() bool {
		all := children(pid)
		if len(all) > 0 {
			child = all[0]
		}
		return len(all) > 0
	})
	return child, err
}

func children(pid int) (pids []int) {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, t := range tasks {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		for _, f := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(f); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}
