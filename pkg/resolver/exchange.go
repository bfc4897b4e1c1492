package resolver

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// maxForeign is how many datagrams that are not the answer are read before
	// TCP is asked instead: somebody is guessing.
	maxForeign = 16
	// restAfterFailure is how long a server that did not answer is asked last.
	restAfterFailure = 10 * time.Second
	// defaultAttempts is resolv.conf's.
	defaultAttempts = 2
)

// upstreams are the servers that are asked. Each question has its own socket,
// so its own random port, and a random id.
type upstreams struct {
	conf   *watchedFile[resolvConf]
	limits Limits

	mu    sync.Mutex
	fixed []netip.AddrPort
	// failed holds no more servers than are configured: others are dropped.
	failed map[netip.AddrPort]time.Time
}

func newUpstreams(fixed []netip.AddrPort, path string, limits Limits) *upstreams {
	return &upstreams{fixed: fixed, conf: newWatchedFile(path, parseResolvConf), limits: limits, failed: make(map[netip.AddrPort]time.Time)}
}

// servers gives whom to ask, in order, how long to wait for each and how often
// to go round.
func (u *upstreams) servers(now time.Time) (list []netip.AddrPort, timeout time.Duration, attempts int) {
	timeout, attempts = u.limits.Timeout, defaultAttempts
	u.mu.Lock()
	list = u.fixed
	u.mu.Unlock()
	if len(list) == 0 {
		conf := u.conf.get(now)
		list = conf.servers
		if conf.timeout > 0 {
			timeout = min(timeout, conf.timeout)
		}
		if conf.attempts > 0 {
			attempts = conf.attempts
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	var good, bad []netip.AddrPort
	for _, server := range list {
		if until, ok := u.failed[server]; ok && now.Before(until) {
			bad = append(bad, server)
		} else {
			good = append(good, server)
		}
	}
	if len(u.failed) > len(list) {
		clear(u.failed)
	}
	return append(good, bad...), timeout, attempts
}

func (u *upstreams) set(fixed []netip.AddrPort) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fixed = slices.Clone(fixed)
}

func (u *upstreams) report(server netip.AddrPort, ok bool, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if ok {
		delete(u.failed, server)
	} else {
		u.failed[server] = now.Add(restAfterFailure)
	}
}

// ask gets an answer from the first server that has one. The error wraps
// ErrUnavailable and says what the last server did.
func (u *upstreams) ask(ctx context.Context, name string, typ dnsmessage.Type, do bool) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, u.limits.Total)
	defer cancel()
	servers, timeout, attempts := u.servers(time.Now())
	var last error
	for range attempts {
		for _, server := range servers {
			a, err := askServer(ctx, dialDirectly(server), timeout, name, typ, do)
			if err == nil {
				u.report(server, true, time.Now())
				return a, nil
			}
			last = fmt.Errorf("%s: %w", server, err)
			var refused serverError
			if !errors.As(err, &refused) && ctx.Err() == nil {
				u.report(server, false, time.Now())
			}
			if ctx.Err() != nil {
				return nil, fmt.Errorf("%w: %w", ErrUnavailable, last)
			}
		}
	}
	return nil, fmt.Errorf("%w: %w", ErrUnavailable, last)
}

// askServer asks one server: over UDP, without EDNS where the server is from
// before it (RFC 6891 §6.2.2), and over TCP where the answer was cut or somebody
// is guessing at it.
func askServer(ctx context.Context, dial dialServer, timeout time.Duration, name string, typ dnsmessage.Type, do bool) (*answer, error) {
	for _, edns := range []bool{true, false} {
		msg, truncated, err := exchange(ctx, "udp", dial, timeout, name, typ, do && edns, edns)
		if truncated || errors.Is(err, errGuessing) {
			msg, truncated, err = exchange(ctx, "tcp", dial, timeout, name, typ, do && edns, edns)
		}
		if err != nil {
			return nil, err
		}
		if truncated {
			return nil, fmt.Errorf("%w: cut over TCP", errMalformed)
		}
		a, err := parseResponse(msg, name, typ, do && edns)
		var refused serverError
		if edns && errors.As(err, &refused) && (refused.rcode == dnsmessage.RCodeFormatError || refused.rcode == dnsmessage.RCodeNotImplemented) {
			continue
		}
		return a, err
	}
	return nil, errMalformed
}

// errGuessing says that too many datagrams were not the answer.
var errGuessing = errors.New("too many foreign datagrams")

// A dialServer opens a connection to a server that takes nothing from others;
// network is "udp" or "tcp".
type dialServer func(ctx context.Context, network string) (net.Conn, error)

// dialDirectly reaches a server from here. A connected socket: the kernel drops
// what another address sends.
func dialDirectly(server netip.AddrPort) dialServer {
	return func(ctx context.Context, network string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, network, server.String())
	}
}

// exchange sends one question and reads until its answer comes.
func exchange(ctx context.Context, network string, dial dialServer, timeout time.Duration, name string, typ dnsmessage.Type, do, edns bool) (msg []byte, truncated bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var idBytes [2]byte
	rand.Read(idBytes[:])
	id := binary.BigEndian.Uint16(idBytes[:])
	question, err := packQuestion(id, name, typ, do, edns)
	if err != nil {
		return nil, false, err
	}
	conn, err := dial(ctx, network)
	if err != nil {
		return nil, false, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if network == "tcp" {
		question = append(binary.BigEndian.AppendUint16(nil, uint16(len(question))), question...)
	}
	if _, err := conn.Write(question); err != nil {
		return nil, false, err
	}
	buf := make([]byte, maxUDP)
	for range maxForeign {
		if network == "tcp" {
			msg, err = readFramed(conn, 0xffff)
		} else {
			var n int
			n, err = conn.Read(buf)
			msg = buf[:n]
		}
		if err != nil {
			if ctx.Err() != nil {
				err = errors.New("no answer in time")
			}
			return nil, false, err
		}
		truncated, err = checkResponse(msg, id, name, typ)
		if err == nil {
			return msg, truncated, nil
		}
		if network == "tcp" {
			return nil, false, err
		}
	}
	return nil, false, errGuessing
}

// packQuestion makes our own question: nothing of the client's message goes out
// but name, type and DO. Options of EDNS could carry data, and CD would let a
// workload have answers that the server knows to be forged.
func packQuestion(id uint16, name string, typ dnsmessage.Type, do, edns bool) ([]byte, error) {
	fqdn, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return nil, fmt.Errorf("name %s: %w", strconv.Quote(name), err)
	}
	b := dnsmessage.NewBuilder(make([]byte, 0, plainUDP), dnsmessage.Header{ID: id, RecursionDesired: true})
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(dnsmessage.Question{Name: fqdn, Type: typ, Class: dnsmessage.ClassINET}); err != nil {
		return nil, err
	}
	if edns {
		if err := b.StartAdditionals(); err != nil {
			return nil, err
		}
		var h dnsmessage.ResourceHeader
		h.Name = rootName()
		if err := h.SetEDNS0(upstreamUDP, dnsmessage.RCodeSuccess, do); err != nil {
			return nil, err
		}
		if err := b.OPTResource(h, dnsmessage.OPTResource{}); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// readFramed reads one message of a stream, RFC 1035 §4.2.2.
func readFramed(r io.Reader, limit int) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > limit {
		return nil, fmt.Errorf("message of %d octets, at most %d are read", n, limit)
	}
	msg := make([]byte, n)
	if _, err := io.ReadFull(r, msg); err != nil {
		return nil, err
	}
	return msg, nil
}
