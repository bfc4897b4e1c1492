package pattern

import (
	"strings"
	"testing"
)

func TestCanonicalHost(t *testing.T) {
	long := strings.Repeat("a", 63)
	tests := []struct {
		in, want, err string
	}{
		{in: "example.com", want: "example.com"},
		{in: "Example.COM.", want: "example.com"},
		{in: "bücher.example", want: "xn--bcher-kva.example"},
		{in: "BÜCHER.example.", want: "xn--bcher-kva.example"},
		{in: "xn--bcher-kva.example", want: "xn--bcher-kva.example"},
		{in: "XN--BCHER-KVA.example", want: "xn--bcher-kva.example"},
		{in: "faß.de", want: "xn--fa-hia.de"},
		{in: "a。b．c", want: "a.b.c"},
		{in: "ｅｘａｍｐｌｅ.com", want: "example.com"},
		{in: "_dmarc.my_host.example", want: "_dmarc.my_host.example"},
		{in: "r3---sn-abc.example", want: "r3---sn-abc.example"},
		{in: "localhost", want: "localhost"},
		{in: "1a", want: "1a"},
		{in: "1.2.3.4.example", want: "1.2.3.4.example"},
		{in: "0x7g", want: "0x7g"},
		{in: long + ".example", want: long + ".example"},

		{in: "192.0.2.1", want: "192.0.2.1"},
		{in: "192.0.2.1.", want: "192.0.2.1"},
		{in: "１９２.0.2.1", want: "192.0.2.1"},
		{in: "[::1]", want: "::1"},
		{in: "::1", want: "::1"},
		{in: "[2001:DB8:0::1]", want: "2001:db8::1"},
		{in: "[::ffff:192.0.2.1]", want: "192.0.2.1"},
		{in: "::ffff:7f00:1", want: "127.0.0.1"},

		{in: "", err: "is empty"},
		{in: ".", err: "empty label"},
		{in: "a..b", err: "empty label"},
		{in: ".a", err: "empty label"},
		{in: "a..", err: "empty label"},
		{in: "a b", err: `has " "`},
		{in: "a/b", err: `has "/"`},
		{in: "a@b", err: `has "@"`},
		{in: "a\\b", err: `has "\\"`},
		{in: "a\x00b", err: `has "\x00"`},
		{in: "a%2eb", err: "percent-encoded"},
		{in: "a,b", err: `has ","`},
		{in: "a\u200db", err: "international"},
		{in: "xn--a", err: "international"},
		{in: "xn--", err: "empty label"},
		{in: "\xff", err: "UTF-8"},
		{in: "a\ufffd", err: "UTF-8"},
		{in: long + "a.example", err: "63 bytes"},
		{in: strings.Repeat(long+".", 4) + "a", err: "253 bytes"},
		{in: strings.Repeat("ü", 1000), err: "too long"},

		{in: "127.1", err: "unusual notation"},
		{in: "2130706433", err: "unusual notation"},
		{in: "0x7f.1", err: "unusual notation"},
		{in: "0x7f000001", err: "unusual notation"},
		{in: "0X7F.0.0.1", err: "unusual notation"},
		{in: "0177.0.0.1", err: "unusual notation"},
		{in: "127.0.0.01", err: "unusual notation"},
		{in: "017700000001", err: "unusual notation"},
		{in: "256.0.0.1", err: "unusual notation"},
		{in: "1.2.3.4.5", err: "unusual notation"},
		{in: "127.0.0.0x1", err: "unusual notation"},
		{in: "example.0x", err: "unusual notation"},
		{in: "example.09", err: "unusual notation"},
		{in: "１２７.1", err: "unusual notation"},
		{in: "②130706433", err: "unusual notation"},
		{in: "fe80::1%eth0", err: "zone"},
		{in: "[fe80::1%25eth0]", err: "zone"},
		{in: "[::1", err: `"["`},
		{in: "[127.0.0.1]", err: "neither"},
		{in: "[]", err: "neither"},
		{in: "example.com:443", err: "neither"},
		{in: "::ffff:1.2.3.4.", err: "neither"},
	}
	for _, tt := range tests {
		got, err := CanonicalHost(tt.in)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("CanonicalHost(%q) = %q, %v; want an error with %q", tt.in, got, err, tt.err)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("CanonicalHost(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
		}
	}
}

