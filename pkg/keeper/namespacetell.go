package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/wire"
	"sallyport/pkg/netns"
)

const (
	// tellAgain is how often it is looked whether the worker knows everything: a new
	// one knows nothing.
	tellAgain = 50 * time.Millisecond
	// dialTimeout bounds a connection to a DNS server.
	dialTimeout = 2 * time.Second
)

// tellLoop has the worker serve what is open, and give up what is not any more.
func (n *namespaces) tellLoop(ctx context.Context) error {
	var to *process
	known := make(map[uint64]int) // local, by cookie
	for range every(ctx, tellAgain, n.news) {
		w := n.k.currentWorker()
		if w != to {
			to, known = w, make(map[uint64]int)
			n.setInformed(known)
			n.forgive()
		}
		if w == nil {
			continue
		}
		if n.tellWorker(ctx, w, known) {
			n.setInformed(known)
			n.prodProof()
		}
	}
	return nil
}

// tellWorker brings one worker up to date. It reports whether there was anything
// to tell.
func (n *namespaces) tellWorker(ctx context.Context, w *process, known map[uint64]int) (told bool) {
	open := make(map[uint64]bool)
	for _, ns := range n.all() {
		open[ns.cookie] = true
		ns.mu.Lock()
		local := ns.local
		ns.mu.Unlock()
		had, knows := known[ns.cookie]
		if knows && had == local {
			continue
		}
		args := protocol.NamespaceArgs{Cookie: ns.cookie, Local: ns.book.Prefixes()}
		var files []*os.File
		if !knows {
			var err error
			if args.Roles, files, err = ns.ls.files(); err != nil {
				n.log.Error("listeners of a network namespace", zap.Error(err))
				continue
			}
			if len(files) == 0 {
				continue // it was closed meanwhile
			}
		}
		if !n.call(ctx, w, protocol.OpenNamespace, args, files) {
			return told
		}
		known[ns.cookie] = local
		told = true
	}
	for cookie := range known {
		if open[cookie] {
			continue
		}
		if !n.call(ctx, w, protocol.CloseNamespace, protocol.NamespaceArgs{Cookie: cookie}, nil) {
			return told
		}
		delete(known, cookie)
		told = true
	}
	return told
}

func (n *namespaces) call(ctx context.Context, w *process, method string, args protocol.NamespaceArgs, files []*os.File) bool {
	defer closeFiles(files)
	ctx, cancel := context.WithTimeout(ctx, workerStart)
	defer cancel()
	if _, err := w.peer.Call(ctx, method, args, files, nil); err != nil {
		if !errors.Is(err, wire.ErrGone) && ctx.Err() == nil {
			n.log.Warn("the worker was not told", zap.String("method", method), zap.Error(err))
		}
		return false
	}
	return true
}

func (n *namespaces) setInformed(known map[uint64]int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.informed)
	for cookie := range known {
		n.informed[cookie] = struct{}{}
	}
}

// forgive forgets probes that failed: it was the worker that had gone.
func (n *namespaces) forgive() {
	for _, ns := range n.all() {
		ns.mu.Lock()
		ns.failures = 0
		ns.mu.Unlock()
	}
}

func (n *namespaces) isInformed(cookie uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.informed[cookie]
	return ok
}

// currentWorker gives the worker that serves, nil while there is none.
func (k *Keeper) currentWorker() *process {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.serving {
		return nil
	}
	return k.worker
}

// resource tells how full the places for namespaces are.
func (n *namespaces) resource() protocol.Resource {
	n.mu.Lock()
	defer n.mu.Unlock()
	return protocol.Resource{Name: "network_namespaces", Entries: len(n.open), Capacity: maxNamespaces}
}

// dialDNS opens a connection to the DNS server that a workload asked, from inside
// the workload's network namespace. The worker may be in hostile hands, and the
// workload chose the server: only one that the workload cannot have set up is
// reached, on the port of DNS, and only where the configuration asks for it.
func (k *Keeper) dialDNS(ctx context.Context, m *wire.Message) (any, []*os.File, error) {
	defer m.CloseFiles()
	var in protocol.DialDNSArgs
	if err := m.Decode(&in); err != nil {
		return nil, nil, err
	}
	k.mu.Lock()
	on := k.config.DNS.Original
	k.mu.Unlock()
	if !on || in.Server.Port() != 53 || in.Network != "udp" && in.Network != "tcp" {
		return nil, nil, errors.New("dns.upstreams has no `original`, or this is no DNS server")
	}
	ns, book := (*os.File)(nil), k.own
	if in.Cookie != k.namespaces.home {
		var err error
		if ns, book, err = k.namespaces.dup(in.Cookie); err != nil {
			return nil, nil, err
		}
		defer ns.Close()
	}
	server := in.Server.Addr().Unmap()
	if !book.Contains(server) && !k.own.Contains(server) {
		gateways, err := netns.Gateways(ns)
		if err != nil {
			return nil, nil, err
		}
		if !slices.Contains(gateways, server) {
			// Anybody's server: the workload could get any address for any name.
			return nil, nil, fmt.Errorf("%s is no address of the network namespace, its gateway or the host", server)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := netns.Dial(ctx, ns, in.Network, in.Server)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	switch c := conn.(type) {
	case *net.UDPConn:
		return oneFile(c.File())
	case *net.TCPConn:
		return oneFile(c.File())
	default:
		return nil, nil, fmt.Errorf("%T has no descriptor", conn)
	}
}

// dup gives a namespace that is open, for a moment, and what is local to it. Where
// a workload may be root no server is anybody's but its own.
func (n *namespaces) dup(cookie uint64) (*os.File, *netns.AddressBook, error) {
	ns, f, err := n.hold(cookie)
	if err != nil {
		return nil, nil, err
	}
	if !ns.ruled {
		f.Close()
		return nil, nil, errors.New("the network namespace belongs to another user namespace: whoever is root there can answer in any server's place")
	}
	return f, ns.book, nil
}

// hold gives a namespace that is open and a descriptor of it, which the caller
// closes.
func (n *namespaces) hold(cookie uint64) (*namespace, *os.File, error) {
	for _, ns := range n.all() {
		if ns.cookie != cookie {
			continue
		}
		ns.mu.Lock()
		defer ns.mu.Unlock()
		if ns.closed {
			break
		}
		fd, err := duplicate(int(ns.file.Fd()))
		if err != nil {
			return nil, nil, err
		}
		return ns, os.NewFile(uintptr(fd), "netns"), nil
	}
	return nil, nil, fmt.Errorf("no network namespace %d", cookie)
}
