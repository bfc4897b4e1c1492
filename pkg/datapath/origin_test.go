package datapath_test

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"sallyport/test/outside"
)

// unixCredential is nobody's.
var unixCredential = syscall.Credential{Uid: 65534, Gid: 65534}

// An origin is a real listener at the far end of the cable.
type originServer struct {
	connections atomic.Int64
	mu          sync.Mutex
	received    string
	conns       []net.Conn
}

// origin starts a TCP server and a UDP sink at the address in the far namespace.
func (w *world) origin(addr string) *originServer {
	w.t.Helper()
	o := &originServer{}
	var l net.Listener
	var u net.PacketConn
	err := outside.In(w.outside, func() (err error) {
		if l, err = net.Listen("tcp", addr); err != nil {
			return err
		}
		u, err = net.ListenPacket("udp", addr)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	add := func(b []byte) {
		o.mu.Lock()
		o.received += string(b)
		o.mu.Unlock()
		w.wake()
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			o.mu.Lock()
			o.conns = append(o.conns, conn)
			o.mu.Unlock()
			o.connections.Add(1)
			w.wake()
			go func() {
				defer conn.Close()
				buf := make([]byte, 4096)
				for {
					n, err := conn.Read(buf)
					add(buf[:n])
					if n > 0 {
						_, _ = conn.Write(buf[:n])
					}
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			add(buf[:n])
			_, _ = u.WriteTo(append([]byte("re:"), buf[:n]...), from)
		}
	}()
	w.t.Cleanup(func() {
		l.Close()
		u.Close()
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, c := range o.conns {
			c.Close()
		}
	})
	return o
}

func (o *originServer) data() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.received
}

// say makes the origin speak on every connection.
func (o *originServer) say(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.conns {
		_, _ = c.Write([]byte(text))
	}
}