func TestCanonicalHostDoesNotAllocate(t *testing.T) {
	for _, host := range []string{"api.github.com", "192.0.2.1", "2001:db8::1"} {
		if n := testing.AllocsPerRun(100, func() { _, _ = CanonicalHost(host) }); n != 0 {
			t.Errorf("CanonicalHost(%q) allocates %v times", host, n)
		}
	}
}

func TestParseHost(t *testing.T) {
	tests := []struct {
		in   string
		want Host
		err  string
	}{
		{in: "*", want: Host{Wildcard: true}},
		{in: "*.Example.com.", want: Host{Name: "example.com", Wildcard: true}},
		{in: "api.example.com", want: Host{Name: "api.example.com"}},
		{in: "*.com", want: Host{Name: "com", Wildcard: true}},
		{in: "[::1]", want: Host{Name: "::1"}},
		{in: "api*.example.com", err: "whole first label"},
		{in: "**.example.com", err: "whole first label"},
		{in: "a.*.com", err: "whole first label"},
		{in: "*example.com", err: "whole first label"},
		{in: "*.", err: "is empty"},
		{in: "*.127.0.0.1", err: "no subdomains"},
		{in: "https://example.com", err: "without scheme or path"},
		{in: "example.com/x", err: "without scheme or path"},
		{in: "example.com:443", err: `key "ports"`},
	}
	for _, tt := range tests {
		got, err := ParseHost(tt.in)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("ParseHost(%q) = %v, %v; want an error with %q", tt.in, got, err, tt.err)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("ParseHost(%q) = %+v, %v; want %+v", tt.in, got, err, tt.want)
		}
	}
}

func TestHostMatch(t *testing.T) {
	tests := []struct {
		pattern, host string
		want          bool
	}{
		{"*.example.com", "a.example.com", true},
		{"*.example.com", "a.b.c.example.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", "badexample.com", false},
		{"*.example.com", ".example.com", false},
		{"example.com", "example.com", true},
		{"example.com", "a.example.com", false},
		{"*", "example.com", true},
		{"*", "localhost", true},
		{"*", "127.0.0.1", false},
		{"*", "::1", false},
		{"*", "", false},
		{"127.0.0.1", "127.0.0.1", true},
	}
	for _, tt := range tests {
		h, err := ParseHost(tt.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := h.Match(tt.host); got != tt.want {
			t.Errorf("%s matches %s: %v, want %v", tt.pattern, tt.host, got, tt.want)
		}
	}
}

// FuzzCanonicalHost: what is accepted is a fixed point, in the allowed
// characters, and never something that inet_aton would read as an address.
func FuzzCanonicalHost(f *testing.F) {
	for _, s := range []string{"example.com", "BÜCHER.example.", "0x7f.1", "[::1]", "fe80::1%25eth0", "1.2.3.4", "xn--bcher-kva.example", "a。b", "②130706433", "::ffff:1.2.3.4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		once, err := CanonicalHost(s)
		if err != nil {
			return
		}
		twice, err := CanonicalHost(once)
		if err != nil || once != twice {
			t.Fatalf("%q becomes %q, then %q, %v", s, once, twice, err)
		}
		if len(once) > 253 {
			t.Fatalf("%q is %d bytes long", once, len(once))
		}
		if IsAddress(once) {
			if strings.ContainsAny(once, "%[]/") {
				t.Fatalf("address %q", once)
			}
			return
		}
		for _, c := range []byte(once) {
			if !isNameByte(c) && c != '.' {
				t.Fatalf("%q has %q", once, c)
			}
		}
	})
}
