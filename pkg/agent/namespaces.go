package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"go.uber.org/zap"

	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/wire"
)

// namespaces are the workloads' network namespaces other than the worker's own,
// with the listeners that the keeper opened inside.
type namespaces struct {
	mu   sync.Mutex
	open map[uint64]context.CancelFunc
}

// openNamespace serves the listeners of a namespace. For one that is served
// already it brings what is local there now.
func (a *Agent) openNamespace(_ context.Context, m *wire.Message) (any, []*os.File, error) {
	var args protocol.NamespaceArgs
	w, err := a.current()
	if err == nil {
		err = m.Decode(&args)
	}
	if err == nil && len(args.Roles) != len(m.Files) {
		err = fmt.Errorf("namespace: %d descriptors for %d roles", len(m.Files), len(args.Roles))
	}
	if err != nil {
		m.CloseFiles()
		return nil, nil, err
	}
	return nil, nil, w.openNamespace(&args, m.Files)
}

func (a *Agent) closeNamespace(_ context.Context, m *wire.Message) (any, []*os.File, error) {
	defer m.CloseFiles()
	var args protocol.NamespaceArgs
	w, err := a.current()
	if err == nil {
		err = m.Decode(&args)
	}
	if err == nil {
		w.closeNamespace(args.Cookie)
	}
	return nil, nil, err
}

func (w *worker) openNamespace(args *protocol.NamespaceArgs, descriptors []*os.File) error {
	// First what must not be dialled from here, then those who could ask for it.
	w.own.locals.set(args.Cookie, args.Local)
	if len(descriptors) == 0 {
		return nil
	}
	var f files
	if err := f.takeListeners(args.Roles, descriptors); err != nil {
		f.closeListeners()
		return fmt.Errorf("namespace: %w", err)
	}
	w.namespaces.mu.Lock()
	defer w.namespaces.mu.Unlock()
	if w.serving.Err() != nil {
		f.closeListeners()
		return errors.New("namespace: the worker stops")
	}
	if end := w.namespaces.open[args.Cookie]; end != nil {
		end()
	}
	open, end := context.WithCancel(w.serving)
	if w.namespaces.open == nil {
		w.namespaces.open = make(map[uint64]context.CancelFunc)
	}
	w.namespaces.open[args.Cookie] = end
	serve := func(what string, f func() error) {
		w.running.Go(func() {
			if err := f(); err != nil && open.Err() == nil {
				// The keeper's probe finds out and opens the namespace again.
				w.log.Error("ended", zap.String("part", what), zap.Uint64("namespace", args.Cookie), zap.Error(err))
			}
		})
	}
	for _, l := range f.tcp {
		serve("listener", func() error { return w.proxy.ServeWhile(w.serving, open, l) })
	}
	for _, c := range f.dns {
		serve("dns", func() error {
			defer c.Close()
			return w.resolver.ServeUDP(open, c, args.Cookie)
		})
	}
	return nil
}

// closeNamespace gives the listeners of a namespace up. Its connections end as
// their workload ends them.
func (w *worker) closeNamespace(cookie uint64) {
	w.namespaces.mu.Lock()
	end := w.namespaces.open[cookie]
	delete(w.namespaces.open, cookie)
	w.namespaces.mu.Unlock()
	if end != nil {
		end()
	}
	w.own.locals.forget(cookie)
}

// takeListeners sorts listeners by role.
func (f *files) takeListeners(roles []protocol.Role, descriptors []*os.File) error {
	for _, role := range roles {
		if role != protocol.RoleTCP && role != protocol.RoleDNS {
			closeAll(descriptors)
			return fmt.Errorf("role %q is no listener's", role)
		}
	}
	return f.sort(roles, descriptors)
}

func (f *files) closeListeners() {
	for _, l := range f.tcp {
		if l != nil {
			l.Close()
		}
	}
	for _, c := range f.dns {
		c.Close()
	}
}

func closeAll(descriptors []*os.File) {
	for _, d := range descriptors {
		d.Close()
	}
}

// locals are what is local to each of these namespaces.
type locals struct {
	mu sync.RWMutex
	of map[uint64][]netip.Prefix
}

func (l *locals) set(netns uint64, local []netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = make(map[uint64][]netip.Prefix)
	}
	l.of[netns] = local
}

func (l *locals) forget(netns uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.of, netns)
}

// contains reports whether an address is local to a namespace. Of one that is not
// known every address is: nobody can tell.
func (l *locals) contains(netns uint64, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if a.IsLoopback() || a.IsUnspecified() {
		return true
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	local, known := l.of[netns]
	return !known || slices.ContainsFunc(local, func(p netip.Prefix) bool { return p.Contains(a) })
}

// dialOriginal has the keeper open a connection to the server that a workload
// asked, inside the workload's namespace.
func (w *worker) dialOriginal(ctx context.Context, network string, netns uint64, server netip.AddrPort) (net.Conn, error) {
	files, err := w.keeper.Call(ctx, protocol.DialDNS, protocol.DialDNSArgs{Cookie: netns, Network: network, Server: server}, nil, nil)
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	if len(files) != 1 {
		return nil, fmt.Errorf("dial %s: %d descriptors", server, len(files))
	}
	return net.FileConn(files[0])
}
