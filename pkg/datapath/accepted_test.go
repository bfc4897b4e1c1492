package datapath_test

import (
	"context"
	"errors"
	"net"
	"syscall"

	"sallyport/pkg/datapath"
	"sallyport/pkg/origin"
	"sallyport/test/outside"
)

// accepted is what the worker would see of one connection.
type accepted struct {
	flow origin.Flow
	err  error
	data string
	conn *net.TCPConn
}

// listen makes, marks and lists our listeners, and accepts as the worker would.
func (w *world) listen() {
	err := outside.In(w.inside, func() error {
		config := net.ListenConfig{}
		config.SetMultipathTCP(false)
		tcp := func(addr string) *net.TCPListener {
			l, err := config.Listen(context.Background(), "tcp", addr)
			if err != nil {
				w.t.Errorf("listen %s: %v", addr, err)
				return nil
			}
			return l.(*net.TCPListener)
		}
		w.tcp4, w.tcp6, w.probe = tcp("127.0.0.1:0"), tcp("[::1]:0"), tcp("127.0.0.1:0")
		var err4, err6 error
		w.dns4, err4 = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		w.dns6, err6 = net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
		return errors.Join(err4, err6)
	})
	if err != nil || w.tcp4 == nil || w.tcp6 == nil || w.probe == nil {
		w.t.Fatalf("listeners: %v", err)
	}
	for _, s := range []syscall.Conn{w.tcp4, w.tcp6, w.dns4, w.dns6, w.probe} {
		w.mark(s)
	}
	for _, l := range []*net.TCPListener{w.tcp4, w.tcp6, w.probe} {
		w.accept(l)
	}
	for _, c := range []*net.UDPConn{w.dns4, w.dns6} {
		w.resolve(c)
	}
	if err := w.d.SetListeners(w.netns, w.listeners()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) listeners() datapath.Listeners {
	return datapath.Listeners{
		TCP4:  w.tcp4.Addr().(*net.TCPAddr).AddrPort(),
		TCP6:  w.tcp6.Addr().(*net.TCPAddr).AddrPort(),
		DNS4:  w.dns4.LocalAddr().(*net.UDPAddr).AddrPort(),
		DNS6:  w.dns6.LocalAddr().(*net.UDPAddr).AddrPort(),
		Probe: w.probe.Addr().(*net.TCPAddr).AddrPort(),
	}
}

func (w *world) mark(s syscall.Conn) {
	raw, err := s.SyscallConn()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := errors.Join(raw.Control(func(fd uintptr) { err = w.d.MarkListener(fd) }), err); err != nil {
		w.t.Fatal(err)
	}
}

// accept takes connections, looks their flow up, and answers what they send.
func (w *world) accept(l *net.TCPListener) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.AcceptTCP()
			if err != nil {
				return
			}
			a := accepted{conn: conn}
			a.flow, a.err = w.reader.Flow(conn)
			w.mu.Lock()
			w.accepted = append(w.accepted, a)
			i := len(w.accepted) - 1
			w.mu.Unlock()
			w.wake()
			go func() {
				defer conn.Close()
				buf := make([]byte, 4096)
				for {
					n, err := conn.Read(buf)
					if n > 0 {
						w.mu.Lock()
						w.accepted[i].data += string(buf[:n])
						w.mu.Unlock()
						w.wake()
						_, _ = conn.Write(buf[:n])
					}
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	w.t.Cleanup(func() {
		l.Close()
		<-done
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, a := range w.accepted {
			if a.conn != nil { // datagrams have none
				a.conn.Close()
			}
		}
	})
}

// resolve answers each datagram with what the asker table says about it.
func (w *world) resolve(c *net.UDPConn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			flow, err := w.reader.Asker(w.netns, from)
			w.mu.Lock()
			w.accepted = append(w.accepted, accepted{flow: flow, err: err, data: string(buf[:n])})
			w.mu.Unlock()
			w.wake()
			_, _ = c.WriteToUDPAddrPort(append([]byte("re:"), buf[:n]...), from)
		}
	}()
	w.t.Cleanup(func() { c.Close(); <-done })
}

// acceptedAs waits for the connection or datagram whose data is this.
func (w *world) acceptedAs(data string) accepted {
	w.t.Helper()
	var found accepted
	w.await("accepted data "+data, func() bool {
		for _, a := range w.accepted {
			if a.data == data {
				found = a
				return true
			}
		}
		return false
	})
	return found
}
