package keeper

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"sallyport/pkg/guard"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/wire"
	"sallyport/pkg/netns"
	"sallyport/pkg/workload"
)

// Why a redirected connection has no origin. The worker closes it and counts a
// lost flow.
var (
	errNotRedirected = errors.New("nothing of it was redirected")
	errClientGone    = errors.New("the client has gone")
	errManyClients   = errors.New("several workloads have the client's port")
	errNotTagged     = errors.New("the client is not guarded")
	errChanged       = errors.New("the connection changed while it was looked at")
)

// origin tells the worker where a connection wanted to go that the guard
// redirected, and whose it is. The worker could ask for somebody else's; it would
// learn who is connected to it.
func (k *Keeper) origin(_ context.Context, m *wire.Message) (any, []*os.File, error) {
	defer m.CloseFiles()
	var in protocol.OriginArgs
	if err := m.Decode(&in); err != nil {
		return nil, nil, err
	}
	if !k.gate.oneLock() {
		return nil, nil, errors.New("origin: the kernel's maps tell")
	}
	ns, ls, err := k.where(in.Netns)
	var out *protocol.OriginResult
	if err == nil {
		out, err = k.gate.origin(&in, ns, ls)
	}
	if ns != nil {
		ns.Close()
	}
	switch {
	case err == nil:
		out.Found = true
	case errors.Is(err, netns.ErrNotTracked), errors.Is(err, netns.ErrNoSocket), errors.Is(err, workload.ErrGone),
		errors.Is(err, errNotRedirected), errors.Is(err, errClientGone), errors.Is(err, errManyClients),
		errors.Is(err, errNotTagged), errors.Is(err, errChanged):
		out = &protocol.OriginResult{Why: err.Error()}
	default:
		return nil, nil, err
	}
	return out, nil, nil
}

// origin finds the client of a redirected connection.
//
// Two look-ups make it up: conntrack gives the client's own ends for those that
// our socket sees, and sock_diag gives the cgroup of the socket with those ends.
// Neither knows of the other, and a client may end its connection and leave its
// port to the next workload at any moment. Why the answer is exact all the same:
//
//   - As long as our accepted socket is established or has seen the client's end
//     (CLOSE_WAIT), it has its 4-tuple in the kernel's table alone. A SYN with the
//     same 4-tuple reaches that socket and is answered with an ACK that its sender
//     does not accept; that one's RST ends our socket. So no second client can be
//     established behind the same 4-tuple while ours lives, only wait in SYN_SENT.
//     The worker asks its own socket after the answer, and drops the answer where
//     that has ended: then everything here happened while it lived.
//   - A conntrack entry maps one pair of ends to one other, and new ones are made
//     by a SYN alone (see guard.Redirect): an entry that leads to our 4-tuple is
//     that of our client, or of one that waits in SYN_SENT. The entry is read
//     again at the end: the same one was there all the time.
//   - So a socket with the entry's ends that is past SYN_SENT is our client's. In
//     SYN_SENT it may be the next one; in TIME_WAIT, or without a file in
//     FIN_WAIT2, it has no cgroup any more. Both have no origin.
func (g *gate) origin(in *protocol.OriginArgs, ns *os.File, ls *listeners) (*protocol.OriginResult, error) {
	tracked, err := g.tracked(in, ns, ls)
	if err != nil {
		return nil, err
	}
	var s netns.Socket
	if in.UDP {
		s, err = g.asker(ns, &tracked)
	} else {
		s, err = connected(ns, &tracked)
	}
	if err != nil {
		return nil, err
	}
	if err := g.guards(s.Cgroup); err != nil {
		return nil, err
	}
	if again, err := g.tracked(in, ns, ls); err != nil {
		return nil, err
	} else if again.ID != tracked.ID || again.Src != tracked.Src || again.Dst != tracked.Dst {
		return nil, errChanged
	}
	return &protocol.OriginResult{Socket: s.Cookie, Src: tracked.Src, Dst: tracked.Dst, Cgroup: s.Cgroup, UID: s.UID}, nil
}

