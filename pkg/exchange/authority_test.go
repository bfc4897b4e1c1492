package exchange

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

func TestSplitAuthority(t *testing.T) {
	long := strings.Repeat("a", 255)
	for _, tt := range []struct {
		in, host, port string
		ok             bool
	}{
		{"", "", "", true},
		{"a.example", "a.example", "", true},
		{"A_b~1.example.:443", "A_b~1.example.", "443", true},
		{"a.example:0", "a.example", "0", true},
		{"a.example:65535", "a.example", "65535", true},
		{"192.0.2.1:80", "192.0.2.1", "80", true},
		{"[2001:db8::1]", "[2001:db8::1]", "", true},
		{"[2001:db8::1]:443", "[2001:db8::1]", "443", true},
		{":443", "", "443", true},
		{long, long, "", true},
		{in: long + "a"},
		{in: "a.example:"},
		{in: "a.example:65536"},
		{in: "a.example:000443"},
		{in: "a.example:+443"},
		{in: "a.example: 443"},
		{in: "a.example:443:443"},
		{in: "user@a.example"},
		{in: "a.example/"},
		{in: "a.example?"},
		{in: "a%2eexample"},
		{in: "a,b"},
		{in: "a b"},
		{in: "bücher.example"},
		{in: "2001:db8::1"},
		{in: "[2001:db8::1"},
		{in: "[2001:db8::1]443"},
		{in: "[2001:db8::1]:"},
		{in: "[fe80::1%eth0]"},
		{in: "[192.0.2.1]"},
		{in: "[a.example]"},
		{in: "[]"},
	} {
		if host, port, ok := SplitAuthority(tt.in); ok != tt.ok || ok && (host != tt.host || port != tt.port) {
			t.Errorf("%q: %q %q %v", tt.in, host, port, ok)
		}
	}
}

func TestParseLength(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "007": 7, "999999999999999999": 999999999999999999} {
		if n, ok := ParseLength(in); !ok || n != want {
			t.Errorf("%q: %d %v", in, n, ok)
		}
	}
	for _, in := range []string{"", " 1", "1 ", "+1", "-1", "1,1", "0x1", "1e3", "١", "1000000000000000000"} {
		if n, ok := ParseLength(in); ok {
			t.Errorf("%q: %d", in, n)
		}
	}
}

// TestBannedFromTrailer: no field that a codec looks at comes in a trailer
// section, of either side.
func TestBannedFromTrailer(t *testing.T) {
	for _, tt := range []struct {
		id                NameID
		request, response bool
	}{
		{ContentLength, true, true}, {TransferEncoding, true, true}, {Host, true, true}, {ContentType, true, true},
		{Authorization, true, false}, {Cookie, true, false}, {Expect, true, false},
		{SetCookie, false, true}, {Location, false, true}, {OtherName, false, false},
	} {
		if a, b := tt.id.BannedFromTrailer(true), tt.id.BannedFromTrailer(false); a != tt.request || b != tt.response {
			t.Errorf("%v: request %v, response %v", tt.id, a, b)
		}
	}
}

// FuzzSplitAuthority: what passes is put together again from its parts, and an
// address in it is one.
func FuzzSplitAuthority(f *testing.F) {
	for _, s := range []string{"a.example:443", "[2001:db8::1]:443", "[::ffff:192.0.2.1]", "192.0.2.1", ":80", "a:b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, port, ok := SplitAuthority(s)
		if !ok {
			return
		}
		whole := host
		if port != "" {
			whole += ":" + port
			if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
				t.Errorf("%q has the port %q", s, port)
			}
		}
		if whole != s {
			t.Errorf("%q became %q", s, whole)
		}
		inner, bracketed := strings.CutPrefix(host, "[")
		if _, err := netip.ParseAddr(strings.TrimSuffix(inner, "]")); bracketed && err != nil {
			t.Errorf("%q: %v", s, err)
		}
		if !bracketed && strings.ContainsAny(host, "@/?#%\\ \t,:[]") {
			t.Errorf("%q has the host %q", s, host)
		}
	})
}

func BenchmarkSplitAuthority(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, _, ok := SplitAuthority("api.github.example:443"); !ok {
			b.Fatal("refused")
		}
	}
}
