package datapath_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"sallyport/pkg/origin"
	"sallyport/test/outside"
)

// childEnv makes the test binary a child that does system calls for the test.
const childEnv = "SALLYPORT_DATAPATH_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		serveChild()
		return
	}
	os.Exit(m.Run())
}

// A call is one system call for a child to do; a reply is what it gave.
type call struct {
	Op                 string
	FD, Flags          int
	Family, Type       int
	Protocol           int
	Addr               string
	Level, Option      int
	Value              []byte
	Data               string
	Control            []byte
	Path               string
	PID, Remote, Count int
}

type reply struct {
	Value int // descriptor or number of bytes
	Errno int
	Addr  string
	Data  string
	Error string
	Flow  origin.Flow
}

func (r reply) err() error {
	if r.Error != "" {
		return errors.New(r.Error)
	}
	if r.Errno != 0 {
		return unix.Errno(r.Errno)
	}
	return nil
}

// A child is a process in a cgroup and a network namespace.
type child struct {
	t   testing.TB
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
	end func()
}

// spawn starts a child in the cgroup, inside the world's first namespace.
func (w *world) spawn(cgroup string, change ...func(*exec.Cmd)) *child {
	w.t.Helper()
	return w.spawnIn(w.inside, cgroup, change...)
}

func (w *world) spawnIn(ns *os.File, cgroup string, change ...func(*exec.Cmd)) *child {
	w.t.Helper()
	dir, err := os.Open(cgroup)
	if err != nil {
		w.t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command("/proc/self/exe")
	// A call with a limit in time ends with EINTR at any signal (signal(7)), also at
	// those by which Go preempts.
	cmd.Env = append(os.Environ(), childEnv+"=1", "GODEBUG=asyncpreemptoff=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	for _, c := range change {
		c(cmd)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := outside.In(ns, cmd.Start); err != nil {
		w.t.Fatalf("child: %v", err)
	}
	c := &child{t: w.t, cmd: cmd, in: json.NewEncoder(stdin), out: json.NewDecoder(stdout)}
	ended := false
	c.end = func() {
		if ended {
			return
		}
		ended = true
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			w.t.Errorf("child: %v", err)
		}
	}
	w.t.Cleanup(c.end)
	return c
}

func (c *child) pid() uint32 { return uint32(c.cmd.Process.Pid) }

// do makes the child do one call.
func (c *child) do(k call) reply {
	c.t.Helper()
	if err := c.in.Encode(k); err != nil {
		c.t.Fatalf("child: %v", err)
	}
	var r reply
	if err := c.out.Decode(&r); err != nil {
		c.t.Fatalf("child: %v", err)
	}
	return r
}

// must does a call that has to succeed.
func (c *child) must(k call) reply {
	c.t.Helper()
	r := c.do(k)
	if err := r.err(); err != nil {
		c.t.Fatalf("child: %s %s: %v", k.Op, k.Addr, err)
	}
	return r
}

// fails does a call that has to fail with this error.
func (c *child) fails(k call, want unix.Errno) {
	c.t.Helper()
	if r := c.do(k); r.Error != "" || r.Errno != int(want) {
		c.t.Errorf("child: %s %s: got %v, want %v", k.Op, k.Addr, r.err(), want)
	}
}

func (c *child) tcp(family int) int {
	c.t.Helper()
	return c.must(call{Op: "socket", Family: family, Type: unix.SOCK_STREAM}).Value
}

// hurry has connect and send on a TCP socket give up soon: nobody may answer them.
func (c *child) hurry(fd int) {
	c.t.Helper()
	half := binary.NativeEndian.AppendUint64(make([]byte, 8), 500_000) // struct timeval
	c.must(call{Op: "setsockopt", FD: fd, Level: unix.SOL_SOCKET, Option: unix.SO_SNDTIMEO, Value: half})
}

// abort closes a TCP socket for good: it says nothing again later, when another one is
// looked at.
func (c *child) abort(fd int) {
	c.t.Helper()
	c.must(call{Op: "setsockopt", FD: fd, Level: unix.SOL_SOCKET, Option: unix.SO_LINGER, Value: []byte{1, 0, 0, 0, 0, 0, 0, 0}})
	c.must(call{Op: "close", FD: fd})
}

func (c *child) udp(family int) int {
	c.t.Helper()
	return c.must(call{Op: "socket", Family: family, Type: unix.SOCK_DGRAM}).Value
}

// serveChild does what it is told until its standard input ends.
func serveChild() {
	// setns(2) moves one thread alone.
	runtime.LockOSThread()
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var k call
		if in.Decode(&k) != nil {
			return
		}
		var r reply
		err := perform(k, &r)
		var errno unix.Errno
		if errors.As(err, &errno) {
			r.Errno = int(errno)
		} else if err != nil {
			r.Error = err.Error()
		}
		if out.Encode(r) != nil {
			return
		}
	}
}

