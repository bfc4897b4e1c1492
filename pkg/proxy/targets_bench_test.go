package proxy

import (
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"
)

// BenchmarkTargets is one keep-alive exchange of 1 KB in clear: with the host
// itself, and with targets in its place.
func BenchmarkTargets(b *testing.B) {
	response := append([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n"), make([]byte, 1024)...)
	for _, tt := range []struct {
		name, upstream, rule string
		n                    int
	}{
		{"none", "", "", 1},
		{"round_robin", "algorithm: round_robin", "", 3},
		{"least_conn", "algorithm: least_conn", "", 3},
		{"hash_and_retry", "algorithm: consistent_hash, hash_on: path", ", retry: {attempts: 3, on: [connect, '503'], backoff: 1ms}", 3},
	} {
		b.Run(tt.name, func(b *testing.B) {
			s := newStreet(b)
			s.p.Audit = discard{}
			ports := map[string]uint16{}
			for i := range tt.n {
				ln, at := s.listen("127.0.0.1:0")
				b.Cleanup(func() { ln.Close() })
				go func() {
					for {
						c, err := ln.Accept()
						if err != nil {
							return
						}
						go canned(c, response)
					}
				}()
				name := fmt.Sprintf("t%d.test", i)
				s.book.addrs[name] = []netip.Addr{at.addr.Addr()}
				ports[name] = at.addr.Port()
				s.book.addrs["search.test"] = s.book.addrs[name]
			}
			c := s.clear()
			if tt.upstream == "" {
				s.p.Apply(settings(b, "rules: [{ name: search, match: { hosts: [search.test] }, private: [127.0.0.0/8], action: allow }]"))
				c = s.dial(1, fmt.Sprintf("127.0.0.1:%d", ports["t0.test"]))
			} else {
				s.apply(tt.upstream+", "+targets(ports), tt.rule)
			}
			c.SetDeadline(time.Time{})
			got := make([]byte, len(response))
			const request = "GET /some/path HTTP/1.1\r\nHost: search.test\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n\r\n"
			b.ReportAllocs()
			for b.Loop() {
				if _, err := io.WriteString(c, request); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, got); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
