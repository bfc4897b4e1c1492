package bypass

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
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
		err = n.meet(h)
	}
	if err == nil {
		err = outside.In(n.ns, n.serve)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// meet has both ends of the cable know each other: nothing waits for an answer of ARP
// or neighbour discovery, and is seen only in the next look at the wire.
func (n *internet) meet(h *host) error {
	ns := h.namespace()
	defer ns.Close()
	near, far := outside.End{Namespace: ns, Interface: "eth0"}, outside.End{Namespace: n.ns, Interface: "ve0"}
	var nears, fars []netip.Addr
	for _, a := range []string{hostV4, hostV6, linkLocal} {
		nears = append(nears, netip.MustParseAddr(a))
	}
	for _, a := range []string{originV4, otherV4, dnsV4, metadataV4, "10.0.0.1", originV6, linkLocalFar} {
		fars = append(fars, netip.MustParseAddr(a))
	}
	return errors.Join(outside.Ready(near, nears...), outside.Ready(far, fars...), outside.Acquaint(near, far, fars...), outside.Acquaint(far, near, nears...))
}

// quiet waits until those who receive have read all that has come.
func (n *internet) quiet() {
	n.t.Helper()
	waiting := ""
	if !within(patient(10*time.Second), func() bool { waiting = unread(n.ns); return waiting == "" }) {
		n.t.Errorf("at the origin somebody does not read: %s", waiting)
	}
}

// unread gives a line of /proc/net of a socket that has received what nobody has read,
// or has a connection that nobody has accepted; "" if there is none.
func unread(ns *os.File) string {
	return socketOf(ns, func(f []string) bool {
		_, queue, ok := strings.Cut(f[4], ":")
		return ok && strings.Trim(queue, "0") != ""
	})
}

// socketOf gives a line of /proc/net of a socket of that namespace which is wanted; ""
// if there is none. Its fields: sl local_address rem_address st tx_queue:rx_queue
// (proc(5)).
func socketOf(ns *os.File, want func(fields []string) bool) (found string) {
	err := outside.In(ns, func() error {
		for _, name := range []string{"tcp", "tcp6", "udp", "udp6"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + name)
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(b)) {
				if f := strings.Fields(line); len(f) > 4 && f[0] != "sl" && want(f) {
					found = name + " " + line
				}
			}
		}
		return nil
	})
	if err != nil {
		return err.Error()
	}
	return found
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
