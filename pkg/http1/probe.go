package http1

import (
	"net"
	"syscall"
)

// A probe looks whether an idle connection can still carry a request.
type probe struct {
	raw   syscall.RawConn
	look  func(fd uintptr)
	tried bool
	alive bool
	byte  [1]byte
}

// Alive reports whether the idle connection seems usable: the upstream has
// neither closed it nor sent anything unasked. It costs one system call and
// never waits. A connection that cannot be asked is taken for usable.
func (c *ClientConn) Alive() bool {
	p := &c.probe
	if !p.tried {
		p.tried = true
		p.raw = rawConn(c.rd.conn)
		p.look = func(fd uintptr) {
			_, _, err := syscall.Recvfrom(int(fd), p.byte[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			p.alive = err == syscall.EAGAIN
		}
	}
	if c.rd.buffered() > 0 {
		return false
	}
	if p.raw == nil {
		return true
	}
	return p.raw.Control(p.look) == nil && p.alive
}

// rawConn finds the socket under layers such as TLS, nil without one.
func rawConn(conn net.Conn) syscall.RawConn {
	for {
		if sc, ok := conn.(syscall.Conn); ok {
			raw, err := sc.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		}
		inner, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = inner.NetConn()
	}
}
