package e2e

import (
	"encoding/hex"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"sallyport/pkg/audit"
)

// serveServices is a name server that knows api.example.com with a service
// record that offers HTTP/3 and hides names.
func (n *internet) serveServices(addr string) {
	n.t.Helper()
	var pc net.PacketConn
	var err error
	inNetns(n.t, n.ns, func() { pc, err = net.ListenPacket("udp", addr) })
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { pc.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			size, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:size]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			head := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60}
			switch q.Type {
			case dnsmessage.TypeA:
				m.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AResource{A: [4]byte(net.ParseIP(originV4).To4())}}}
			case dnsmessage.TypeHTTPS:
				body := &dnsmessage.HTTPSResource{SVCBResource: dnsmessage.SVCBResource{Priority: 1, Target: dnsmessage.MustNewName("."), Params: []dnsmessage.SVCParam{
					{Key: dnsmessage.SVCParamALPN, Value: []byte("\x02h3\x05h3-29\x02h2")},
					{Key: dnsmessage.SVCParamIPv4Hint, Value: net.ParseIP("203.0.113.99").To4()},
					{Key: dnsmessage.SVCParamECH, Value: []byte("hidden")},
				}}}
				m.Answers = []dnsmessage.Resource{{Header: head, Body: body}}
			}
			if out, err := m.Pack(); err == nil {
				pc.WriteTo(out, from)
			}
		}
	}()
}

// TestHTTP3: QUIC is refused at once so that clients fall back, answers do not
// offer it, and neither do service records.
func TestHTTP3(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.net.serveServices("203.0.113.14:53")
	h.write("/etc/resolv.conf", "nameserver 203.0.113.14\n")
	h.net.setHandler(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Alt-Svc", `h3=":443"; ma=86400, h3-29=":443"`)
		w.Write([]byte("by tcp"))
	})
	var datagrams atomic.Int64
	inNetns(t, h.net.ns, func() {
		pc, err := net.ListenPacket("udp", originV4+":443")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pc.Close() })
		go func() {
			for {
				if _, _, err := pc.ReadFrom(make([]byte, 2048)); err != nil {
					return
				}
				datagrams.Add(1)
			}
		}()
	})
	conf := h.config(webRules)

	// curl keeps what an answer offers in a file, and keeps nothing here.
	look := func(argv ...string) result {
		return h.run(h.command(append(argv, "curl", "-sS", "-D", "-", "--alt-svc", "/srv/altsvc", "https://api.example.com/")...))
	}
	if r := look(h.exec(conf)...); !strings.HasSuffix(r.stdout, "by tcp") || strings.Contains(strings.ToLower(r.stdout), "alt-svc") || strings.Contains(h.read("/srv/altsvc"), "h3") {
		t.Errorf("%v\nkept: %s", r, h.read("/srv/altsvc"))
	}
	if r := look(); !strings.Contains(strings.ToLower(r.stdout), "alt-svc: h3") || !strings.Contains(h.read("/srv/altsvc"), "h3") {
		t.Errorf("without the gate: %v\nkept: %s", r, h.read("/srv/altsvc"))
	}

	const quic = `
import socket, os
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
initial = bytes([0xc0, 0, 0, 0, 1, 8]) + os.urandom(8) + bytes([0, 0, 0x44, 0xd0]) + os.urandom(1182)
for to in ['connected', 'not connected']:
    try:
        if to == 'connected':
            c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            c.connect(('203.0.113.10', 443))
            c.send(initial)
        else:
            s.sendto(initial, ('203.0.113.10', 443))
        print(to, 'sent')
    except OSError as e:
        print(to, e.strerror)
`
	if r := h.run(h.command(h.exec(conf, "python3", "-c", quic)...)); r.stdout != "connected Operation not permitted\nnot connected Operation not permitted\n" {
		t.Errorf("%v", r)
	}
	if n := datagrams.Load(); n != 0 {
		t.Errorf("%d datagrams of QUIC came through", n)
	}
	h.waitAudit("the refused datagram", func(e *audit.Event) bool { return e.Kind == audit.Refused && e.Dst.Port == 443 && e.Reason != "" })

	const ask = `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.sendto(b'\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00' + b'\x03api\x07example\x03com\x00' + b'\x00\x41\x00\x01', ('203.0.113.14', 53))
print(s.recv(4096).hex())
`
	for _, gate := range []bool{true, false} {
		c := h.command("python3", "-c", ask)
		if gate {
			c = h.command(h.exec(conf, "python3", "-c", ask)...)
		}
		r := h.run(c)
		raw, err := hex.DecodeString(strings.TrimSpace(r.stdout))
		var m dnsmessage.Message
		if err != nil || m.Unpack(raw) != nil || len(m.Answers) != 1 {
			t.Fatalf("gate %v: %v", gate, r)
		}
		record, ok := m.Answers[0].Body.(*dnsmessage.HTTPSResource)
		if !ok {
			t.Fatalf("gate %v: %v", gate, m)
		}
		alpn, _ := record.GetParam(dnsmessage.SVCParamALPN)
		_, ech := record.GetParam(dnsmessage.SVCParamECH)
		_, hint := record.GetParam(dnsmessage.SVCParamIPv4Hint)
		want := "\x02h2"
		if !gate {
			want = "\x02h3\x05h3-29\x02h2"
		}
		if string(alpn) != want || ech == gate || hint == gate {
			t.Errorf("gate %v: ALPN %q, ECH %v, hint %v", gate, alpn, ech, hint)
		}
	}
}
