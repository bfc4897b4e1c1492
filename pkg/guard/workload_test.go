package guard

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// workload is the program in a tagged cgroup: it reads one command a line and
// answers each with one line.
func workload() {
	w := &workloadState{conns: map[int]net.Conn{}}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		fields := strings.Fields(in.Text())
		w.patience = patience
		if fields[0] == patiently {
			w.patience, fields = time.Minute, fields[1:]
		}
		answer, err := w.run(fields[0], fields[1:])
		if err != nil {
			fmt.Println(strings.ReplaceAll(err.Error(), "\n", " "))
			continue
		}
		fmt.Println("ok", answer)
	}
}

type workloadState struct {
	conns map[int]net.Conn
	next  int
	// patience is how long the present command waits for an answer.
	patience time.Duration
	hammered chan [2]int
	enough   chan struct{}
}

// patience is that of a command that may get no answer. Before one that has to succeed
// stands the word patiently: the host may be busy.
const (
	patience  = 400 * time.Millisecond
	patiently = "patiently"
)

func (w *workloadState) run(command string, args []string) (string, error) {
	switch command {
	case "exchange": // NETWORK ADDR [LOCAL]: connect, send, get an echo
		d := net.Dialer{Timeout: w.patience}
		if len(args) > 2 {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(args[2]))
		}
		c, err := d.Dial(args[0], args[1])
		if err != nil {
			return "", err
		}
		defer c.Close()
		return echo(c, w.patience)
	case "abandon": // NETWORK ADDR: an exchange whose answer comes to a closed socket, and one that ends before the server's end
		for _, delay := range []time.Duration{0, patience / 8} {
			c, err := net.DialTimeout(args[0], args[1], w.patience)
			if err != nil {
				return "", err
			}
			if _, err := c.Write([]byte(secret)); err != nil {
				return "", err
			}
			if delay > 0 {
				if err := c.(*net.TCPConn).CloseWrite(); err != nil {
					return "", err
				}
				io.ReadFull(c, make([]byte, len(secret)))
			}
			c.Close()
		}
		return "", nil
	case "bulk": // NETWORK ADDR: an echo of many bytes, in segments as large as they come
		c, err := net.DialTimeout(args[0], args[1], w.patience)
		if err != nil {
			return "", err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * w.patience))
		const size = 16 << 20
		go func() {
			c.Write(make([]byte, size))
			c.(*net.TCPConn).CloseWrite()
		}()
		n, err := io.Copy(io.Discard, c)
		if err == nil && n != size {
			err = fmt.Errorf("%d bytes came back", n)
		}
		return "", err
	case "mapped": // ADDR: an exchange over TCP from an IPv6 socket to a mapped address
		c, err := mapped(netip.MustParseAddrPort(args[0]))
		if err != nil {
			return "", err
		}
		defer c.Close()
		return echo(c, w.patience)
	case "reuse": // LOCAL ADDR: an exchange from a port that we listen on
		d := net.Dialer{Timeout: w.patience, LocalAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(args[0])),
			Control: func(_, _ string, c syscall.RawConn) error {
				return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
			}}
		c, err := d.Dial("tcp4", args[1])
		if err != nil {
			return "", err
		}
		defer c.Close()
		return echo(c, w.patience)
	case "dial": // NETWORK ADDR
		c, err := net.DialTimeout(args[0], args[1], w.patience)
		if err != nil {
			return "", err
		}
		w.next++
		w.conns[w.next] = c
		return strconv.Itoa(w.next), nil
	case "write": // ID N
		id, _ := strconv.Atoi(args[0])
		_, err := w.conns[id].Write([]byte(secret))
		return "", err
	case "read": // ID
		id, _ := strconv.Atoi(args[0])
		w.conns[id].SetReadDeadline(time.Now().Add(w.patience))
		b := make([]byte, 100)
		n, err := w.conns[id].Read(b)
		return string(b[:n]), err
	case "listen": // NETWORK ADDR: answers each connection with an echo
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		}}
		l, err := lc.Listen(context.Background(), args[0], args[1])
		if err != nil {
			return "", err
		}
		go serve(l)
		return l.Addr().String(), nil
	case "packets": // NETWORK ADDR: a UDP echo
		c, err := net.ListenPacket(args[0], args[1])
		if err != nil {
			return "", err
		}
		go func() {
			b := make([]byte, 2048)
			for {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				c.WriteTo(b[:n], from)
			}
		}()
		return c.LocalAddr().String(), nil
	case "raw": // FAMILY PROTOCOL ADDR [PORT]: a raw socket's datagram
		return "", raw(args)
	case "icmp6": // TYPE ADDR
		kind, _ := strconv.Atoi(args[0])
		s, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return "", err
		}
		defer unix.Close(s)
		if err := unix.SetsockoptInt(s, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 255); err != nil {
			return "", err
		}
		message := append([]byte{byte(kind), 0, 0, 0, 0, 0, 0, 0}, secret...)
		return "", unix.Sendto(s, message, 0, sockaddr(netip.MustParseAddrPort(args[1])))
	case "option": // LEVEL OPTION VALUE(hex) NETWORK ADDR: an exchange with a socket option set before connect
		return w.withOption(args)
	case "unshare": // a network namespace of its own making; gives its path
		path := make(chan string)
		go func() {
			runtime.LockOSThread()
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				path <- err.Error()
				return
			}
			path <- fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
			select {}
		}()
		return <-path, nil
	case "hammer": // ADDR: UDP as fast as it goes
		c, err := net.Dial("udp", args[0])
		if err != nil {
			return "", err
		}
		w.hammered, w.enough = make(chan [2]int), make(chan struct{})
		go hammer(c, w.enough, w.hammered)
		return "", nil
	case "hammered": // ends it, after a while; gives how many were sent and refused
		close(w.enough)
		n := <-w.hammered
		return fmt.Sprintf("%d %d", n[0], n[1]), nil
	default:
		return "", errors.New("unknown command " + command)
	}
}

