package syslog

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
	"sallyport/test/port"
)

// message is the grammar of RFC 5424 section 6, as far as we use it.
var message = regexp.MustCompile(`^<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}Z) ([!-~]{1,255}) sallyport (\d+) ([a-z_]{1,32}) ` +
	`\[sallyport@32473((?: [a-z]+="(?:[^"\\\]]|\\["\\\]])*")*)\] (\{.*\})$`)

// A receiver gathers messages.
type receiver struct {
	address string
	close   func()
	mu      sync.Mutex
	list    []string
}

func (r *receiver) add(m string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, m)
}

func (r *receiver) messages() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.list...)
}

func datagrams(t *testing.T, network, address string) *receiver {
	t.Helper()
	c, err := net.ListenPacket(network, address)
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{address: c.LocalAddr().String(), close: func() { c.Close() }}
	t.Cleanup(r.close)
	go func() {
		buf := make([]byte, 1<<20)
		for {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			r.add(string(buf[:n]))
		}
	}()
	return r
}

// stream reads counted frames, or lines.
func stream(t *testing.T, network, address string) *receiver {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	var mu sync.Mutex
	r := &receiver{address: l.Addr().String()}
	r.close = sync.OnceFunc(func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			hangUp(c)
		}
	})
	t.Cleanup(r.close)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			go func() {
				br := bufio.NewReader(c)
				for {
					if network == "unix" {
						line, err := br.ReadString('\n')
						if err != nil {
							return
						}
						r.add(strings.TrimSuffix(line, "\n"))
						continue
					}
					digits, err := br.ReadString(' ')
					if err != nil {
						return
					}
					n, err := strconv.Atoi(strings.TrimSuffix(digits, " "))
					if err != nil {
						r.add("not counted: " + digits)
						return
					}
					buf := make([]byte, n)
					if _, err := io.ReadFull(br, buf); err != nil {
						return
					}
					r.add(string(buf))
				}
			}()
		}
	}()
	return r
}

// hangUp closes a connection when the other end has the news: until then a message
// counts as sent there, and is lost.
func hangUp(c net.Conn) {
	defer c.Close()
	tcp, ok := c.(*net.TCPConn)
	if !ok || tcp.CloseWrite() != nil {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	const finWait1 = 4 // our FIN is not acknowledged (include/net/tcp_states.h)
	for state, end := uint8(finWait1), time.Now().Add(time.Minute); state == finWait1 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		raw.Control(func(fd uintptr) {
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				state = info.State
			}
		})
	}
}

// own gives an address of this host that no other test listens on, with a port that
// no connection is given: whoever leaves it finds it free again.
func own(t *testing.T) string {
	t.Helper()
	return fmt.Sprint("127.0.0.1:", port.Free(t))
}

