package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"sallyport/pkg/policy"
)

const (
	// tcpIdle is how long a connection may be without a question, RFC 7766 §6.2.3
	// asks for some seconds.
	tcpIdle = 20 * time.Second
	// tcpWrite is how long a client may take to read an answer.
	tcpWrite = 10 * time.Second
)

// ServeUDP answers what comes in on conn, a listener in the network namespace
// with the given cookie, until ctx ends; it returns nil then, and when all
// questions in work are done. conn stays open and is the caller's.
func (r *Resolver) ServeUDP(ctx context.Context, conn *net.UDPConn, netns uint64) error {
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var wg sync.WaitGroup
	answering, cancel := r.answering(ctx)
	defer cancel()
	defer wg.Wait()
	buf := make([]byte, maxQuestion)
	for last := false; !last; {
		n, src, err := conn.ReadFromUDPAddrPort(buf)
		last = ctx.Err() != nil
		if last && (err != nil || !r.yielding.Load()) {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("DNS listener: %w", err)
		}
		if err != nil {
			// An ICMP error of an earlier answer shows up here.
			continue
		}
		if !r.slots.enter() {
			r.meter.Dropped(DropOverload)
			continue
		}
		msg := append([]byte(nil), buf[:n]...)
		wg.Go(func() {
			defer r.slots.leave()
			client, err := r.askers.Asker(netns, netip.AddrPortFrom(src.Addr().Unmap(), src.Port()))
			if err != nil {
				// Not a workload's socket, or one that is gone: nobody to answer, and
				// nobody in whose name to ask.
				r.meter.Dropped(DropNoAsker)
				return
			}
			if reply := r.Answer(answering, client, msg, false); reply != nil {
				// The client that went away is no error of ours.
				_, _ = conn.WriteToUDPAddrPort(reply, src)
			}
		})
	}
	return nil
}

// yieldTime is how long questions that were taken before Yield may go on. A
// client asks again after 5 s (resolv.conf(5), timeout).
const yieldTime = 5 * time.Second

// Yield says that somebody else answers what ServeUDP no longer takes once its
// context ends: what was taken until then is still answered.
func (r *Resolver) Yield() { r.yielding.Store(true) }

// answering gives the context of questions that were taken while ctx had not
// ended. It ends with ctx, or later after Yield.
func (r *Resolver) answering(ctx context.Context) (context.Context, context.CancelFunc) {
	answering, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if !r.yielding.Load() {
			cancel()
			return
		}
		select {
		case <-answering.Done():
		case <-time.After(yieldTime):
			cancel()
		}
	})
	return answering, func() { stop(); cancel() }
}

// ServeTCP answers the questions of one connection, in order, until the client
// ends it, is silent for 20 s or breaks the protocol, or ctx ends. It does not
// close conn.
func (r *Resolver) ServeTCP(ctx context.Context, conn net.Conn, client Client) error {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		if err := conn.SetReadDeadline(time.Now().Add(tcpIdle)); err != nil {
			return err
		}
		if ctx.Err() != nil { // after the deadline above, which may have undone stop's
			return nil
		}
		msg, err := readFramed(conn, maxQuestion)
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read DNS question: %w", err)
		}
		if !r.slots.enter() {
			r.meter.Dropped(DropOverload)
			return errors.New("too many DNS questions in work")
		}
		reply := r.Answer(ctx, client, msg, true)
		r.slots.leave()
		if reply == nil {
			return errNotAQuery
		}
		framed := append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(reply)), uint16(len(reply))), reply...)
		if err := conn.SetWriteDeadline(time.Now().Add(tcpWrite)); err != nil {
			return err
		}
		if _, err := conn.Write(framed); err != nil {
			return fmt.Errorf("write DNS answer: %w", err)
		}
	}
}

// Answer gives the reply to one message of a client, nil if none is due. Over
// UDP it fits in what the client takes.
func (r *Resolver) Answer(ctx context.Context, client Client, msg []byte, tcp bool) []byte {
	start := r.now()
	q, rcode, err := parseQuery(msg)
	if err != nil {
		r.meter.Dropped(DropNotAQuery)
		return nil
	}
	limit := q.size
	if tcp {
		limit = 0xffff
	}
	out := outcome{rcode: rcode}
	switch {
	case rcode != dnsmessage.RCodeSuccess:
		out = refusal(rcode, policy.MalformedRequest, nil, "malformed question")
	case !r.slots.take(client.Workload):
		out = refusal(dnsmessage.RCodeServerFailure, policy.Overloaded, &extendedError{edeOther, "too many questions at once"}, "too many questions at once")
	default:
		out = r.decide(ctx, client, &q)
		r.slots.give(client.Workload)
	}
	if out.err == nil && out.answer != nil {
		out.rcode = out.answer.rcode
	}
	event := &Event{
		Time: start, Duration: r.now().Sub(start), Client: client, Decision: out.decision,
		Name: q.name, Type: typeName(q.typ), Rcode: rcodeName(out.rcode),
	}
	if out.answer != nil {
		event.Answers = out.answer.texts
	}
	if out.err != nil {
		event.Error = out.err.Error()
	}
	r.meter.Query(client.Workload, out.decision.Verdict)
	if err := r.recorder.RecordDNS(event); err != nil {
		// What cannot be recorded does not happen.
		out = refusal(dnsmessage.RCodeServerFailure, policy.AuditUnavailable, &extendedError{edeOther, "audit unavailable"}, "")
	}
	if out.answer != nil && len(out.answer.addrs) > 0 {
		// Before the answer is sent: the connection may come at once.
		r.memory.tell(client.Workload, q.name, out.answer.addrs, out.answer.ttl, r.now())
	}
	reply, err := q.reply(out.rcode, out.answer, out.ede, limit)
	if err != nil {
		reply, err = q.reply(dnsmessage.RCodeServerFailure, nil, nil, limit)
		if err != nil {
			return nil
		}
	}
	return reply
}

