package audit

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Decode reads one line. It is lenient about fields that it does not know (a
// newer version wrote them) and strict about those that it knows. A name that is
// there twice, in other letters, or no UTF-8 is a mistake: readers could differ
// about the line.
func Decode(line []byte, e *Event) error {
	var w wire
	if err := json.Unmarshal(line, &w); err != nil {
		return fmt.Errorf("not an audit event: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, w.Time)
	if err != nil {
		return fmt.Errorf("not an audit event: time: %w", err)
	}
	kind, err := ParseKind(w.Kind)
	if err != nil {
		return fmt.Errorf("not an audit event: %w", err)
	}
	d := decoder{}
	*e = Event{
		Time: at, ID: w.Event, Kind: kind,
		Verdict: w.Verdict, Reason: w.Reason, Rule: w.Rule, Mode: w.Mode,
		Workload: Workload(w.Workload),
		Flow:     w.Flow,
		Dst:      Destination{IP: d.ip(w.Dst.IP), Port: w.Dst.Port, Host: w.Dst.Host},
		TLS:      TLS(w.TLS),
		HTTP: HTTP{
			Version: w.HTTP.Version, Method: w.HTTP.Method, Scheme: w.HTTP.Scheme, Host: w.HTTP.Host,
			Path: w.HTTP.Path, Query: w.HTTP.Query, Status: w.HTTP.Status,
			RequestBytes: w.HTTP.RequestBytes, ResponseBytes: w.HTTP.ResponseBytes,
			RequestHeaders: headers(w.HTTP.RequestHeaders), ResponseHeaders: headers(w.HTTP.ResponseHeaders),
			RequestBody: w.HTTP.RequestBody, ResponseBody: w.HTTP.ResponseBody,
			Truncated: w.HTTP.Truncated,
		},
		WebSocket:   WebSocket(w.WebSocket),
		DNS:         DNSQuery(w.DNS),
		Cache:       w.Cache,
		Upstream:    Upstream{Target: w.Upstream.Target, IP: d.ip(w.Upstream.IP), Attempts: w.Upstream.Attempts},
		Traceparent: w.Traceparent,
		Duration: Duration{
			Total: d.seconds(w.Duration.Total), Upstream: d.seconds(w.Duration.Upstream), Queued: d.seconds(w.Duration.Queued),
		},
		Direction: w.Direction,
		Count:     w.Count,
		Counters:  Counters{Workload: d.leg(w.Counters.Workload), Upstream: d.leg(w.Counters.Upstream)},
		Message:   w.Message,
		Prev:      w.Prev, Hash: w.Hash,
	}
	if err := errors.Join(d.errs...); err != nil {
		return fmt.Errorf("not an audit event: %w", err)
	}
	return nil
}

// A decoder gathers the mistakes of one line.
type decoder struct{ errs []error }

func (d *decoder) ip(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		d.errs = append(d.errs, err)
	}
	return a
}

// seconds reads a decimal exactly: a float64 would lose nanoseconds of long
// durations. Digits beyond nanoseconds are cut.
func (d *decoder) seconds(n jsontext.Value) time.Duration {
	if len(n) == 0 || n.Kind() == 'n' {
		return 0
	}
	whole, fraction, _ := strings.Cut(string(n), ".")
	// Nobody writes 100 digits, and an exponent would let a short text ask for a
	// huge number. What else can be no number of JSON fails below.
	if n.Kind() != '0' || len(n) > 40 || strings.ContainsAny(fraction, "eE") {
		d.errs = append(d.errs, fmt.Errorf("%q is not a number of seconds", n))
		return 0
	}
	digits := whole + (fraction + "000000000")[:9]
	ns, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		d.errs = append(d.errs, fmt.Errorf("%q seconds are out of range", n))
		return 0
	}
	return time.Duration(ns)
}

func (d *decoder) leg(w wireLeg) Leg {
	return Leg{
		BytesSent: w.BytesSent, BytesReceived: w.BytesReceived,
		Segments: w.Segments, Retransmits: w.Retransmits, RTT: d.seconds(w.RTT),
	}
}

// headers gives a recorded object as a list in the order of names.
func headers(m map[string]string) []Header {
	var list []Header
	for name, value := range m {
		list = append(list, Header{Name: name, Value: value})
	}
	slices.SortFunc(list, func(a, b Header) int { return strings.Compare(a.Name, b.Name) })
	return list
}
