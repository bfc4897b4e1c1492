package main

import (
	"fmt"
	"os"
	"time"
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
  ssl_certificate /srv/%[1]s/leaf.pem;
  ssl_certificate_key /srv/%[1]s/key.pem;
  ssl_protocols TLSv1.3;
  ssl_ecdh_curve X25519;
  ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
`

const nginxOrigin = nginxCommon + `  access_log off;
  default_type text/plain;
  add_header %[6]s $server_protocol;
  server {
    listen %[2]s:443 ssl backlog=16384;
    listen %[2]s:%[5]d;
    sendfile on;
    location = /small { return 200 "%[4]s"; }
    location = /large { alias /srv/large; }
    location = /page { alias /srv/page; }
  }
  server {
    listen %[3]s:443 ssl http2;
    location = /small { return 200 "%[4]s"; }
  }
  server {
    listen %[2]s:%[7]d;
    location = /accepted { stub_status; }
  }
}
`

// acceptedPort is where the origin tells how many connections it has accepted.
const acceptedPort = 8081

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
	if err := m.write("/srv/page", []byte(page())); err != nil {
		return err
	}
	if err := m.write("/srv/origin.conf", fmt.Appendf(nil, nginxOrigin, "origin", originAddress, originH2Address, small(), directPort, originProtocol, acceptedPort)); err != nil {
		return err
	}
	c := m.among(m.options.nginx, "-c", "/srv/origin.conf")
	if _, err := m.start(c, 2*time.Second); err != nil {
		return err
	}
	if err := eventually(5*time.Second, "the origin listens", func() bool { return listening(443, c.Process.Pid) }); err != nil {
		return err
	}
	own := m.among("/srv/bin/bench", originArgument)
	if _, err := m.start(own, 2*time.Second); err != nil {
		return err
	}
	return eventually(5*time.Second, "our own origin listens", func() bool { return listening(ownPort, own.Process.Pid) })
}

// accepted gives how many connections the origin has accepted so far.
func (s *site) accepted() (n int, err error) {
	page, err := s.fetch(fmt.Sprintf("http://%s:%d/accepted", originAddress, acceptedPort))
	if err != nil {
		return 0, err
	}
	// Active connections: 1
	// server accepts handled requests
	//  16 16 30
	var active, handled, requests int
	_, err = fmt.Sscanf(page, "Active connections: %d\nserver accepts handled requests\n %d %d %d", &active, &n, &handled, &requests)
	return n, err
}
