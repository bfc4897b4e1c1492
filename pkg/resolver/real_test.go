package resolver

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"sallyport/test/port"
)

// dnsmasq runs the real thing as the upstream server.
func dnsmasq(t *testing.T, args ...string) netip.AddrPort {
	t.Helper()
	if _, err := exec.LookPath("dnsmasq"); err != nil {
		t.Skip("dnsmasq is not installed")
	}
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port.Free(t))
	args = append([]string{"--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1", "--except-interface=none",
		"--pid-file=", "--user=", fmt.Sprintf("--port=%d", addr.Port()), "--local-ttl=60"}, args...)
	cmd := exec.Command("dnsmasq", args...)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
	})
	for deadline := time.Now().Add(30 * time.Second); ; {
		conn, err := net.DialTimeout("tcp4", addr.String(), time.Second)
		if err == nil {
			conn.Close()
			return addr
		}
		if len(done) > 0 || time.Now().After(deadline) {
			t.Fatalf("dnsmasq does not listen: %v\n%s", err, log.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestDnsmasqUpstream(t *testing.T) {
	args := []string{"--address=/api.example.com/203.0.113.1", "--address=/api.example.com/2001:db8::1", "--host-record=real.example.com,203.0.113.2",
		"--cname=alias.example.com,real.example.com", "--txt-record=txt.example.com,hello", "--mx-host=example.com,mail.example.com,10", "--address=/gone.example.com/"}
	for i := range 60 {
		args = append(args, fmt.Sprintf("--host-record=big.example.com,203.0.113.%d", i+1))
	}
	u := dnsmasq(t, args...)
	r := newResolver(t, &fakes{}, Limits{}, u)
	for _, tt := range []struct {
		owner string
		typ   dnsmessage.Type
		rcode dnsmessage.RCode
		texts []string
	}{
		{"api.example.com.", dnsmessage.TypeA, 0, []string{"203.0.113.1"}},
		{"API.example.COM.", dnsmessage.TypeAAAA, 0, []string{"2001:db8::1"}},
		{"alias.example.com.", dnsmessage.TypeA, 0, []string{"203.0.113.2"}},
		{"gone.example.com.", dnsmessage.TypeA, dnsmessage.RCodeNameError, nil},
	} {
		m := ask(t, r, tt.owner, tt.typ)
		if diff := cmp.Diff(tt.texts, addrsOf(m)); diff != "" || m.RCode != tt.rcode {
			t.Errorf("%s %s: %s %s", tt.owner, tt.typ, diff, m.RCode)
		}
	}
	if m := ask(t, r, "txt.example.com.", dnsmessage.TypeTXT); len(m.Answers) != 1 || m.Answers[0].Body.(*dnsmessage.TXTResource).TXT[0] != "hello" {
		t.Errorf("%s", m.GoString())
	}
	addrs, err := r.Lookup(t.Context(), "w", "alias.example.com")
	if err != nil || len(addrs) != 1 || addrs[0].String() != "203.0.113.2" {
		t.Errorf("%v %v", addrs, err)
	}
	if n, _ := r.Name("w", netip.MustParseAddr("203.0.113.2")); n != "alias.example.com" {
		t.Errorf("the alias' address is known as %q", n)
	}
}

// The resolver libraries that workloads use, unmodified, in a network and mount
// namespace of their own with a resolv.conf that points at us.
func TestRealClients(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	records := []dnsmessage.Resource{rrA("api.example.com.", "203.0.113.7", 60), rrAAAA("api.example.com.", "2001:db8::7", 60)}
	for i := range 50 {
		records = append(records, rrA("big.example.com.", fmt.Sprintf("203.0.113.%d", i+1), 60))
	}
	u := newUpstream(t, zone(records...))
	f := &fakes{allowed: func(host string) bool { return host == "api.example.com" || host == "big.example.com" }}
	r := newResolver(t, f, Limits{}, u.addr)

	// The thread ends with the goroutine: it stays in the new namespaces.
	type result struct{ skip, fail string }
	results := make(chan result, 1)
	dir := t.TempDir()
	conf := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.1\noptions timeout:30 attempts:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run := make(chan func(script string, args ...string) (string, error), 1)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			results <- result{skip: "no network namespace: " + err.Error()}
			return
		}
		if err := loopbackUp(); err != nil {
			results <- result{fail: err.Error()}
			return
		}
		udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 53})
		if err != nil {
			results <- result{fail: err.Error()}
			return
		}
		tcp, err := net.Listen("tcp4", "127.0.0.1:53")
		if err != nil {
			results <- result{fail: err.Error()}
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go r.ServeUDP(ctx, udp, 1)
		go func() {
			for {
				conn, err := tcp.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					r.ServeTCP(ctx, conn, Client{Workload: "w"})
				}()
			}
		}()
		calls := make(chan func())
		run <- func(script string, args ...string) (out string, err error) {
			done := make(chan struct{})
			calls <- func() {
				defer close(done)
				cmd := exec.Command("sh", append([]string{"-c", "mount --bind " + conf + " /etc/resolv.conf && " + script, "sh"}, args...)...)
				cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
				cmd.Env = append(os.Environ(), "LC_ALL=C")
				var b []byte
				b, err = cmd.CombinedOutput()
				out = string(b)
			}
			<-done
			return out, err
		}
		for {
			select {
			case call := <-calls:
				call()
			case <-stop:
				udp.Close()
				tcp.Close()
				return
			}
		}
	}()
	var in func(script string, args ...string) (string, error)
	select {
	case in = <-run:
	case res := <-results:
		if res.skip != "" {
			t.Skip(res.skip)
		}
		t.Fatal(res.fail)
	}

	python := `import socket,sys
try: print(" ".join(sorted({a[4][0] for a in socket.getaddrinfo(sys.argv[1],443,type=socket.SOCK_STREAM)})))
except socket.gaierror as e: print("EAI", e.errno)`
	getaddrinfo := func(host string) string {
		t.Helper()
		out, err := in("exec python3 -c \"$1\" \"$2\"", python, host)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return strings.TrimSpace(out)
	}
	t.Run("glibc", func(t *testing.T) {
		if got := getaddrinfo("api.example.com"); got != "2001:db8::7 203.0.113.7" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("glibc, unlisted", func(t *testing.T) {
		// EAI_NONAME, at once: a temporary failure would be tried again.
		start := time.Now()
		if got := getaddrinfo("evil.example.com"); got != "EAI -2" {
			t.Errorf("got %q", got)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("took %s", took)
		}
	})
	t.Run("glibc, over TCP", func(t *testing.T) {
		if got := len(strings.Fields(getaddrinfo("big.example.com"))); got != 50 {
			t.Errorf("%d addresses", got)
		}
	})
	t.Run("c-ares in node", func(t *testing.T) {
		if _, err := exec.LookPath("node"); err != nil {
			t.Skip("node is not installed")
		}
		out, err := in("exec node -e \"$1\"", `const d=require("dns").promises; d.resolve4("api.example.com").then(a=>console.log(a.join())).then(()=>d.resolve4("evil.example.com")).catch(e=>console.log(e.code))`)
		if err != nil || strings.TrimSpace(out) != "203.0.113.7\nENOTFOUND" {
			t.Errorf("%v %q", err, out)
		}
	})
	t.Run("java", func(t *testing.T) {
		if _, err := exec.LookPath("java"); err != nil {
			t.Skip("java is not installed")
		}
		src := filepath.Join(dir, "Get.java")
		if err := os.WriteFile(src, []byte(`public class Get { public static void main(String[] a) throws Exception { System.out.println(java.net.InetAddress.getByName(a[0]).getHostAddress()); } }`), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := in("exec java -Xint \"$1\" api.example.com", src)
		if err != nil || !strings.Contains(out, "203.0.113.7") {
			t.Errorf("%v %q", err, out)
		}
	})
	t.Run("musl", func(t *testing.T) {
		if _, err := exec.LookPath("musl-gcc"); err != nil {
			t.Skip("musl-gcc is not installed")
		}
		src, bin := filepath.Join(dir, "get.c"), filepath.Join(dir, "get")
		if err := os.WriteFile(src, []byte(muslProgram), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("musl-gcc", "-static", "-o", bin, src).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for host, want := range map[string]string{"api.example.com": "203.0.113.7", "evil.example.com": "EAI -2"} {
			out, err := in("exec \"$1\" \"$2\"", bin, host)
			if err != nil || strings.TrimSpace(out) != want {
				t.Errorf("%s: %v %q", host, err, out)
			}
		}
	})
}

const muslProgram = `
#include <netdb.h>
#include <stdio.h>
#include <arpa/inet.h>
int main(int c, char **v) {
	struct addrinfo h = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *r;
	int e = getaddrinfo(v[1], "443", &h, &r);
	if (e) { printf("EAI %d\n", e); return 0; }
	puts(inet_ntoa(((struct sockaddr_in *)r->ai_addr)->sin_addr));
	return 0;
}
`

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return err
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}
