package sniff

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/crypto/cryptobyte"
)

// extension is one extension of a hello under construction.
type extension struct {
	id   uint16
	data []byte
}

func buildHello(extensions ...extension) []byte {
	b := cryptobyte.NewBuilder(nil)
	b.AddUint8(typeClientHello)
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint16(0x0303)
		b.AddBytes(make([]byte, 32))
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(make([]byte, 32)) })
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint16(0x1301) })
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint8(0) })
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			for _, e := range extensions {
				b.AddUint16(e.id)
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(e.data) })
			}
		})
	})
	return b.BytesOrPanic()
}

func sni(names ...string) extension {
	b := cryptobyte.NewBuilder(nil)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, name := range names {
			b.AddUint8(0)
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
		}
	})
	return extension{extServerName, b.BytesOrPanic()}
}

func alpn(protocols ...string) extension {
	b := cryptobyte.NewBuilder(nil)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, p := range protocols {
			b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(p)) })
		}
	})
	return extension{extALPN, b.BytesOrPanic()}
}

// records splits a message into records of at most size bytes of content.
func records(message []byte, size int) []byte {
	var out []byte
	for len(message) > 0 {
		n := min(size, len(message))
		out = append(out, recordHandshake, 3, 1, byte(n>>8), byte(n))
		out = append(out, message[:n]...)
		message = message[n:]
	}
	return out
}

func manyExtensions() []extension {
	var out []extension
	for i := range maxExtensions + 1 {
		out = append(out, extension{uint16(0x4000 + i), nil})
	}
	return out
}

// stdHello gives the records that crypto/tls sends first.
func stdHello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	go func() {
		_ = tls.Client(client, config).Handshake()
		client.Close()
	}()
	var header [5]byte
	if _, err := io.ReadFull(server, header[:]); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(header[3])<<8|int(header[4]))
	if _, err := io.ReadFull(server, body); err != nil {
		t.Fatal(err)
	}
	server.Close()
	return append(header[:], body...)
}