// tracked reads the conntrack entry of what our socket sees, and demands that the
// guard redirected it.
func (g *gate) tracked(in *protocol.OriginArgs, ns *os.File, ls *listeners) (netns.Tracked, error) {
	local, err := localEnd(in, ls)
	if err != nil {
		return netns.Tracked{}, err
	}
	kind, zone := uint8(unix.IPPROTO_TCP), uint16(0)
	if in.UDP {
		kind, zone = unix.IPPROTO_UDP, g.zone()
	}
	t, err := netns.TrackedAs(ns, kind, local, in.Peer)
	if err == nil && (t.Zone != zone || t.Status&netns.StatusDNAT == 0) {
		err = errNotRedirected
	}
	return t, err
}

// where gives the network namespace with this cookie, nil for our own, and our
// listeners in it. The caller closes the file.
func (k *Keeper) where(cookie uint64) (*os.File, *listeners, error) {
	k.gate.mu.Lock()
	ls := k.gate.ls
	k.gate.mu.Unlock()
	if ls != nil && cookie == ls.cookie {
		return nil, ls, nil
	}
	ns, f, err := k.namespaces.hold(cookie)
	if err != nil {
		return nil, nil, errNotRedirected
	}
	return f, ns.ls, nil
}

// localEnd gives the address of our socket of that kind and family.
func localEnd(in *protocol.OriginArgs, ls *listeners) (netip.AddrPort, error) {
	tcp, dns := ls.addresses()
	ours := tcp
	if in.UDP {
		ours = dns
	}
	for _, a := range ours {
		if a.Addr().Is4() == in.Peer.Addr().Is4() {
			return a, nil
		}
	}
	return netip.AddrPort{}, errNotRedirected
}

// TCP states, linux/tcp.h.
const (
	tcpSynSent  = 2
	tcpSynRecv  = 3
	tcpTimeWait = 6
	tcpClose    = 7
	tcpListen   = 10
	tcpNewSyn   = 12
)

// connected gives the client's socket of a TCP connection.
func connected(ns *os.File, t *netns.Tracked) (netns.Socket, error) {
	s, err := netns.Connected(ns, t.Src, t.Dst)
	if err != nil {
		return s, err
	}
	switch s.State {
	case tcpSynSent, tcpSynRecv, tcpTimeWait, tcpClose, tcpListen, tcpNewSyn:
		return s, errClientGone
	}
	if s.Cgroup == 0 {
		return s, errClientGone
	}
	return s, nil
}

// asker gives the socket that sent a datagram. A port of UDP can have several; if
// those are not of one cgroup nobody knows which of them it was. A datagram has no
// connection that would hold the port: whose socket has it now is believed to
// have sent it, and the resolver answers to that socket and no other.
func (g *gate) asker(ns *os.File, t *netns.Tracked) (netns.Socket, error) {
	all, err := netns.Datagram(ns, t.Src, t.Dst)
	if err != nil {
		return netns.Socket{}, err
	}
	if len(all) == 0 {
		return netns.Socket{}, errClientGone
	}
	if slices.ContainsFunc(all, func(s netns.Socket) bool { return s.Cgroup != all[0].Cgroup }) {
		return netns.Socket{}, errManyClients
	}
	return all[0], nil
}

// guards demands that a cgroup is a tagged one or below one.
func (g *gate) guards(cgroup uint64) error {
	path, err := g.tree.Path(cgroup)
	if err != nil {
		return fmt.Errorf("cgroup %d: %w", cgroup, err)
	}
	g.mu.Lock()
	roots := append([]string{g.tagged.Path()}, g.elsewherePaths()...)
	tagged := slices.Contains(g.state.Tagged, guard.Cgroup{ID: g.tagged.ID(), Level: g.tagged.Level()})
	g.mu.Unlock()
	if !tagged || !slices.ContainsFunc(roots, func(r string) bool { return path == r || strings.HasPrefix(path, r+"/") }) {
		return errNotTagged
	}
	return nil
}

// elsewherePaths are those of the tagged cgroups outside of the slice. The caller
// holds g.mu.
func (g *gate) elsewherePaths() []string {
	paths := make([]string, 0, len(g.elsewhere))
	for path := range g.elsewhere {
		paths = append(paths, path)
	}
	return paths
}
