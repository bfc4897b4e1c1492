package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// leafFiles writes a certificate of the internet's authority and its key, as
// other people's servers want them.
func (n *internet) leafFiles(dir, name string) (key, cert string) {
	n.t.Helper()
	leaf, err := n.ca.Issue(name, time.Now().Add(12*time.Hour))
	if err != nil {
		n.t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(leaf.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		n.t.Fatal(err)
	}
	key, cert = filepath.Join(dir, name+".key"), filepath.Join(dir, name+".pem")
	for file, block := range map[string]*pem.Block{key: {Type: "EC PRIVATE KEY", Bytes: der}, cert: {Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o644); err != nil {
			n.t.Fatal(err)
		}
	}
	return key, cert
}

// startServer starts a program on the internet and waits until each port is
// open there.
func (s *street) startServer(env []string, ports []string, argv ...string) {
	s.t.Helper()
	c := exec.Command(argv[0], argv[1:]...)
	c.Env = append(hostEnvironment(), env...)
	out := &syncBuffer{}
	c.Stdout, c.Stderr = out, out
	// Its children end with it; a daemon of many processes may leave some.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.WaitDelay = time.Second
	var err error
	inNetns(s.t, s.net.ns, func() { err = c.Start() })
	if err != nil {
		s.t.Fatalf("start %v: %v", argv, err)
	}
	ended := make(chan struct{})
	go func() { c.Wait(); close(ended) }()
	s.t.Cleanup(func() {
		syscall.Kill(-c.Process.Pid, syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(2 * time.Second):
		}
		syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		<-ended
	})
	for _, port := range ports {
		eventually(s.t, 15*time.Second, fmt.Sprintf("%s listens on %s: %s", argv[0], port, out), func() bool {
			open := false
			inNetns(s.t, s.net.ns, func() {
				conn, err := net.DialTimeout("tcp", net.JoinHostPort(originV4, port), time.Second)
				if open = err == nil; open {
					conn.Close()
				}
			})
			return open
		})
	}
}

// node gives the variables with which Node finds the tests' packages and their
// directory.
func (s *street) node() (env []string, modules string) {
	s.t.Helper()
	dir, err := npmClients()
	if err != nil {
		s.t.Fatal(err)
	}
	return []string{"NODE_PATH=" + filepath.Join(dir, "node_modules")}, filepath.Join(dir, "node_modules")
}

// startNode starts a server of testdata/peers with a certificate for name.
func (s *street) startNode(script, name, port string) {
	s.t.Helper()
	env, _ := s.node()
	key, cert := s.net.leafFiles(s.t.TempDir(), name)
	script, err := filepath.Abs("testdata/peers/" + script)
	if err != nil {
		s.t.Fatal(err)
	}
	s.startServer(env, []string{port}, "node", script, originV4, port, key, cert)
}

// nodeChecks runs a script of testdata/peers behind the gate.
func (s *street) nodeChecks(atLeast int, script string, args ...string) {
	s.t.Helper()
	s.peer("report.mjs")
	s.checks(atLeast, []string{"NODE_PATH=" + s.modules}, append([]string{"node", s.peer(script)}, args...)...)
}

const nginxConfig = `daemon off;
user root;
worker_processes 1;
error_log stderr error;
pid %[1]s/nginx.pid;
events { worker_connections 512; }
http {
  access_log off;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  client_max_body_size 100m;
  server {
    listen %[2]s:%[3]s ssl http2;
    ssl_certificate %[1]s/nginx.example.com.pem;
    ssl_certificate_key %[1]s/nginx.example.com.key;
    http2_max_concurrent_streams 10;
    keepalive_requests 50;
    root %[1]s/root;
    gzip on;
    gzip_types text/plain;
    location /put/ { dav_methods PUT; create_full_put_path on; root %[1]s/root; }
    location /teapot { return 418 short; }
  }
  server {
    listen %[2]s:%[4]s ssl http2;
    ssl_certificate %[1]s/git.example.com.pem;
    ssl_certificate_key %[1]s/git.example.com.key;
    location / {
      fastcgi_pass unix:%[1]s/fcgi.sock;
      include /etc/nginx/fastcgi_params;
      fastcgi_param SCRIPT_FILENAME %[5]s/git-http-backend;
      fastcgi_param GIT_PROJECT_ROOT %[1]s/git;
      fastcgi_param GIT_HTTP_EXPORT_ALL 1;
      fastcgi_param GIT_CONFIG_COUNT 1;
      fastcgi_param GIT_CONFIG_KEY_0 safe.directory;
      fastcgi_param GIT_CONFIG_VALUE_0 *;
      fastcgi_param PATH_INFO $uri;
      fastcgi_param REMOTE_USER somebody;
      fastcgi_request_buffering off;
    }
  }
}
`

// startNginx starts nginx with files, and with git's own server behind it. It
// gives the directory: root has the files, git the repositories.
func (s *street) startNginx() string {
	s.t.Helper()
	dir := s.t.TempDir()
	s.net.leafFiles(dir, "nginx.example.com")
	s.net.leafFiles(dir, "git.example.com")
	for _, d := range []string{"root/put", "git"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
	if out, err := exec.Command("cp", "-a", s.path("/srv/stream"), dir+"/root/stream").CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	backend, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		s.t.Fatal(err)
	}
	conf := fmt.Sprintf(nginxConfig, dir, originV4, portNginx, portGit, strings.TrimSpace(string(backend)))
	if err := os.WriteFile(dir+"/nginx.conf", []byte(conf), 0o644); err != nil {
		s.t.Fatal(err)
	}
	s.startServer(nil, nil, "fcgiwrap", "-c", "2", "-s", "unix:"+dir+"/fcgi.sock")
	s.startServer(nil, []string{portNginx, portGit}, "nginx", "-p", dir, "-c", dir+"/nginx.conf")
	return dir
}

// startNghttpd starts nghttp2's server with the streams as files.
func (s *street) startNghttpd() {
	s.t.Helper()
	dir := s.t.TempDir()
	key, cert := s.net.leafFiles(dir, "nghttpd.example.com")
	if out, err := exec.Command("cp", "-a", s.path("/srv/stream"), dir+"/stream").CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	s.startServer(nil, []string{portNghttpd}, "nghttpd", "-a", originV4, "-d", dir, "--echo-upload", "--trailer", "x-checked: yes", "-m", "20", "-w", "18", portNghttpd, key, cert)
}

// connectsPerRequest runs curl for each path by one connection and gives how
// the answers' bodies sum up.
func (s *street) curlLines(t *testing.T, argv ...string) []string {
	t.Helper()
	r := s.run(s.command(s.execBy(append([]string{"curl", "-sS", "-m", "60"}, argv...)...)...))
	if r.code != 0 {
		t.Errorf("curl %v: %v", argv, r)
	}
	var lines []string
	for sc := bufio.NewScanner(strings.NewReader(r.stdout)); sc.Scan(); {
		lines = append(lines, sc.Text())
	}
	return lines
}

// tryNginx: nginx as an upstream that allows few streams and ends each
// connection after some requests.
func (s *street) tryNginx() {
	dir := s.nginx
	for _, version := range []string{"--http1.1", "--http2"} {
		s.t.Run(strings.Trim(version, "-"), func(t *testing.T) {
			s := s.within(t)
			if version == "--http2" {
				s.wantHTTP2()
			}
			base := "https://nginx.example.com:" + portNginx
			argv := []string{version, "-Z", "--no-progress-meter", "--parallel-max", "40"}
			for i := range 120 {
				argv = append(argv, "-o", fmt.Sprintf("/srv/n%s-%d", version, i), fmt.Sprintf("%s/stream/70000?%d", base, i))
			}
			s.curlLines(t, argv...)
			r := s.sh("sha256sum /srv/n" + version + "-* | cut -d' ' -f1 | sort | uniq -c | xargs; rm /srv/n" + version + "-*")
			if want := "120 " + streamSum(70_000); strings.TrimSpace(r.stdout) != want {
				t.Errorf("bodies: %v, want %s", r, want)
			}
			got := s.curlLines(t, version, "-T", "/srv/stream/3000000", base+"/put/"+version, "-w", "%{http_code}\n", "-o", "/dev/null")
			b, err := os.ReadFile(dir + "/root/put/" + version)
			if err != nil || hexSHA256(b) != streamSum(3_000_000) || strings.Join(got, "") != "201" {
				t.Errorf("PUT: %v, %d bytes at nginx: %v", got, len(b), err)
			}
			got = s.curlLines(t, version, "-o", "/dev/null", "-w", "%{http_code} %{http_version}\n", base+"/teapot", "-o", "/dev/null", base+"/none", "-o", "/dev/null", base+"/secret/none")
			if want := []string{"418 ", "404 ", "403 "}; len(got) != 3 || !strings.HasPrefix(got[0], want[0]) || !strings.HasPrefix(got[1], want[1]) || !strings.HasPrefix(got[2], want[2]) {
				t.Errorf("statuses: %v, want %v", got, want)
			}
		})
	}
}

// tryNghttp: nghttp2's clients at net/http, and its server.
func (s *street) tryNghttp() {
	s.startNghttpd()
	base := "https://nghttpd.example.com:" + portNghttpd
	got := s.curlLines(s.t, "--http1.1", "-T", "/srv/stream/3000000", base+"/x", "-o", "/dev/null", "-w", "%{http_code} %{size_download} %{http_version}\n")
	// nghttpd speaks nothing else: the client that offers only HTTP/1.1 has to be
	// told so.
	if len(got) != 1 || !strings.HasPrefix(got[0], "502 ") {
		s.t.Errorf("HTTP/1.1 to a server of HTTP/2 alone: %q", got)
	}
	s.wantHTTP2()
	s.checks(15, nil, "bash", s.peer("nghttp.sh"), "https://go.example.com:"+portTLS)
	for _, n := range []int{1000, 70_000, 3_000_000} {
		file := "/srv/nghttpd-" + strconv.Itoa(n)
		got := s.curlLines(s.t, "--http2", "-o", file, "-w", "%{http_version} %{http_code}\n", base+"/stream/"+strconv.Itoa(n))
		if sum := hexSHA256([]byte(s.read(file))); strings.Join(got, "") != "2 200" || sum != streamSum(int64(n)) {
			s.t.Errorf("%d bytes of nghttpd: %v, sum %s", n, got, sum)
		}
		got = s.curlLines(s.t, "--http2", "--data-binary", "@/srv/stream/"+strconv.Itoa(n), "-o", file, "-w", "%{http_version} %{http_code}\n", base+"/echo")
		if sum := hexSHA256([]byte(s.read(file))); strings.Join(got, "") != "2 200" || sum != streamSum(int64(n)) {
			s.t.Errorf("%d bytes echoed by nghttpd: %v, sum %s", n, got, sum)
		}
	}
	r := s.run(s.command(s.execBy("h2load", "-n", "3000", "-c", "8", "-m", "60", base+"/stream/1000")...))
	if !strings.Contains(r.stdout, "3000 succeeded, 0 failed, 0 errored") {
		s.t.Errorf("h2load at nghttpd: %v", r)
	}
}