func TestReadHelloAccepts(t *testing.T) {
	big := extension{0x5555, make([]byte, 60000)}
	for _, tt := range []struct {
		name string
		raw  []byte
		want ClientHello
	}{
		{"no extensions that matter", records(buildHello(), 16384), ClientHello{Versions: []uint16{0x303}}},
		{"name", records(buildHello(sni("Example_1.com")), 16384), ClientHello{ServerName: "Example_1.com", Versions: []uint16{0x303}}},
		{"one byte a record", records(buildHello(sni("example.com")), 1), ClientHello{ServerName: "example.com", Versions: []uint16{0x303}}},
		{"60 KB", records(buildHello(big, sni("example.com")), 16384), ClientHello{ServerName: "example.com", Versions: []uint16{0x303}}},
		{"address", records(buildHello(sni("192.0.2.1")), 16384), ClientHello{ServerAddr: netip.MustParseAddr("192.0.2.1"), Versions: []uint16{0x303}}},
		{"address of IPv6", records(buildHello(sni("2001:db8::1")), 16384), ClientHello{ServerAddr: netip.MustParseAddr("2001:db8::1"), Versions: []uint16{0x303}}},
		{"alpn in order", records(buildHello(alpn("h2", "http/1.1", "acme")), 16384), ClientHello{ALPN: []string{"h2", "http/1.1", "acme"}, Versions: []uint16{0x303}}},
		{"versions", records(buildHello(extension{extSupportedVersions, []byte{4, 3, 4, 3, 3}}), 16384), ClientHello{Versions: []uint16{0x304, 0x303}}},
		{"ech", records(buildHello(extension{extECH, []byte{0, 1, 2}}), 16384), ClientHello{ECH: true, Versions: []uint16{0x303}}},
		{"crypto/tls, post-quantum", stdHello(t, &tls.Config{ServerName: "example.com", NextProtos: []string{"h2", "http/1.1"}}),
			ClientHello{ServerName: "example.com", ALPN: []string{"h2", "http/1.1"}, Versions: []uint16{0x304, 0x303}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, need, err := new(assembly).readHello(tt.raw)
			if err != nil || need != 0 {
				t.Fatalf("need %d, err %v", need, err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			// Every prefix asks for more, and never for what is here already.
			step := max(1, len(tt.raw)/500)
			for n := 5; n < len(tt.raw); n += step {
				_, need, err := new(assembly).readHello(tt.raw[:n])
				if err != nil || need <= n || need > len(tt.raw) {
					t.Fatalf("prefix of %d of %d: need %d, err %v", n, len(tt.raw), need, err)
				}
			}
		})
	}
}

// TestReadHelloRefuses covers RFC 8446 sections 4.1.2, 4.2, 5.1 and 6.2, RFC
// 6066 section 3 and RFC 7301 section 3.1.
func TestReadHelloRefuses(t *testing.T) {
	whole := buildHello(sni("example.com"))
	edit := func(f func(b []byte) []byte) []byte { return records(f(append([]byte(nil), whole...)), 16384) }
	for _, tt := range []struct {
		name  string
		alert byte
		want  string
		raw   []byte
	}{
		{"duplicate extension", alertIllegalParameter, "comes twice", records(buildHello(sni("a.com"), sni("b.com")), 16384)},
		{"duplicate unknown extension", alertIllegalParameter, "comes twice", records(buildHello(extension{0x1234, nil}, extension{0x1234, nil}), 16384)},
		{"too many extensions", alertIllegalParameter, "too many extensions", records(buildHello(manyExtensions()...), 16384)},
		{"two names", alertIllegalParameter, "more than one", records(buildHello(sni("a.com", "b.com")), 16384)},
		{"no name", alertDecodeError, "does not fit", records(buildHello(sni()), 16384)},
		{"empty name", alertDecodeError, "empty server name", records(buildHello(sni("")), 16384)},
		{"NUL", alertUnrecognizedName, "character", records(buildHello(sni("a.com\x00.b.com")), 16384)},
		{"space", alertUnrecognizedName, "character", records(buildHello(sni("a .com")), 16384)},
		{"not ASCII", alertUnrecognizedName, "character", records(buildHello(sni("bücher.example")), 16384)},
		{"trailing dot", alertUnrecognizedName, "empty label", records(buildHello(sni("a.com.")), 16384)},
		{"leading dot", alertUnrecognizedName, "empty label", records(buildHello(sni(".a.com")), 16384)},
		{"empty label", alertUnrecognizedName, "character", records(buildHello(sni("a..com")), 16384)},
		{"address with zone", alertUnrecognizedName, "character", records(buildHello(sni("fe80::1%eth0")), 16384)},
		{"long name", alertUnrecognizedName, "too long", records(buildHello(sni(strings.Repeat("a", 254))), 16384)},
		{"name of another type", alertUnrecognizedName, "unknown type", records(buildHello(extension{extServerName, []byte{0, 4, 1, 0, 1, 'a'}}), 16384)},
		{"bytes after the names", alertDecodeError, "does not fit", records(buildHello(extension{extServerName, []byte{0, 4, 0, 0, 1, 'a', 0}}), 16384)},
		{"empty alpn", alertDecodeError, "ALPN", records(buildHello(alpn()), 16384)},
		{"empty alpn protocol", alertDecodeError, "ALPN", records(buildHello(alpn("h2", "")), 16384)},
		{"inner ech", alertIllegalParameter, "outer", records(buildHello(extension{extECH, []byte{1}}), 16384)},
		{"odd versions", alertDecodeError, "supported_versions", records(buildHello(extension{extSupportedVersions, []byte{3, 3, 4, 3}}), 16384)},
		{"two messages in a record", alertUnexpectedMessage, "further handshake", edit(func(b []byte) []byte { return append(b, whole...) })},
		{"not a ClientHello", alertUnexpectedMessage, "begin with a ClientHello", edit(func(b []byte) []byte { b[0] = 2; return b })},
		{"extensions too long", alertDecodeError, "does not fit", edit(func(b []byte) []byte { b[77]++; return b })},
		{"session id too long", alertDecodeError, "does not fit", edit(func(b []byte) []byte { b[38] = 33; return b })},
		{"over 64 KiB", alertIllegalParameter, "over 64 KiB", records([]byte{1, 1, 0, 0, 3, 3}, 16384)},
		{"record over 16 KiB", alertRecordOverflow, "record over", []byte{22, 3, 1, 0x40, 1, 1}},
		{"empty record", alertUnexpectedMessage, "empty handshake record", []byte{22, 3, 1, 0, 0}},
		{"record of version 3.9", alertProtocolVersion, "unknown version", []byte{22, 3, 9, 0, 5}},
		{"alert between", alertUnexpectedMessage, "another type", append(records(whole[:10], 10), 21, 3, 1, 0, 2)},
		{"empty record between", alertUnexpectedMessage, "empty handshake record", append(records(whole[:10], 1), 22, 3, 1, 0, 0)},
		{"application data between", alertUnexpectedMessage, "another type", append(records(whole[:10], 10), 23, 3, 3, 0, 2)},
		{"change_cipher_spec between", alertUnexpectedMessage, "another type", append(records(whole[:10], 10), 20, 3, 3, 0, 1, 1)},
		{"one byte over 64 KiB, a byte a record", alertIllegalParameter, "over 64 KiB", records([]byte{1, 1, 0, 0, 3, 3}, 1)[:24]},
		{"end within a record that goes on, before that is here", alertUnexpectedMessage, "further handshake", append(records(whole[:len(whole)-1], 20), 22, 3, 1, 0x40, 0)},
		{"legacy version 2.0", alertProtocolVersion, "unknown version", edit(func(b []byte) []byte { b[4] = 2; return b })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, need, err := new(assembly).readHello(tt.raw)
			var bad *HelloError
			if !errors.As(err, &bad) || !strings.Contains(bad.Text, tt.want) || bad.Alert != tt.alert {
				t.Errorf("need %d, err %#v, want %q with alert %d", need, err, tt.want, tt.alert)
			}
		})
	}
}

// FuzzHello checks that no input crashes or asks for what is here, and that
// what we accept has the name that crypto/tls reads.
func FuzzHello(f *testing.F) {
	f.Add(records(buildHello(sni("example.com"), alpn("h2")), 16384))
	f.Add(records(buildHello(sni("example.com"), extension{extECH, []byte{0}}), 7))
	f.Add(records(buildHello(sni("a.com", "b.com")), 100))
	f.Add(records(buildHello(sni("192.0.2.1"), extension{extSupportedVersions, []byte{2, 3, 4}}), 100))
	f.Add(stdHello(f, &tls.Config{ServerName: "example.com", NextProtos: []string{"h2"}}))
	f.Add([]byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 3})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) < 2 || raw[0] != recordHandshake || raw[1] != 3 {
			return
		}
		hello, need, err := new(assembly).readHello(raw)
		if err == nil && need != 0 && need <= len(raw) {
			t.Fatalf("needs %d of %d bytes", need, len(raw))
		}
		if need != 0 || err != nil {
			return
		}
		std := stdReads(raw)
		if std == nil {
			return // We read the name where Go reads more; refusing is its right.
		}
		if name := std.ServerName; name != hello.ServerName && hello.ServerAddr.String() != name {
			t.Errorf("name %q, crypto/tls reads %q", hello.ServerName, name)
		}
		if diff := cmp.Diff(hello.ALPN, std.SupportedProtos, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("ALPN differs from crypto/tls: %s", diff)
		}
	})
}

// readOnly gives crypto/tls bytes and lets nothing out.
type readOnly struct {
	net.Conn
	r io.Reader
}

func (c readOnly) Read(p []byte) (int, error)  { return c.r.Read(p) }
func (c readOnly) Write(p []byte) (int, error) { return 0, io.ErrClosedPipe }
func (c readOnly) Close() error                { return nil }

func stdReads(raw []byte) (info *tls.ClientHelloInfo) {
	stop := errors.New("stop")
	_ = tls.Server(readOnly{r: strings.NewReader(string(raw))}, &tls.Config{
		GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
			info = i
			return nil, stop
		},
	}).Handshake()
	return info
}

func BenchmarkReadHello(b *testing.B) {
	raw := stdHello(b, &tls.Config{ServerName: "example.com", NextProtos: []string{"h2", "http/1.1"}})
	b.ReportAllocs()
	for b.Loop() {
		if _, need, err := new(assembly).readHello(raw); need != 0 || err != nil {
			b.Fatal(need, err)
		}
	}
}