func run(t *testing.T, o audit.Options) (*audit.Log, func()) {
	t.Helper()
	l, err := audit.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return l, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func wait(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestMessages(t *testing.T) {
	dir := t.TempDir()
	tests := []struct {
		name, network string
		receiver      func() *receiver
	}{
		{"udp", "udp", func() *receiver { return datagrams(t, "udp", "127.0.0.1:0") }},
		{"udp6", "udp", func() *receiver { return datagrams(t, "udp", "[::1]:0") }},
		{"tcp", "tcp", func() *receiver { return stream(t, "tcp", "127.0.0.1:0") }},
		{"local datagrams", "unix", func() *receiver { return datagrams(t, "unixgram", filepath.Join(dir, "dgram")) }},
		{"local stream", "unix", func() *receiver { return stream(t, "unix", filepath.Join(dir, "stream")) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.receiver()
			s := New(Options{Network: tt.network, Address: r.address, Facility: 10})
			defer s.Close()
			l, stop := run(t, audit.Options{Sink: s})
			odd := "a\"b\\c]d\n<0>1 e"
			body := strings.Repeat("b\n", 100<<10)
			l.Record(&audit.Event{Kind: audit.Exchange, ID: "a", Verdict: "deny", Reason: "no_rule", Rule: "r", Workload: audit.Workload{Name: odd}, HTTP: audit.HTTP{Method: "GET"}})
			l.Record(&audit.Event{Kind: audit.DNS, ID: "b", Verdict: "would_deny"})
			l.Record(&audit.Event{Kind: audit.Exchange, ID: "c", Verdict: "allow", HTTP: audit.HTTP{Method: "POST", Path: "/p", RequestBody: body}})
			l.Record(&audit.Event{Kind: audit.Lifecycle, ID: "d"})
			wait(t, "all are there", func() bool { return len(r.messages()) >= 4 })
			stop()
			// Facility 10: authpriv.
			want := []struct{ pri, kind, params string }{
				{"84", "exchange", ` event="a" verdict="deny" reason="no_rule" rule="r" workload="a\"b\\c\]d <0>1 e"`},
				{"85", "dns", ` event="b" verdict="would_deny"`},
				{"86", "exchange", ` event="c" verdict="allow"`},
				{"85", "lifecycle", ` event="d"`},
			}
			for i, text := range r.messages() {
				m := message.FindStringSubmatch(text)
				if m == nil {
					t.Fatalf("%d is no message: %.300q", i, text)
				}
				if m[1] != want[i].pri || m[5] != want[i].kind || m[6] != want[i].params || m[4] != strconv.Itoa(os.Getpid()) {
					t.Errorf("%d: %.300s", i, text)
				}
				var e audit.Event
				if err := audit.Decode([]byte(m[7]), &e); err != nil {
					t.Fatal(err)
				}
				if at, err := time.Parse(time.RFC3339Nano, m[2]); err != nil || !at.Equal(e.Time.Truncate(time.Microsecond)) {
					t.Errorf("%d: time %s of %s", i, m[2], e.Time)
				}
				if i == 2 {
					if tt.network == "tcp" && (e.HTTP.RequestBody != body || e.HTTP.Truncated) {
						t.Error("the body is not whole")
					}
					if tt.network != "tcp" && (e.HTTP.RequestBody != "" || !e.HTTP.Truncated || e.HTTP.Path != "/p") {
						t.Errorf("not shortened as it must be: %.300s", text)
					}
				}
			}
		})
	}
}

// A closed UDP port is a receiver that is away until it is open again: no datagram
// to it counts as sent because the refusal of the one before was told already.
func TestRefusedDatagrams(t *testing.T) {
	r := datagrams(t, "udp", own(t))
	r.close()
	s := New(Options{Network: "udp", Address: r.address, Facility: 10})
	t.Cleanup(func() { s.Close() })
	line := []byte(`{"event":"a"}` + "\n")
	s.Write(line) // nobody could know
	wait(t, "it is noticed", func() bool { _, err := s.Write(line); return err != nil })
	for range 5 {
		if n, err := s.Write(line); n != 0 || !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatalf("%d, %v", n, err)
		}
	}
	again := datagrams(t, "udp", r.address)
	for range 2 {
		if n, err := s.Write(line); n != len(line) || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	wait(t, "both arrive", func() bool { return len(again.messages()) == 2 })
}

// Nothing is lost but what was under way when the receiver ended, and the chain
// shows that.
func TestReconnect(t *testing.T) {
	r := stream(t, "tcp", own(t))
	s := New(Options{Network: "tcp", Address: r.address, Facility: 10})
	l, stop := run(t, audit.Options{Sink: s})
	l.Record(&audit.Event{Kind: audit.Exchange, ID: "a"})
	wait(t, "the first", func() bool { return len(r.messages()) == 1 })
	r.close()
	l.Record(&audit.Event{Kind: audit.Exchange, ID: "b"})
	wait(t, "it is noticed", func() bool { return l.Healthy() != nil })
	if err := l.Healthy(); !strings.Contains(err.Error(), "audit cannot be written to syslog: syslog "+r.address) {
		t.Error(err)
	}
	again := stream(t, "tcp", r.address)
	wait(t, "it goes on", func() bool { return len(again.messages()) >= 2 && l.Healthy() == nil })
	stop()
	var ids []string
	for _, text := range again.messages() {
		ids = append(ids, message.FindStringSubmatch(text)[5])
	}
	if !strings.Contains(again.messages()[0], `event="b"`) || ids[1] != "lifecycle" {
		t.Errorf("%q", again.messages())
	}
}

// gate is a sink that waits until it is opened.
type gate struct{ open chan struct{} }

func (gate) Name() string { return "file" }
func (g gate) Write(p []byte) (int, error) {
	<-g.open
	return len(p), nil
}

// A sink that is away costs the others nothing; whether it stops exchanges is
// for on_failure to say.
func TestSinksAreIndependent(t *testing.T) {
	for _, tt := range []struct {
		onFailure audit.OnFailure
		healthy   bool
	}{{audit.Block, false}, {audit.Continue, true}} {
		away := New(Options{Network: "unix", Address: filepath.Join(t.TempDir(), "nobody"), Facility: 10})
		r := datagrams(t, "udp", "127.0.0.1:0")
		here := New(Options{Network: "udp", Address: r.address, Facility: 10})
		l, err := audit.New(audit.Options{Sink: here, Beside: []audit.Sink{away}, OnFailure: tt.onFailure, QueueEvents: 10, Flush: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		for i := range 50 {
			l.Record(&audit.Event{Kind: audit.Exchange, ID: strconv.Itoa(i)})
			wait(t, "it arrives", func() bool { return len(r.messages()) == i+1 })
		}
		wait(t, "the fault shows", func() bool { return l.Fault() != nil })
		if err := l.Healthy(); (err == nil) != tt.healthy {
			t.Errorf("%v: %v", tt.onFailure, err)
		}
		s := l.Stats()
		if s.Sinks[0].Lost != 0 || s.Sinks[0].Failures != 0 {
			t.Errorf("the sink that is here: %+v", s.Sinks[0])
		}
		if s.Sinks[1].Failures == 0 || s.Sinks[1].Lost < 20 {
			t.Errorf("the sink that is away: %+v", s.Sinks[1])
		}
		cancel()
		if err := <-done; err == nil || !strings.Contains(err.Error(), "not written to syslog") {
			t.Errorf("Run: %v", err)
		}
	}
	// And the other way round: one that hangs.
	hangs := gate{make(chan struct{})}
	r := datagrams(t, "udp", "127.0.0.1:0")
	l, stop := run(t, audit.Options{Sink: hangs, Beside: []audit.Sink{New(Options{Network: "udp", Address: r.address, Facility: 10})}})
	l.Record(&audit.Event{Kind: audit.Exchange})
	wait(t, "it arrives", func() bool { return len(r.messages()) == 1 })
	close(hangs.open)
	stop()
}

// TestRsyslog: what a real receiver takes out of our messages.
func TestRsyslog(t *testing.T) {
	rsyslogd, err := exec.LookPath("rsyslogd")
	if err != nil {
		t.Skip("rsyslogd is not installed: scripts/setup test")
	}
	if os.Getuid() != 0 {
		t.Skip("rsyslogd runs as root")
	}
	dir := t.TempDir()
	tcp, udp := port.Free(t), port.Free(t)
	out := filepath.Join(dir, "out")
	conf := fmt.Sprintf(`
global(workDirectory="%[1]s" maxMessageSize="3m")
module(load="imtcp")
module(load="imudp")
module(load="imuxsock" SysSock.Use="off")
template(name="t" type="list") {
	property(name="app-name") constant(value="|") property(name="msgid") constant(value="|")
	property(name="syslogfacility-text") constant(value="|") property(name="syslogseverity-text") constant(value="|")
	property(name="$!rfc5424-sd!sallyport@32473!workload") constant(value="|") property(name="msg") constant(value="\n")
}
module(load="mmpstrucdata")
action(type="mmpstrucdata")
action(type="omfile" file="%[2]s" template="t" flushInterval="1" asyncWriting="off")
input(type="imtcp" address="127.0.0.1" port="%[3]d")
input(type="imudp" address="127.0.0.1" port="%[4]d")
input(type="imuxsock" socket="%[1]s/log" UseSpecialParser="off")
`, dir, out, tcp, udp)
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(rsyslogd, "-n", "-f", filepath.Join(dir, "conf"), "-i", filepath.Join(dir, "pid"))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	for _, o := range []Options{
		{Network: "tcp", Address: fmt.Sprint("127.0.0.1:", tcp), Facility: 10},
		{Network: "udp", Address: fmt.Sprint("127.0.0.1:", udp), Facility: 10},
		{Network: "unix", Address: filepath.Join(dir, "log"), Facility: 10},
	} {
		t.Run(o.Network, func(t *testing.T) {
			if o.Network == "udp" {
				// Nothing answers there: wait for what does.
				wait(t, "rsyslogd listens", func() bool {
					c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", tcp))
					if err == nil {
						c.Close()
					}
					return err == nil
				})
			}
			os.Truncate(out, 0)
			l, stop := run(t, audit.Options{Sink: New(o)})
			defer stop()
			l.Record(&audit.Event{Kind: audit.Exchange, ID: "id", Verdict: "deny", Workload: audit.Workload{Name: `w"]x`}, HTTP: audit.HTTP{Method: "POST", RequestBody: strings.Repeat(`{"a":1}`, 3000)}})
			var line string
			wait(t, "it is written", func() bool {
				text, _ := os.ReadFile(out)
				for l := range strings.Lines(string(text)) {
					// A long one is written in pieces.
					if whole, ok := strings.CutSuffix(l, "\n"); ok && strings.Contains(whole, "|exchange|") {
						line = whole
						return true
					}
				}
				return false
			})
			parts := strings.SplitN(line, "|", 6)
			if got := strings.Join(parts[:5], "|"); got != `sallyport|exchange|authpriv|warning|w"]x` {
				t.Errorf("%s\n%s", got, stderr.String())
			}
			var e audit.Event
			text := strings.TrimSpace(parts[5])
			if err := audit.Decode([]byte(text), &e); err != nil || e.ID != "id" || len(e.HTTP.RequestBody) != 21000 || !json.Valid([]byte(text)) {
				t.Errorf("%v: %.200s", err, text)
			}
		})
	}
}

func BenchmarkMessage(b *testing.B) {
	s := New(Options{Network: "udp", Facility: 10})
	line := []byte(`{"time":"2026-03-04T05:06:07.000000089Z","event":"id-1","kind":"exchange","verdict":"allow","rule":"github-read","mode":"enforce",` +
		`"workload":{"name":"github","cgroup":"/mcp.slice/mcp-github.service"},"http":{"version":"1.1","method":"GET"}}`)
	b.ReportAllocs()
	for b.Loop() {
		s.buf = s.appendMessage(s.buf[:0], line)
	}
}
