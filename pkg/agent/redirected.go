package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/wire"
	"sallyport/pkg/origin"
)

// An originSource says where connections and datagrams wanted to go: *origin.Reader
// where BPF captures, redirected where the guard does.
type originSource interface {
	Flow(syscall.Conn) (origin.Flow, error)
	Asker(netns uint64, src netip.AddrPort) (origin.Flow, error)
}

// originSource gives the one of this worker.
func (w *worker) originSource() originSource {
	if w.args.Redirected {
		return &redirected{keeper: w.keeper, netns: w.args.Netns}
	}
	return origin.NewReader(w.files.accepted, w.files.askers)
}

// redirected asks the keeper, who may ask conntrack and sock_diag: the first takes
// CAP_NET_ADMIN.
type redirected struct {
	keeper *wire.Peer
	netns  uint64
}

// Flow gives the origin of an accepted connection. Which process made it nobody
// knows here. It is to be asked before anything is read from the connection.
func (r *redirected) Flow(conn syscall.Conn) (origin.Flow, error) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return origin.Flow{}, fmt.Errorf("origin: %T is no TCP connection", conn)
	}
	peer := tcp.RemoteAddr().(*net.TCPAddr).AddrPort()
	cookie, err := namespaceOf(conn)
	if err != nil {
		return origin.Flow{}, err
	}
	flow, err := r.ask(cookie, false, peer)
	if err != nil {
		return origin.Flow{}, err
	}
	// What the keeper found is this connection's only if that lived all the while
	// (keeper's gate.origin).
	alive, err := lives(conn)
	if err != nil {
		return origin.Flow{}, err
	}
	if !alive {
		return origin.Flow{}, origin.ErrNoFlow
	}
	return flow, nil
}

// Asker gives who sent a datagram to our resolver.
func (r *redirected) Asker(netns uint64, src netip.AddrPort) (origin.Flow, error) {
	return r.ask(netns, true, src)
}

func (r *redirected) ask(cookie uint64, udp bool, peer netip.AddrPort) (origin.Flow, error) {
	limit := answerTime
	if udp {
		limit = lookTime
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
	var o protocol.OriginResult
	if _, err := r.keeper.Call(ctx, protocol.Origin, protocol.OriginArgs{Netns: cookie, UDP: udp, Peer: peer}, nil, &o); err != nil {
		return origin.Flow{}, fmt.Errorf("origin: %w", err)
	}
	if !o.Found {
		return origin.Flow{}, fmt.Errorf("%w: %s", origin.ErrNoFlow, o.Why)
	}
	return origin.Flow{ID: o.Socket, Src: o.Src, Dst: o.Dst, Cgroup: o.Cgroup, Workload: o.Cgroup, Netns: cookie, UID: o.UID}, nil
}

// TCP states of accepted connections that still have their 4-tuple, linux/tcp.h.
const (
	tcpEstablished = 1
	tcpCloseWait   = 8
)

// lives reports whether an accepted connection still has its 4-tuple.
func lives(conn syscall.Conn) (alive bool, err error) {
	err = control(conn, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			alive = info.State == tcpEstablished || info.State == tcpCloseWait
		}
		return err
	})
	return alive, err
}

// namespaceOf gives the cookie of the network namespace of a socket.
func namespaceOf(conn syscall.Conn) (cookie uint64, err error) {
	err = control(conn, func(fd int) (err error) {
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	return cookie, err
}

func control(conn syscall.Conn, f func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("origin: descriptor of the connection: %w", err)
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return fmt.Errorf("origin: descriptor of the connection: %w", err)
	}
	if ferr != nil {
		return fmt.Errorf("origin: the connection's socket: %w", ferr)
	}
	return nil
}
