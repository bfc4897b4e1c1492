package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"sallyport/pkg/policy"
)

// fakes are the other packages as a resolver sees them.
type fakes struct {
	mu        sync.Mutex
	events    []*Event
	dropped   map[Drop]int
	queries   int
	health    error
	broken    error
	allowed   func(host string) bool
	observe   bool
	asked     []string
	strangers bool
	discard   bool
}

func (f *fakes) Asker(netns uint64, src netip.AddrPort) (Client, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.strangers {
		return Client{}, ErrNoAsker
	}
	return Client{Workload: "w", Netns: netns, Source: src}, nil
}

func (f *fakes) DecideName(workload, host string) Decision {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.discard {
		f.asked = append(f.asked, host)
	}
	if f.allowed == nil || f.allowed(host) {
		return Decision{Verdict: policy.Allow, Rule: "r"}
	}
	if f.observe {
		return Decision{Verdict: policy.WouldDeny, Reason: policy.NoRule, Mode: policy.Observe}
	}
	return Decision{Verdict: policy.Deny, Reason: policy.NoRule, Hint: "add " + host + " to a rule"}
}

func (f *fakes) Healthy() error { f.mu.Lock(); defer f.mu.Unlock(); return f.health }

func (f *fakes) RecordDNS(e *Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.discard {
		f.events = append(f.events, e)
	}
	return f.broken
}

func (f *fakes) Query(string, policy.Verdict) { f.mu.Lock(); defer f.mu.Unlock(); f.queries++ }

func (f *fakes) Dropped(why Drop) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dropped == nil {
		f.dropped = make(map[Drop]int)
	}
	f.dropped[why]++
}

func (f *fakes) lastEvent(t *testing.T) *Event {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.events) == 0 {
		t.Fatal("no event was recorded")
	}
	return f.events[len(f.events)-1]
}

// An upstream is a DNS server on loopback that does what a test says.
type upstream struct {
	addr netip.AddrPort
	mu   sync.Mutex
	// handle gives the datagrams to answer with.
	handle func(q dnsmessage.Message, tcp bool) []dnsmessage.Message
	seen   []dnsmessage.Message
	ports  map[uint16]bool
	ids    map[uint16]bool
}

func (u *upstream) set(handle func(q dnsmessage.Message, tcp bool) []dnsmessage.Message) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.handle = handle
}

func (u *upstream) count() int { u.mu.Lock(); defer u.mu.Unlock(); return len(u.seen) }

// questions gives what was asked, in order.
func (u *upstream) questions() []dnsmessage.Message {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.seen)
}

func (u *upstream) answers(msg []byte, src netip.AddrPort, tcp bool) [][]byte {
	var q dnsmessage.Message
	if q.Unpack(msg) != nil {
		return nil
	}
	u.mu.Lock()
	var copied dnsmessage.Message
	if copied.Unpack(msg) == nil {
		u.seen = append(u.seen, copied)
	}
	u.ports[src.Port()] = true
	u.ids[q.ID] = true
	handle := u.handle
	u.mu.Unlock()
	var out [][]byte
	for _, m := range handle(q, tcp) {
		packed, err := m.Pack()
		if err == nil {
			out = append(out, packed)
		}
	}
	return out
}

func newUpstream(t testing.TB, handle func(q dnsmessage.Message, tcp bool) []dnsmessage.Message) *upstream {
	t.Helper()
	udp, tcp := listenBoth(t)
	u := &upstream{addr: udp.LocalAddr().(*net.UDPAddr).AddrPort(), handle: handle, ports: make(map[uint16]bool), ids: make(map[uint16]bool)}
	var wg sync.WaitGroup
	t.Cleanup(func() { udp.Close(); tcp.Close(); wg.Wait() })
	wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, src, err := udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			for _, m := range u.answers(buf[:n], src, false) {
				udp.WriteToUDPAddrPort(m, src)
			}
		}
	})
	wg.Go(func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(30 * time.Second))
				for {
					msg, err := readFramed(conn, 65535)
					if err != nil {
						return
					}
					for _, m := range u.answers(msg, conn.RemoteAddr().(*net.TCPAddr).AddrPort(), true) {
						conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
					}
				}
			})
		}
	})
	return u
}

// listenBoth finds a port that is free for both.
func listenBoth(t testing.TB) (*net.UDPConn, net.Listener) {
	t.Helper()
	for range 50 {
		tcp, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(tcp.Addr().(*net.TCPAddr).AddrPort()))
		if err == nil {
			return udp, tcp
		}
		tcp.Close()
	}
	t.Fatal("no port is free for UDP and TCP")
	return nil, nil
}

