package proxy

import (
	"crypto/tls"
	"fmt"
	"testing"
)

const ticketRules = `
rules:
  - {name: all, match: {hosts: ["*"]}, private: [127.0.0.0/8], action: allow}
  - {name: by-address, match: {cidrs: [127.0.0.0/8]}, private: [127.0.0.0/8], action: allow}
`

// oneSession offers one session to every server, whatever its name.
type oneSession struct{ state *tls.ClientSessionState }

func (o *oneSession) Get(string) (*tls.ClientSessionState, bool) { return o.state, o.state != nil }
func (o *oneSession) Put(_ string, s *tls.ClientSessionState)    { o.state = s }

// TestTickets: a workload resumes its own session with the same name, and no
// other one.
func TestTickets(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, tt := range []struct {
			name     string
			workload uint64
			sni      string
			between  func(*gate)
			want     bool
		}{
			{"the same again", 1, "api.example.com", func(*gate) {}, true},
			{"another workload", 2, "api.example.com", func(*gate) {}, false},
			{"another name", 1, "other.example.com", func(*gate) {}, false},
			{"no name", 1, "", func(*gate) {}, false},
			{"another certificate", 1, "api.example.com", func(g *gate) {
				g.ca.mu.Lock()
				defer g.ca.mu.Unlock()
				clear(g.ca.made)
			}, false},
		} {
			t.Run(fmt.Sprintf("%s/%s", tls.VersionName(version), tt.name), func(t *testing.T) {
				g := newGate(t, ticketRules, nil)
				s := g.secure("api.example.com", nil)
				g.know("other.example.com", s.addr.Addr())
				cache := new(oneSession)
				visit := func(workload uint64, sni string) bool {
					t.Helper()
					c := tls.Client(g.dial(workload, s.dst()), &tls.Config{
						ServerName: sni, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}, MaxVersion: version, ClientSessionCache: cache,
					})
					if err := c.Handshake(); err != nil {
						t.Fatal(err)
					}
					if sni == "" {
						sni = s.addr.Addr().String()
					}
					// The tickets of TLS 1.3 come with what is read.
					if r := get(t, c, sni, "/"); r.err != nil {
						t.Fatal(r.err)
					}
					resumed := c.ConnectionState().DidResume
					c.Close()
					return resumed
				}
				if visit(1, "api.example.com") {
					t.Fatal("the first connection resumed a session")
				}
				if cache.state == nil {
					t.Fatal("no ticket was given")
				}
				tt.between(g)
				if got := visit(tt.workload, tt.sni); got != tt.want {
					t.Errorf("resumed: %v, want %v", got, tt.want)
				}
				// What is resumed gives a ticket of its own, as good as the first.
				if tt.want && !visit(tt.workload, tt.sni) {
					t.Error("the session of a resumed connection is not resumed")
				}
			})
		}
	}
}

func BenchmarkBindTickets(b *testing.B) {
	ca := newAuthority(b, "sallyport")
	var all tickets
	config := serverConfig(ca, "http/1.1")
	b.ReportAllocs()
	for b.Loop() {
		all.bind(config, ca, "w1", "api.example.com")
	}
}
