package guard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watchBuffer holds the notices of large transactions of others, 4 MiB. When it
// is full the kernel says so, and that counts as a change.
const watchBuffer = 4 << 20

// Watch calls changed after each transaction that touched the table, also one
// that deleted it with the whole ruleset, until ctx ends; then it returns nil.
// The kernel's notice comes when the transaction is complete, so changed can
// Check and Apply at once. What Apply and Check have already seen is not
// reported. changed is called from Watch's own goroutine and must not wait for
// Watch.
//
// A notice can be lost only together with the socket; Check every 500 ms is the
// net below it.
func (g *Guard) Watch(ctx context.Context, changed func()) error {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: descriptor(g.netns)})
	if err != nil {
		return fmt.Errorf("guard: watch table %s: %w", g.table, err)
	}
	defer nl.Close()
	if err := errors.Join(nl.SetReadBuffer(watchBuffer), nl.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		return fmt.Errorf("guard: watch table %s: %w", g.table, err)
	}
	// Receive has no context: a deadline in the past ends it.
	stop := context.AfterFunc(ctx, func() { _ = nl.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	touched := false
	for {
		messages, err := nl.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			touched = false
			changed()
			continue
		case err != nil:
			return fmt.Errorf("guard: watch table %s: %w", g.table, err)
		}
		for _, m := range messages {
			if g.about(m) {
				touched = true
			}
			generation, last := endOfTransaction(m)
			if !last || !touched {
				continue
			}
			touched = false
			if !g.seen(generation) {
				changed()
			}
		}
	}
}

// about reports whether a notice is about something in our table.
func (g *Guard) about(m netlink.Message) bool {
	const subsystem = 8 // bits of the message number below it
	if m.Header.Type>>subsystem != unix.NFNL_SUBSYS_NFTABLES || m.Header.Type == header(unix.NFT_MSG_NEWGEN) {
		return false
	}
	if len(m.Data) == 0 || m.Data[0] != unix.NFPROTO_INET {
		return false
	}
	list, err := payload(m)
	if err != nil {
		return true // not understood: look
	}
	for _, a := range list {
		if a.Type == nftaAny {
			return text(a.Data) == g.table
		}
	}
	return false
}

// endOfTransaction gives the generation that a transaction made; its notice comes
// last.
func endOfTransaction(m netlink.Message) (generation uint32, ok bool) {
	if m.Header.Type != header(unix.NFT_MSG_NEWGEN) {
		return 0, false
	}
	list, err := payload(m)
	if err != nil {
		return 0, true
	}
	for _, a := range list {
		if a.Type == unix.NFTA_GEN_ID && len(a.Data) == 4 {
			generation = binary.BigEndian.Uint32(a.Data)
		}
	}
	return generation, true
}

// seen reports whether the table was found right in exactly this generation. It
// waits for an Apply that is under way, so that its own transaction is known.
func (g *Guard) seen(generation uint32) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return generation != 0 && generation == g.verified
}