func name(s string) dnsmessage.Name { return dnsmessage.MustNewName(s) }

func header(owner string, typ dnsmessage.Type, ttl uint32) dnsmessage.ResourceHeader {
	return dnsmessage.ResourceHeader{Name: name(owner), Type: typ, Class: dnsmessage.ClassINET, TTL: ttl}
}

func rrA(owner, addr string, ttl uint32) dnsmessage.Resource {
	return dnsmessage.Resource{Header: header(owner, dnsmessage.TypeA, ttl), Body: &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()}}
}

func rrAAAA(owner, addr string, ttl uint32) dnsmessage.Resource {
	return dnsmessage.Resource{Header: header(owner, dnsmessage.TypeAAAA, ttl), Body: &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(addr).As16()}}
}

func rrCNAME(owner, target string, ttl uint32) dnsmessage.Resource {
	return dnsmessage.Resource{Header: header(owner, dnsmessage.TypeCNAME, ttl), Body: &dnsmessage.CNAMEResource{CNAME: name(target)}}
}

// respond answers q with records.
func respond(q dnsmessage.Message, answers ...dnsmessage.Resource) dnsmessage.Message {
	return dnsmessage.Message{
		Header:    dnsmessage.Header{ID: q.ID, Response: true, RecursionDesired: true, RecursionAvailable: true},
		Questions: q.Questions, Answers: answers,
	}
}

// zone answers from records by question; what is not there is NXDOMAIN if the
// name has none at all.
func zone(records ...dnsmessage.Resource) func(q dnsmessage.Message, tcp bool) []dnsmessage.Message {
	return func(q dnsmessage.Message, tcp bool) []dnsmessage.Message {
		m := respond(q)
		known := false
		for _, r := range records {
			if !strings.EqualFold(r.Header.Name.String(), q.Questions[0].Name.String()) {
				continue
			}
			known = true
			if r.Header.Type == q.Questions[0].Type {
				m.Answers = append(m.Answers, r)
			}
		}
		if !known {
			m.RCode = dnsmessage.RCodeNameError
		}
		return []dnsmessage.Message{m}
	}
}

func newResolver(t testing.TB, f *fakes, limits Limits, upstreams ...netip.AddrPort) *Resolver {
	t.Helper()
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if limits.Timeout == 0 {
		// Servers of tests answer, however busy the machine is.
		limits.Timeout, limits.Total = 10*time.Second, 30*time.Second
	}
	r, err := New(Options{Askers: f, Names: f, Recorder: f, Meter: f, Upstreams: upstreams, Hosts: hosts, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// question packs a query as a stub resolver does.
func question(t testing.TB, owner string, typ dnsmessage.Type, edns bool) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 0x1234, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: name(owner), Type: typ, Class: dnsmessage.ClassINET}},
	}
	if edns {
		var h dnsmessage.ResourceHeader
		h.SetEDNS0(1232, 0, false)
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	out, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// ask gives the reply to one question of workload w.
func ask(t testing.TB, r *Resolver, owner string, typ dnsmessage.Type) dnsmessage.Message {
	t.Helper()
	return unpack(t, r.Answer(t.Context(), Client{Workload: "w"}, question(t, owner, typ, true), false))
}

func unpack(t testing.TB, msg []byte) dnsmessage.Message {
	t.Helper()
	if msg == nil {
		t.Fatal("no reply")
	}
	var m dnsmessage.Message
	if err := m.Unpack(msg); err != nil {
		t.Fatalf("reply does not parse: %v", err)
	}
	if !m.Response {
		t.Fatal("the reply is no response")
	}
	return m
}

// edeOf gives the extended error of a reply.
func edeOf(m dnsmessage.Message) (code int, text string) {
	for _, r := range m.Additionals {
		if opt, ok := r.Body.(*dnsmessage.OPTResource); ok {
			for _, o := range opt.Options {
				if o.Code == edeOption && len(o.Data) >= 2 {
					return int(o.Data[0])<<8 | int(o.Data[1]), string(o.Data[2:])
				}
			}
		}
	}
	return -1, ""
}

func addrsOf(m dnsmessage.Message) []string {
	var out []string
	for _, r := range m.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			out = append(out, netip.AddrFrom4(b.A).String())
		case *dnsmessage.AAAAResource:
			out = append(out, netip.AddrFrom16(b.AAAA).String())
		}
	}
	return out
}

// serveUDP runs the server half on loopback.
func serveUDP(t *testing.T, r *Resolver) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.ServeUDP(ctx, conn, 7) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		conn.Close()
	})
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

var errTest = errors.New("test")
