package main

import (
	"context"
	"net"
	"sync"
	"time"
)

// keepName is for how long a loader remembers an address: long enough that
// asking for names is not most of what it does.
const keepName = 500 * time.Millisecond

// names remember addresses, as programs and their libraries do.
type names struct {
	mu  sync.Mutex
	all map[string]known
}

type known struct {
	address string
	until   time.Time
}

// resolve gives an address with a number in place of the name.
func (n *names) resolve(ctx context.Context, address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	// One asks for all: the lock is held over the question.
	n.mu.Lock()
	defer n.mu.Unlock()
	k := n.all[host]
	if now := time.Now(); now.After(k.until) {
		found, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			return "", err
		}
		k = known{found[0], now.Add(keepName)}
		if n.all == nil {
			n.all = map[string]known{}
		}
		n.all[host] = k
	}
	return net.JoinHostPort(k.address, port), nil
}
