package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// An AddressBook knows at any time what is local to a network namespace.
// Contains may be called from any goroutine and takes no lock.
type AddressBook struct {
	ns   *os.File
	list atomic.Pointer[[]netip.Prefix]
}

// NewAddressBook reads the addresses of ns (nil: the process's own) once; Run
// keeps them current. ns must stay open as long as the book is used.
func NewAddressBook(ns *os.File) (*AddressBook, error) {
	b := &AddressBook{ns: ns}
	if err := b.refresh(); err != nil {
		return nil, err
	}
	return b, nil
}

// Contains reports whether addr is local. A mapped address is judged as the IPv4
// address in it, and a zone is ignored.
func (b *AddressBook) Contains(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, p := range *b.list.Load() {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// Prefixes lists what is local.
func (b *AddressBook) Prefixes() []netip.Prefix { return slices.Clone(*b.list.Load()) }

func (b *AddressBook) refresh() error {
	list, err := LocalAddresses(b.ns)
	if err != nil {
		return err
	}
	b.list.Store(&list)
	return nil
}

// refreshEvery is how often the addresses are read although no notice came: the
// net below the notices, which can be lost.
const refreshEvery = 30 * time.Second

// restAfter is how many times as long as a reading took the next one waits: a
// workload that is root in its own namespace may change addresses without end, and
// has no more than a twentieth of one processor by it.
const restAfter = 20

// Run keeps the book current by the kernel's notices of addresses and routes,
// within milliseconds, until ctx ends; then it returns nil. After each change
// that made a difference it calls changed, if that is not nil.
func (b *AddressBook) Run(ctx context.Context, changed func([]netip.Prefix)) error {
	nl, err := b.subscribe()
	if err != nil {
		return fmt.Errorf("watch local addresses: %w", err)
	}
	defer nl.Close()
	notices, failed := make(chan struct{}, 1), make(chan error, 1)
	go func() { failed <- receive(nl, notices) }()
	// The receiver is ours: it ends before Run returns.
	defer func() {
		_ = nl.SetReadDeadline(time.Unix(1, 0))
		<-failed
	}()
	ticker := time.NewTicker(refreshEvery)
	defer ticker.Stop()
	for {
		before := *b.list.Load()
		began := time.Now()
		if err := b.refresh(); err != nil {
			return fmt.Errorf("watch local addresses: %w", err)
		}
		rest := time.After(min(restAfter*time.Since(began), refreshEvery))
		if now := *b.list.Load(); changed != nil && !slices.Equal(before, now) {
			changed(slices.Clone(now))
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			failed <- err // for the one that waits in defer
			return fmt.Errorf("watch local addresses: %w", err)
		case <-notices:
			// What comes meanwhile waits in notices.
			select {
			case <-ctx.Done():
				return nil
			case <-rest:
			}
		case <-ticker.C:
		}
	}
}

// subscribe joins the groups of rtnetlink(7) whose notices can change what is
// local. The library that lists addresses ends its subscriptions at the first
// error, also at the harmless one that a burst of notices makes.
func (b *AddressBook) subscribe() (*netlink.Conn, error) {
	config := &netlink.Config{}
	if b.ns != nil {
		config.NetNS = int(b.ns.Fd())
	}
	nl, err := netlink.Dial(unix.NETLINK_ROUTE, config)
	if err != nil {
		return nil, err
	}
	for _, group := range []uint32{
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	} {
		if err := nl.JoinGroup(group); err != nil {
			nl.Close()
			return nil, err
		}
	}
	return nl, nil
}

// receive turns the kernel's notices into at most one that waits. What overflowed
// the socket is made good by reading everything anew.
func receive(nl *netlink.Conn, notices chan<- struct{}) error {
	for {
		if _, err := nl.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		select {
		case notices <- struct{}{}:
		default:
		}
	}
}
