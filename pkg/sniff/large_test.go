package sniff

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
	"time"
)

// sized gives a hello of exactly n bytes, header included.
func sized(t testing.TB, n int) []byte {
	t.Helper()
	filler := func(size int) extension { return extension{0x5555, make([]byte, size)} }
	empty := len(buildHello(sni("example.com"), filler(0)))
	hello := buildHello(sni("example.com"), filler(n-empty))
	if len(hello) != n {
		t.Fatalf("built %d bytes, want %d", len(hello), n)
	}
	return hello
}

// TestHelloToTheBound sends hellos of up to 64 KiB over sockets, in records and
// segments of many sizes (RFC 8446 section 5.1: a message may be fragmented over
// any number of records). With one byte in each record 393,216 bytes are on the
// wire.
func TestHelloToTheBound(t *testing.T) {
	for _, size := range []int{200, 16 << 10, 32 << 10, maxHello - 1, maxHello} {
		for _, record := range []int{1, 2, 7, 1000, maxRecord} {
			raw := records(sized(t, size), record)
			if record == 1 && size == maxHello && len(raw) != maxRaw {
				t.Fatalf("%d bytes on the wire, want the bound of %d", len(raw), maxRaw)
			}
			for _, segment := range []int{1, 1000, len(raw)} {
				if segment == 1 && len(raw) > 2000 {
					continue
				}
				client, server := tcpPair(t)
				go func() {
					for p := raw; len(p) > 0; p = p[min(segment, len(p)):] {
						client.Write(p[:min(segment, len(p))])
					}
				}()
				var s Sniffer
				conn, got, err := s.Sniff(server, nil, time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				if got.Protocol != TLS || got.HelloErr != nil || got.Hello.ServerName != "example.com" {
					t.Errorf("hello of %d in records of %d and segments of %d: %v, %v, %q", size, record, segment, got.Protocol, got.HelloErr, got.Hello.ServerName)
				}
				replayed := make([]byte, len(raw))
				if _, err := io.ReadFull(conn, replayed); err != nil || !bytes.Equal(replayed, raw) {
					t.Errorf("hello of %d in records of %d: the bytes replayed are not those sent (%v)", size, record, err)
				}
				if n := s.Large(); n != 0 {
					t.Errorf("%d bytes are still counted after the replay", n)
				}
				client.Close()
				server.Close()
			}
		}
	}
}

// One byte more is refused as soon as that is known.
func TestHelloOverTheBound(t *testing.T) {
	for _, record := range []int{1, maxRecord} {
		client, server := tcpPair(t)
		client.Write(records([]byte{typeClientHello, 1, 0, 0, 3, 3}, record))
		var s Sniffer
		_, got, err := s.Sniff(server, nil, 30*time.Second)
		var bad *HelloError
		if err != nil || !errors.As(got.HelloErr, &bad) || bad.Alert != alertIllegalParameter {
			t.Errorf("in records of %d: %v, %v", record, got.HelloErr, err)
		}
	}
}

// What the sniffer lets pass the server of the standard library reads.
func TestLargeHelloShakesHands(t *testing.T) {
	raw := records(sized(t, maxHello), 1)
	if info := stdReads(raw); info == nil || info.ServerName != "example.com" {
		t.Errorf("crypto/tls does not read a hello of %d bytes in as many records: %+v", maxHello, info)
	}
}

// drip gives its bytes one by one and counts the reads.
type drip struct {
	net.Conn
	rest []byte
}

func (d *drip) Read(p []byte) (int, error) {
	if len(d.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:1], d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// A hello that comes byte by byte in records of one byte costs what its bytes
// cost: going over all of it at each read would take many minutes.
func TestSlowHelloIsCheap(t *testing.T) {
	raw := records(sized(t, maxHello), 1)
	begin := time.Now()
	var s Sniffer
	_, got, err := s.Sniff(&drip{rest: raw}, nil, 0)
	if err != nil || got.HelloErr != nil {
		t.Fatal(err, got.HelloErr)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("%d bytes took %v", len(raw), took)
	}
}

// TestLargeIsBounded: beyond the bound a large hello is refused, small ones go
// on, and what is dropped unread is counted no more.
func TestLargeIsBounded(t *testing.T) {
	var s Sniffer
	raw := records(sized(t, maxHello), 1)
	var kept []*Conn
	refused := false
	for range MaxLarge/maxRaw + 2 {
		c, got, err := s.Sniff(&drip{rest: raw[:len(raw)-1]}, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		var bad *HelloError
		if errors.As(got.HelloErr, &bad) && bad.Alert == alertInternalError {
			refused = true
			break
		}
		kept = append(kept, c)
	}
	if n := s.Large(); !refused || n > MaxLarge || n < MaxLarge-maxRaw {
		t.Fatalf("%d hellos hold %d bytes, refused: %v", len(kept), n, refused)
	}
	if _, got, err := s.Sniff(&drip{rest: records(buildHello(sni("example.com")), 100)}, nil, 0); err != nil || got.HelloErr != nil {
		t.Errorf("a small hello is refused too: %v, %v", got.HelloErr, err)
	}
	// Behind a CONNECT it may be here already.
	if _, got, err := s.Sniff(&drip{}, raw, 0); err != nil || got.HelloErr == nil {
		t.Errorf("%+v, %v", got, err)
	}
	runtime.KeepAlive(kept)
	kept = nil
	for end := time.Now().Add(30 * time.Second); s.Large() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d bytes are still counted", s.Large())
		}
		runtime.GC()
	}
}

// FuzzAssembly: in whatever pieces the bytes come, the outcome is the same.
func FuzzAssembly(f *testing.F) {
	f.Add(records(buildHello(sni("example.com")), 5), uint64(1))
	f.Add(records(buildHello(sni("example.com")), 1), uint64(2))
	f.Add(append(records(buildHello(sni("example.com"))[:10], 3), 22, 3, 1, 0, 0), uint64(3))
	f.Add(append(records(buildHello(sni("example.com"))[:10], 3), 21, 3, 1, 0, 2, 1, 0), uint64(4))
	f.Fuzz(func(t *testing.T, raw []byte, seed uint64) {
		if len(raw) < 2 || raw[0] != recordHandshake || raw[1] != 3 {
			return
		}
		_, _, want := new(assembly).readHello(raw)
		var a assembly
		random := rand.New(rand.NewPCG(seed, seed))
		for n := 0; ; {
			n = min(n+1+random.IntN(9), len(raw))
			hello, need, err := a.readHello(raw[:n])
			switch {
			case err != nil && want == nil, err != nil && err.Error() != want.Error():
				// An error may be seen sooner, from the header of a record.
				if _, _, again := new(assembly).readHello(raw[:n]); again == nil || again.Error() != err.Error() {
					t.Fatalf("after %d bytes: %v, at once: %v", n, err, want)
				}
				return
			case err != nil:
				return
			case need == 0:
				if whole, _, err := new(assembly).readHello(raw); err != nil || whole.ServerName != hello.ServerName {
					t.Fatalf("in pieces %q, at once %q, %v", hello.ServerName, whole.ServerName, err)
				}
				return
			case n == len(raw):
				if want != nil {
					t.Fatalf("in pieces no error, at once %v", want)
				}
				return
			}
		}
	})
}

func BenchmarkReadHelloLarge(b *testing.B) {
	raw := records(sized(b, maxHello), 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, need, err := new(assembly).readHello(raw); need != 0 || err != nil {
			b.Fatal(need, err)
		}
	}
}
