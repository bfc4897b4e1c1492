package resolver

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"sallyport/pkg/policy"
)

func TestServeUDP(t *testing.T) {
	u := newUpstream(t, zone(rrA("a.example.com.", "203.0.113.7", 60)))
	f := &fakes{}
	r := newResolver(t, f, Limits{}, u.addr)
	server := serveUDP(t, r)
	conn, err := net.Dial("udp4", server.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	conn.Write([]byte{1, 2, 3}) // noise before
	conn.Write(question(t, "a.example.com.", dnsmessage.TypeA, true))
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	if m := unpack(t, buf[:n]); len(addrsOf(m)) != 1 {
		t.Errorf("%s", m.GoString())
	}
	e := f.lastEvent(t)
	if e.Client.Netns != 7 || e.Client.Source.Port() != conn.LocalAddr().(*net.UDPAddr).AddrPort().Port() {
		t.Errorf("client %+v", e.Client)
	}
	counted := func(what Drop) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			f.mu.Lock()
			n := f.dropped[what]
			f.mu.Unlock()
			if n == 1 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: counted %d times", what, n)
			}
		}
	}
	// It is looked at beside the question, maybe after it.
	counted(DropNotAQuery)
	// A sender that the kernel does not know gets nothing, and nothing goes out.
	f.mu.Lock()
	f.strangers = true
	f.mu.Unlock()
	before := u.count()
	conn.Write(question(t, "b.example.com.", dnsmessage.TypeA, true))
	counted(DropNoAsker)
	if u.count() != before {
		t.Error("asked for a stranger")
	}
}

func TestServeTCP(t *testing.T) {
	u := newUpstream(t, zone(rrA("a.example.com.", "203.0.113.7", 60)))
	r := newResolver(t, &fakes{}, Limits{}, u.addr)
	for label, tt := range map[string]struct {
		send    []byte
		replies int
		fails   bool
	}{
		"two questions at once": {append(framed(question(t, "a.example.com.", dnsmessage.TypeA, false)), framed(question(t, "a.example.com.", dnsmessage.TypeAAAA, true))...), 2, false},
		"nothing":               {nil, 0, false},
		"half a length":         {[]byte{0}, 0, true},
		"half a message":        {[]byte{0, 50, 1}, 0, true},
		"too long":              {[]byte{0xff, 0xff}, 0, true},
		"an answer":             {framed(raw(t, func(m *dnsmessage.Message) { m.Response = true })), 0, true},
		"empty message":         {[]byte{0, 0}, 0, true},
	} {
		t.Run(label, func(t *testing.T) {
			client, server := tcpPair(t)
			done := make(chan error, 1)
			go func() { done <- r.ServeTCP(t.Context(), server, Client{Workload: "w"}); server.Close() }()
			client.SetDeadline(time.Now().Add(30 * time.Second))
			if _, err := client.Write(tt.send); err != nil {
				t.Fatal(err)
			}
			client.CloseWrite()
			for range tt.replies {
				msg, err := readFramed(client, 65535)
				if err != nil {
					t.Fatal(err)
				}
				unpack(t, msg)
			}
			if err := <-done; (err != nil) != tt.fails {
				t.Errorf("error %v", err)
			}
		})
	}
}

func tcpPair(t *testing.T) (client *net.TCPConn, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); server.Close() })
	return conn.(*net.TCPConn), server
}

func framed(msg []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...)
}

func TestServeTCPEndsWithContext(t *testing.T) {
	r := newResolver(t, &fakes{}, Limits{}, netip.MustParseAddrPort("127.0.0.1:9"))
	client, server := net.Pipe()
	defer client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.ServeTCP(ctx, server, Client{Workload: "w"}) }()
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("goes on")
	}
}

// One workload cannot use up what all share, and what is beyond the bounds is
// refused at once.
func TestBoundsOfConcurrency(t *testing.T) {
	u := newUpstream(t, func(q dnsmessage.Message, tcp bool) []dnsmessage.Message { return nil })
	f := &fakes{}
	r := newResolver(t, f, Limits{InFlight: 3, InFlightPerWorkload: 2, Timeout: 30 * time.Second, Total: 30 * time.Second}, u.addr)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for i := range 2 {
		wg.Go(func() {
			r.Answer(ctx, Client{Workload: "greedy"}, question(t, fmt.Sprintf("n%d.example.com.", i), dnsmessage.TypeA, true), false)
		})
	}
	for deadline := time.Now().Add(30 * time.Second); u.count() < 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not asked")
		}
	}
	m := unpack(t, r.Answer(t.Context(), Client{Workload: "greedy"}, question(t, "n3.example.com.", dnsmessage.TypeA, true), false))
	if _, text := edeOf(m); m.RCode != dnsmessage.RCodeServerFailure || !strings.Contains(text, "too many") {
		t.Errorf("%s", m.GoString())
	}
	if e := f.lastEvent(t); e.Decision.Reason != policy.Overloaded {
		t.Errorf("event %+v", e)
	}
	u.set(zone(rrA("x.example.com.", "203.0.113.7", 60)))
	if m := unpack(t, r.Answer(t.Context(), Client{Workload: "modest"}, question(t, "x.example.com.", dnsmessage.TypeA, true), false)); len(addrsOf(m)) != 1 {
		t.Errorf("%s", m.GoString())
	}
	cancel()
	wg.Wait()
	if len(r.slots.perWorkload) != 0 {
		t.Errorf("places were not given back: %v", r.slots.perWorkload)
	}
	for range 3 {
		if !r.slots.enter() {
			t.Fatal("full too early")
		}
	}
	if r.slots.enter() {
		t.Error("beyond the bound")
	}
}