func perform(k call, r *reply) (err error) {
	switch k.Op {
	case "socket":
		r.Value, err = unix.Socket(k.Family, k.Type|unix.SOCK_CLOEXEC, k.Protocol)
		if err == nil && k.Type == unix.SOCK_STREAM {
			// A test that hangs tells less than one that fails.
			_ = unix.SetsockoptTimeval(r.Value, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 30})
		}
		if err == nil && k.Type != unix.SOCK_RAW {
			_ = unix.SetsockoptTimeval(r.Value, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30})
		}
	case "connect":
		sa := sockaddr(k.FD, k.Addr)
		err = unix.Connect(k.FD, sa)
	case "disconnect":
		var sa unix.RawSockaddr // AF_UNSPEC
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(k.FD), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
		if errno != 0 {
			err = errno
		}
	case "bind":
		err = unix.Bind(k.FD, sockaddr(k.FD, k.Addr))
	case "listen":
		err = unix.Listen(k.FD, 8)
	case "accept":
		var sa unix.Sockaddr
		r.Value, sa, err = unix.Accept4(k.FD, unix.SOCK_CLOEXEC)
		r.Addr = addrOf(sa)
	case "close":
		err = unix.Close(k.FD)
	case "shutdown":
		err = unix.Shutdown(k.FD, unix.SHUT_WR)
	case "send":
		r.Value, err = unix.SendmsgN(k.FD, []byte(k.Data), k.Control, nil, k.Flags)
	case "sendto":
		r.Value, err = unix.SendmsgN(k.FD, []byte(k.Data), k.Control, sockaddr(k.FD, k.Addr), k.Flags)
	case "sendmmsg":
		r.Value, err = sendmmsg(k.FD, k.Data, k.Count, k.Addr)
	case "recv":
		buf := make([]byte, 4096)
		var n int
		var sa unix.Sockaddr
		n, sa, err = unix.Recvfrom(k.FD, buf, 0)
		if err == nil {
			r.Data, r.Addr = string(buf[:n]), addrOf(sa)
		}
	case "getpeername":
		var sa unix.Sockaddr
		sa, err = unix.Getpeername(k.FD)
		r.Addr = addrOf(sa)
	case "getsockname":
		var sa unix.Sockaddr
		sa, err = unix.Getsockname(k.FD)
		r.Addr = addrOf(sa)
	case "setsockopt":
		err = unix.SetsockoptString(k.FD, k.Level, k.Option, string(k.Value))
	case "setns":
		err = unix.Setns(k.FD, unix.CLONE_NEWNET)
	case "socketpath": // takes a descriptor that somebody passes over a unix socket
		r.Value, err = receive(k.Path)
	case "pass":
		err = pass(k.Path, k.FD)
	case "pidfd_getfd":
		var pidfd int
		if pidfd, err = unix.PidfdOpen(k.PID, 0); err == nil {
			r.Value, err = unix.PidfdGetfd(pidfd, k.Remote, 0)
		}
	case "flow": // looks the flow of an inherited connection up, as the worker does
		accepted := os.NewFile(3, "accepted")
		f, e := net.FileConn(os.NewFile(4, "conn"))
		if e != nil {
			return e
		}
		reader := origin.NewReader(accepted, accepted)
		r.Flow, err = reader.Flow(f.(*net.TCPConn))
		r.Data, _ = privileges()
	case "measure":
		var took time.Duration
		took, err = measure(k.Path, k.Addr, k.Count)
		r.Value = int(took)
	default:
		err = fmt.Errorf("unknown call %q", k.Op)
	}
	return err
}

func privileges() (string, error) {
	status, err := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "CapEff:") {
			return strings.TrimSpace(strings.TrimPrefix(line, "CapEff:")), nil
		}
	}
	return "", err
}

// sockaddr makes the address for the socket's family; IPv4 on an IPv6 socket is
// given mapped. A zone is an interface's name.
func sockaddr(fd int, addr string) unix.Sockaddr {
	ap := netip.MustParseAddrPort(addr)
	family, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if family == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().Unmap().As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
	if zone := ap.Addr().Zone(); zone != "" {
		if ifi, err := net.InterfaceByName(zone); err == nil {
			sa.ZoneId = uint32(ifi.Index)
		}
	}
	return sa
}

func addrOf(sa unix.Sockaddr) string {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)).String()
	}
	return ""
}

// sendmmsg sends count datagrams with one call, as glibc does for A and AAAA; to
// addr if it is not empty.
func sendmmsg(fd int, data string, count int, addr string) (int, error) {
	type mmsghdr struct {
		hdr unix.Msghdr
		len uint32
		_   [4]byte
	}
	payload := []byte(data)
	msgs := make([]mmsghdr, count)
	var raw [unix.SizeofSockaddrInet6]byte
	var size uint32
	if addr != "" {
		ap := netip.MustParseAddrPort(addr)
		binary.NativeEndian.PutUint16(raw[:], unix.AF_INET)
		binary.BigEndian.PutUint16(raw[2:], ap.Port())
		a4 := ap.Addr().As4()
		copy(raw[4:], a4[:])
		size = unix.SizeofSockaddrInet4
	}
	iov := unix.Iovec{Base: &payload[0], Len: uint64(len(payload))}
	for i := range msgs {
		msgs[i].hdr.Iov = &iov
		msgs[i].hdr.SetIovlen(1)
		if size > 0 {
			msgs[i].hdr.Name = &raw[0]
			msgs[i].hdr.Namelen = size
		}
	}
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(count), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// receive takes one descriptor from whoever connects to the unix socket.
func receive(path string) (int, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	conn, err := l.Accept()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	oob := make([]byte, 64)
	_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return 0, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return 0, err
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return 0, err
	}
	return fds[0], nil
}

func pass(path string, fd int) error {
	for {
		conn, err := net.Dial("unix", path)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
			continue
		}
		if err != nil {
			return err
		}
		defer conn.Close()
		_, _, err = conn.(*net.UnixConn).WriteMsgUnix([]byte{0}, unix.UnixRights(fd), nil)
		return err
	}
}
