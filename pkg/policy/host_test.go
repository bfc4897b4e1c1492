package policy

import "testing"

func TestCanonicalAuthority(t *testing.T) {
	tests := []struct {
		in   string
		host string
		port uint16
		bad  bool
	}{
		{in: "example.com", host: "example.com", port: 443},
		{in: "Example.com.:8443", host: "example.com", port: 8443},
		{in: "example.com:", host: "example.com", port: 443},
		{in: "example.com:080", host: "example.com", port: 80},
		{in: "[::1]", host: "::1", port: 443},
		{in: "[::1]:80", host: "::1", port: 80},
		{in: "192.0.2.1:80", host: "192.0.2.1", port: 80},
		{in: "", bad: true},
		{in: ":443", bad: true},
		{in: "::1", bad: true},
		{in: "::1:80", bad: true},
		{in: "[::1", bad: true},
		{in: "[::1]x:80", bad: true},
		{in: "example.com:0", bad: true},
		{in: "example.com:65536", bad: true},
		{in: "example.com:+80", bad: true},
		{in: "example.com:-1", bad: true},
		{in: "example.com:8 0", bad: true},
		{in: "example.com:http", bad: true},
		{in: "user@example.com", bad: true},
		{in: "user:pw@example.com", bad: true},
		{in: "a:80:80", bad: true},
		{in: "0x7f.1:80", bad: true},
		{in: "example.com, other.com", bad: true},
	}
	for _, tt := range tests {
		host, port, err := CanonicalAuthority(tt.in, 443)
		if tt.bad {
			if err == nil {
				t.Errorf("%q is accepted as %s, %d", tt.in, host, port)
			}
			continue
		}
		if err != nil || host != tt.host || port != tt.port {
			t.Errorf("%q: %s, %d, %v; want %s, %d", tt.in, host, port, err, tt.host, tt.port)
		}
	}
}