// echo sends the secret and wants it back.
func echo(c net.Conn, patience time.Duration) (string, error) {
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte(secret)); err != nil {
		return "", err
	}
	b := make([]byte, len(secret))
	if _, err := io.ReadFull(c, b); err != nil {
		return "", err
	}
	return string(b), nil
}

func serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

// sockaddr is an address for system calls.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func raw(args []string) error {
	protocol, _ := strconv.Atoi(args[1])
	kind := unix.SOCK_RAW
	if args[0] == "ping" {
		kind = unix.SOCK_DGRAM
	}
	if args[0] == "seqpacket" {
		kind = unix.SOCK_SEQPACKET
	}
	if args[0] == "datagram" {
		kind = unix.SOCK_DGRAM
	}
	to := netip.MustParseAddrPort(args[2])
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	s, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(s)
	message := append([]byte{8, 0, 0, 0, 0, 1, 0, 1}, secret...) // ICMP echo request
	if to.Addr().Is6() {
		message[0] = 128 // ICMPv6 echo request
	}
	if protocol == unix.IPPROTO_RAW && to.Addr().Is4() {
		header := make([]byte, 20)
		header[0], header[8], header[9] = 0x45, 64, unix.IPPROTO_UDP
		dst := to.Addr().As4()
		copy(header[16:], dst[:])
		message = append(header, message...)
	}
	if protocol != unix.IPPROTO_UDPLITE && protocol != unix.IPPROTO_SCTP {
		to = netip.AddrPortFrom(to.Addr(), 0)
	}
	return unix.Sendto(s, message, 0, sockaddr(to))
}

// mapped connects as C programs do; Go's net turns mapped addresses into IPv4.
func mapped(to netip.AddrPort) (net.Conn, error) {
	s, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(s), "mapped")
	defer f.Close()
	if err := unix.Connect(s, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

func (w *workloadState) withOption(args []string) (string, error) {
	level, _ := strconv.Atoi(args[0])
	option, _ := strconv.Atoi(args[1])
	value, err := hexBytes(args[2])
	if err != nil {
		return "", err
	}
	d := net.Dialer{Timeout: w.patience, Control: func(_, _ string, c syscall.RawConn) error {
		var setErr error
		err := c.Control(func(fd uintptr) {
			setErr = unix.SetsockoptString(int(fd), level, option, string(value))
		})
		return errors.Join(err, setErr)
	}}
	c, err := d.Dial(args[3], args[4])
	if err != nil {
		return "", err
	}
	defer c.Close()
	return echo(c, w.patience)
}

func hexBytes(s string) ([]byte, error) {
	if s == "-" {
		return nil, nil
	}
	b := make([]byte, len(s)/2)
	_, err := fmt.Sscanf(s, "%x", &b)
	return b, err
}

// hammer sends until it is enough, and 1,000 datagrams at least.
func hammer(c net.Conn, enough <-chan struct{}, done chan<- [2]int) {
	defer c.Close()
	sent, refused := 0, 0
	for {
		if _, err := c.Write([]byte(secret)); err != nil {
			refused++
		} else {
			sent++
		}
		select {
		case <-enough:
			if sent+refused >= 1000 {
				done <- [2]int{sent, refused}
				return
			}
		default:
		}
	}
}
