package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"sallyport/pkg/admin/socket"
	"sallyport/pkg/keeper/store"
	"sallyport/pkg/netns"
)

// The names of our own sockets with the service manager, beside the listeners'.
const (
	storedAdmin   = "admin"
	storedExec    = "exec"
	storedMetrics = "metrics"
)

// listenUnix takes a listening socket from the store, or makes it and puts it
// there: who connects while nobody accepts waits.
func (k *Keeper) listenUnix(name string, o socket.Options) (*socket.Socket, error) {
	st := k.options.Store
	if f := st.Take(name); f != nil {
		s, err := socket.Adopt(o, f)
		f.Close()
		if err == nil {
			return s, nil
		}
		k.log.Warn("a stored socket does not fit", zap.Error(err))
		if err := st.Drop(name); err != nil {
			return nil, err
		}
	}
	s, err := socket.Listen(o)
	if err != nil {
		return nil, err
	}
	if err := put(st, name, s.Listener); err != nil {
		return nil, errors.Join(err, s.Listener.Close(), s.Remove())
	}
	return s, nil
}

// put stores a copy of a socket. File.Fd would make the socket blocking.
func put(st *store.Store, name string, c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var perr error
	if err := raw.Control(func(fd uintptr) { perr = st.Put(name, int(fd)) }); err != nil {
		return err
	}
	return perr
}

// leaveUnix closes a socket. Its path stays while the service manager holds it
// for the next process.
func (k *Keeper) leaveUnix(s *socket.Socket) {
	s.Listener.Close()
	if k.options.Store != nil {
		return
	}
	if err := s.Remove(); err != nil {
		k.log.Warn("socket", zap.Error(err))
	}
}

// metricsListener gives the TCP listener of /metrics, nil where it is off. The
// keeper holds it: it passes from one worker to the next.
func (k *Keeper) metricsListener() (*os.File, error) {
	k.mu.Lock()
	at := k.config.Metrics.Listen
	k.mu.Unlock()
	if k.options.Standalone || !at.IsValid() {
		return nil, nil
	}
	if k.metrics != nil && !listens(k.metrics) {
		k.log.Warn("the listener of /metrics was closed by somebody: it is made again")
		k.metrics.Close()
		k.metrics = nil
		if err := k.options.Store.Drop(storedMetrics); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	if k.metrics == nil {
		l, err := listenMetrics(k.options.Store, at.String(), func() (*net.TCPListener, error) { return netns.ListenTCP(nil, at) })
		if err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
		k.metrics = l
	}
	raw, err := k.metrics.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	var fd int
	var derr error
	err = raw.Control(func(n uintptr) { fd, derr = duplicate(int(n)) })
	if err := errors.Join(err, derr); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return os.NewFile(uintptr(fd), storedMetrics), nil
}

// listens reports whether a socket still accepts: who may administer the network
// can close a listener for everybody who has it.
func listens(f *os.File) bool {
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	accepts := 0
	var aerr error
	err = raw.Control(func(fd uintptr) { accepts, aerr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN) })
	return err == nil && aerr == nil && accepts == 1
}

// listenMetrics takes the listener from the store if it has the address, or makes
// it and puts it there.
func listenMetrics(st *store.Store, at string, listen func() (*net.TCPListener, error)) (*os.File, error) {
	if f := st.Take(storedMetrics); f != nil {
		if l, err := net.FileListener(f); err == nil {
			bound := l.Addr().String()
			l.Close()
			if bound == at && listens(f) {
				return f, nil
			}
		}
		f.Close()
		if err := st.Drop(storedMetrics); err != nil {
			return nil, err
		}
	}
	l, err := listen()
	if err != nil {
		return nil, err
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		return nil, err
	}
	if err := put(st, storedMetrics, l); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
