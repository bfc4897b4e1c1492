package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/net/dns/dnsmessage"
)

// A Dialer opens a connection to a DNS server from inside the network namespace
// with this cookie. It refuses a server that a workload could have chosen or set
// up for itself: by such a one it would give any name any address.
type Dialer func(ctx context.Context, network string, netns uint64, server netip.AddrPort) (net.Conn, error)

// A scope is where a question was meant to go. What a server in one namespace
// says is told to nobody in another. The zero scope is that of the configured
// servers.
type scope struct {
	netns  uint64
	server netip.AddrPort
}

// String tells scopes apart; the zero scope is "".
func (s scope) String() string {
	if s == (scope{}) {
		return ""
	}
	return fmt.Sprintf("%d %s ", s.netns, s.server)
}

// original is what concerns the servers that workloads ask.
type original struct {
	on   atomic.Bool
	dial Dialer
	// last is the scope that each workload last asked in: the proxy looks names up
	// there too. When it is full, the workload that was silent for longest has its
	// names looked up at the configured servers.
	last *lru.Cache[string, scope]
}

func newOriginal(on bool, dial Dialer, workloads int) (*original, error) {
	last, err := lru.New[string, scope](workloads)
	if err != nil {
		return nil, err
	}
	o := &original{dial: dial, last: last}
	o.on.Store(on)
	return o, nil
}

// asked gives the scope of a client's question.
func (o *original) asked(client Client) scope {
	if !o.on.Load() || o.dial == nil || !client.Server.IsValid() {
		return scope{}
	}
	s := scope{client.Netns, client.Server}
	if old, ok := o.last.Get(client.Workload); !ok || old != s {
		o.last.Add(client.Workload, s)
	}
	return s
}

// scopeOf gives the scope in which a workload's names are looked up.
func (o *original) scopeOf(workload string) scope {
	if !o.on.Load() || o.dial == nil {
		return scope{}
	}
	s, _ := o.last.Get(workload)
	return s
}

var errNoOriginal = errors.New("no original server")

// askOriginal asks the server that the workload asked. On an error the configured
// servers are asked: the workload gets their answer or none.
func (r *Resolver) askOriginal(ctx context.Context, from scope, name string, typ dnsmessage.Type, do bool) (*answer, error) {
	if from == (scope{}) {
		return nil, errNoOriginal
	}
	dial := func(ctx context.Context, network string) (net.Conn, error) {
		return r.original.dial(ctx, network, from.netns, from.server)
	}
	a, err := askServer(ctx, dial, r.limits.Timeout, name, typ, do)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from.server, err)
	}
	return a, nil
}
