package bypass

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"sallyport/test/outside"
)

// Addresses of the cable. The host's end is in 203.0.113.0/24 as well, so that
// nothing here is a private address by accident.
const (
	hostV4     = "203.0.113.1"
	hostV6     = "2001:db8:113::1"
	originV4   = "203.0.113.10"
	originV6   = "2001:db8:113::10"
	otherV4    = "203.0.113.11"
	dnsV4      = "203.0.113.53"
	metadataV4 = "169.254.169.254"

	linkLocal, linkLocalFar = "fe80::1", "fe80::10"
)

// An arrival is one connection or datagram that somebody received: at the origin,
// or at a relay on the host itself.
type arrival struct {
	at, network string
	from        netip.AddrPort
	data        []byte
}

// arrivals counts what was received, by whomever.
type arrivals struct {
	mu   sync.Mutex
	list []*arrival
}

func (a *arrivals) add(at, network string, from net.Addr) *arrival {
	one := &arrival{at: at, network: network}
	if addr, err := netip.ParseAddrPort(from.String()); err == nil {
		one.from = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, one)
	return one
}

func (a *arrivals) more(one *arrival, data []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(one.data) < 1<<16 {
		one.data = append(one.data, data...)
	}
}

// count gives how many arrivals satisfy want.
func (a *arrivals) count(want func(*arrival) bool) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, one := range a.list {
		if want(one) {
			n++
		}
	}
	return n
}

// fromPort and marked tell whose an arrival is.
func fromPort(port int) func(*arrival) bool {
	return func(a *arrival) bool { return int(a.from.Port()) == port }
}

func marked(marker string) func(*arrival) bool {
	return func(a *arrival) bool { return bytes.Contains(a.data, []byte(marker)) }
}

// An internet is the other end of the host's cable: a DNS server, and origins on
// many ports that count who came and what they brought.
type internet struct {
	t  *testing.T
	ns *os.File
	ca *outside.Authority
	arrivals
	names map[string][]string
}

func newInternet(t *testing.T) *internet {
	return &internet{t: t, ca: outside.NewAuthority(t), ns: outside.NewNamespace(t), names: map[string][]string{
		"api.example.com":             {originV4, originV6},
		"other.example.com":           {otherV4},
		"loopback.rebind.example":     {"127.0.0.1"},
		"loopback6.rebind.example":    {"::1"},
		"mapped.rebind.example":       {"::ffff:127.0.0.1"},
		"unspecified.rebind.example":  {"0.0.0.0"},
		"host.rebind.example":         {hostV4},
		"metadata.rebind.example":     {metadataV4},
		"nat64.rebind.example":        {"64:ff9b::a9fe:a9fe"},
		"mapped-meta.rebind.example":  {"::ffff:169.254.169.254"},
		"private.rebind.example":      {"10.0.0.1"},
		"both-at-once.rebind.example": {"127.0.0.1", metadataV4},
	}}
}

// connect lays the cable and starts the servers.
func (n *internet) connect(h *host) {
	n.t.Helper()
	err := outside.In(n.ns, func() error {
		if err := outside.Plug("lo"); err != nil {
			return err
		}
		cable := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsPid(h.pid)}
		cable.Name = "ve0"
		if err := netlink.LinkAdd(cable); err != nil {
			return fmt.Errorf("cable: %w", err)
		}
		return outside.Plug("ve0", originV4+"/24", otherV4+"/24", dnsV4+"/24", metadataV4+"/32", "10.0.0.1/32", originV6+"/64", linkLocalFar+"/64")
	})
	if err == nil {
		h.here(func() error {
			if err := outside.Plug("lo"); err != nil {
				return err
			}
			if err := outside.Plug("eth0", hostV4+"/24", hostV6+"/64", linkLocal+"/64"); err != nil {
				return err
			}
			for _, gateway := range []string{originV4, originV6} {
				if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}); err != nil {
					return fmt.Errorf("route: %w", err)
				}
			}
			settings := map[string]string{"ipv4/ping_group_range": "0 2147483647", "ipv4/tcp_fastopen": "1"}
			for name, value := range settings {
				// /proc/net leads to the namespace of the thread, /proc/sys too.
				if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
					return err
				}
			}
			return nil
		})
		err = outside.In(n.ns, n.serve)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// The origin's ports.
var (
	tcpPorts = []int{53, 80, 3128, 7443, 8088}
	tlsPorts = []int{443, 853}
	udpPorts = []int{53, 123, 443, 7443}
)

// greetingPort is where the origin speaks first, once it is told to.
const greetingPort = 7777

func (n *internet) serve() error {
	for _, port := range tcpPorts {
		if err := n.serveTCP(port, nil); err != nil {
			return err
		}
	}
	config := &tls.Config{GetCertificate: n.ca.Certificate}
	for _, port := range tlsPorts {
		if err := n.serveTCP(port, config); err != nil {
			return err
		}
	}
	for _, port := range udpPorts {
		if err := n.serveUDP(port); err != nil {
			return err
		}
	}
	return nil
}

// serveTCP receives what comes, and answers each line feed pair as HTTP does.
func (n *internet) serveTCP(port int, config *tls.Config) error {
	ln, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return err
	}
	n.t.Cleanup(func() { ln.Close() })
	go receive(ln, config, "origin", &n.arrivals)
	return nil
}

// receive notes each connection of a listener and what it brings.
func receive(ln net.Listener, config *tls.Config, at string, to *arrivals) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		one := to.add(at, "tcp", c.RemoteAddr())
		go func() {
			defer c.Close()
			c.SetDeadline(time.Now().Add(time.Minute))
			if config != nil {
				c = tls.Server(c, config)
			}
			buf := make([]byte, 4096)
			for {
				k, err := c.Read(buf)
				to.more(one, buf[:k])
				if err != nil {
					return
				}
				if bytes.Contains(buf[:k], []byte("\r\n\r\n")) {
					c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nreached"))
				}
			}
		}()
	}
}

// serveUDP receives datagrams; on port 53 they are questions.
func (n *internet) serveUDP(port int) error {
	// A socket for each address: a question is answered from where it was asked.
	for _, addr := range []string{originV4, otherV4, dnsV4, originV6} {
		pc, err := net.ListenPacket("udp", net.JoinHostPort(addr, strconv.Itoa(port)))
		if err != nil {
			return err
		}
		n.t.Cleanup(func() { pc.Close() })
		go func() {
			buf := make([]byte, 4096)
			for {
				k, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				n.more(n.add("origin", "udp", from), buf[:k])
				if answer := n.resolve(buf[:k]); port == 53 && answer != nil {
					pc.WriteTo(answer, from)
				}
			}
		}()
	}
	return nil
}

// resolve answers A and AAAA from the table.
func (n *internet) resolve(question []byte) []byte {
	return outside.Answer(question, func(name string) ([]string, bool) {
		addresses, known := n.names[name]
		return addresses, known
	})
}