// An outcome is what becomes of a question.
type outcome struct {
	rcode    dnsmessage.RCode
	answer   *answer // nil: nothing but the rcode
	ede      *extendedError
	decision Decision
	err      error
}

func refusal(rcode dnsmessage.RCode, reason policy.Reason, ede *extendedError, why string) outcome {
	out := outcome{rcode: rcode, ede: ede, decision: Decision{Verdict: policy.Deny, Reason: reason}}
	if why != "" {
		out.err = errors.New(why)
	}
	return out
}

// decide judges a well-formed question and finds its answer.
func (r *Resolver) decide(ctx context.Context, client Client, q *query) outcome {
	if q.question.Class != dnsmessage.ClassINET || !resolvable(q.typ) {
		// Tunnels through DNS live on such types, and no program needs them.
		return refusal(dnsmessage.RCodeRefused, policy.ProtocolDenied, &extendedError{edeNotSupported, "record type not served"}, "record type not served")
	}
	name, ok := hostName(q.name)
	if !ok {
		// No rule can name it. Asked upstream it would be free text.
		return refusal(dnsmessage.RCodeNameError, policy.MalformedRequest, &extendedError{edeFiltered, "not a host name"}, "not a host name")
	}
	if isLocalhost(name) {
		// Never leaves the host, so there is nothing to decide.
		a := localAnswer(q, r.local(name))
		return outcome{rcode: a.rcode, answer: a, decision: Decision{Verdict: policy.Allow}}
	}
	if out, ok := r.reverseAnswer(client, q, name); ok {
		return out
	}
	decision := r.names.DecideName(client.Workload, name)
	if !decision.Verdict.Passes() {
		// NXDOMAIN: REFUSED reads as a temporary failure, and clients try again.
		return outcome{rcode: dnsmessage.RCodeNameError, ede: &extendedError{edeFiltered, decision.Hint}, decision: decision}
	}
	if err := r.recorder.Healthy(); err != nil {
		out := refusal(dnsmessage.RCodeServerFailure, policy.AuditUnavailable, &extendedError{edeOther, "audit unavailable"}, "")
		out.err = err
		return out
	}
	if decision.ByProxy {
		return r.standinAnswer(client, q, name, decision)
	}
	if addrs := r.hosts.get(r.now())[name]; len(addrs) > 0 {
		a := localAnswer(q, addrs)
		return outcome{rcode: a.rcode, answer: a, decision: decision}
	}
	a, err := r.resolve(ctx, r.original.asked(client), name, q.typ, q.do)
	if err != nil {
		return outcome{rcode: dnsmessage.RCodeServerFailure, ede: &extendedError{edeNoAuthority, "no upstream server answered"}, decision: decision, err: err}
	}
	a = r.unreserved(a)
	return outcome{rcode: a.rcode, answer: a, decision: decision}
}

// localTTL is for answers from /etc/hosts, which may change any time.
const localTTL = 10 * time.Second

// localAnswer answers from addresses that are known here. Other types exist for
// such a name, but have no data.
func localAnswer(q *query, addrs []netip.Addr) *answer {
	a := &answer{rcode: dnsmessage.RCodeSuccess, ttl: localTTL}
	for _, addr := range addrs {
		h := dnsmessage.ResourceHeader{Name: q.question.Name, Class: dnsmessage.ClassINET, Type: q.typ, TTL: uint32(localTTL / time.Second)}
		var body dnsmessage.ResourceBody
		switch {
		case addr.Is4() && q.typ == dnsmessage.TypeA:
			body = &dnsmessage.AResource{A: addr.As4()}
		case addr.Is6() && q.typ == dnsmessage.TypeAAAA:
			body = &dnsmessage.AAAAResource{AAAA: addr.As16()}
		default:
			continue
		}
		if a.address(addr) {
			a.answers = append(a.answers, dnsmessage.Resource{Header: h, Body: body})
		}
	}
	return a
}
