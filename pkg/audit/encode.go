package audit

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// appendEvent appends e as a JSON object without its closing brace: the chain
// and the brace follow when the line is written (chain.go). t and id stand in for
// what e leaves empty. It redacts, cuts and escapes, and allocates nothing
// beyond b.
func appendEvent(b []byte, e *Event, t time.Time, id []byte) []byte {
	b = append(b, '{')
	b = append(b, nameTime...)
	b = append(b, '"')
	if !e.Time.IsZero() {
		t = e.Time
	}
	b = appendTime(b, t)
	b = append(b, '"')
	if e.ID != "" {
		b = appendName(b, nameEvent, e.ID)
	} else {
		b = comma(b)
		b = append(b, nameEvent...)
		b = append(b, '"')
		b = append(b, id...)
		b = append(b, '"')
	}
	b = appendName(b, nameKind, e.Kind.String())
	b = appendName(b, nameVerdict, e.Verdict)
	b = appendName(b, nameReason, e.Reason)
	b = appendName(b, nameRule, e.Rule)
	b = appendName(b, nameMode, e.Mode)
	b = appendWorkload(b, &e.Workload)
	if e.Flow != 0 {
		b = appendNumber(b, nameFlow, e.Flow)
	}
	b = appendDst(b, &e.Dst)
	b = appendTLS(b, &e.TLS)
	b = appendHTTP(b, &e.HTTP)
	b = appendWebSocket(b, &e.WebSocket)
	b = appendDNS(b, &e.DNS)
	b = appendName(b, nameCache, e.Cache)
	b = appendUpstream(b, &e.Upstream)
	b = appendName(b, nameTraceparent, e.Traceparent)
	b = appendDuration(b, &e.Duration)
	b = appendName(b, nameDirection, e.Direction)
	if e.Count != 0 {
		b = appendNumber(b, nameCount, e.Count)
	}
	b = appendCounters(b, &e.Counters)
	return appendString(b, nameMessage, e.Message, maxMessage)
}

func appendWorkload(b []byte, w *Workload) []byte {
	if *w == (Workload{}) {
		return b
	}
	b = open(b, nameWorkload)
	b = appendName(b, nameName, w.Name)
	b = appendString(b, nameCgroup, w.Cgroup, maxPathname)
	b = appendName(b, nameUnit, w.Unit)
	b = appendName(b, nameContainer, w.Container)
	if w.PID != 0 {
		b = appendNumber(b, namePID, uint64(w.PID))
		b = appendNumber(b, nameUID, uint64(w.UID))
	}
	b = appendString(b, nameExe, w.Exe, maxPathname)
	return append(b, '}')
}

func appendDst(b []byte, d *Destination) []byte {
	if *d == (Destination{}) {
		return b
	}
	b = open(b, nameDst)
	b = appendIP(b, d.IP)
	if d.Port != 0 {
		b = appendNumber(b, namePort, uint64(d.Port))
	}
	b = appendName(b, nameHost, d.Host)
	return append(b, '}')
}

func appendTLS(b []byte, t *TLS) []byte {
	if *t == (TLS{}) {
		return b
	}
	b = open(b, nameTLS)
	b = appendName(b, nameSNI, t.SNI)
	b = appendName(b, nameALPN, t.ALPN)
	b = appendName(b, nameVersion, t.Version)
	b = appendName(b, nameHandling, t.Handling)
	b = appendName(b, nameUpstreamVersion, t.UpstreamVersion)
	return append(b, '}')
}

func appendHTTP(b []byte, h *HTTP) []byte {
	if h.Method == "" && h.Host == "" && h.Path == "" && h.Status == 0 {
		return b
	}
	b = open(b, nameHTTP)
	b = appendName(b, nameVersion, h.Version)
	b = appendName(b, nameMethod, h.Method)
	b = appendName(b, nameScheme, h.Scheme)
	b = appendName(b, nameHost, withoutUserinfo(h.Host))
	b = appendString(b, namePath, h.Path, MaxText)
	if h.Query != "" {
		b = comma(b)
		b = append(b, nameQuery...)
		b = append(b, '"')
		b = appendQuery(b, h.Query)
		b = append(b, '"')
	}
	if h.Status != 0 {
		b = appendNumber(b, nameStatus, uint64(h.Status))
	}
	b = appendNumber(b, nameRequestBytes, uint64(max(h.RequestBytes, 0)))
	b = appendNumber(b, nameResponseBytes, uint64(max(h.ResponseBytes, 0)))
	truncated := h.Truncated || len(h.Path) > MaxText || len(h.Query) > MaxText
	b, truncated = appendHeaders(b, nameRequestHeaders, h.RequestHeaders, truncated)
	b, truncated = appendHeaders(b, nameResponseHeaders, h.ResponseHeaders, truncated)
	b, truncated = appendBody(b, nameRequestBody, h.RequestBody, truncated)
	b, truncated = appendBody(b, nameResponseBody, h.ResponseBody, truncated)
	if truncated {
		b = comma(b)
		b = append(b, nameTruncated...)
		b = append(b, "true"...)
	}
	return append(b, '}')
}

// appendHeaders writes each name once, with the values of all its field lines
// (RFC 9110 §5.3 allows joining; the order of values stays).
func appendHeaders(b []byte, name string, list []Header, truncated bool) ([]byte, bool) {
	if len(list) == 0 {
		return b, truncated
	}
	if len(list) > MaxHeaders {
		list, truncated = list[:MaxHeaders], true
	}
	room := maxHeaderText
	b = open(b, name)
next:
	for i := range list {
		for j := range i {
			if sameName(list[j].Name, list[i].Name) {
				continue next
			}
		}
		if room -= len(list[i].Name); room < 0 {
			return append(b, '}'), true
		}
		b = comma(b)
		b = append(b, '"')
		b = appendLower(b, list[i].Name)
		b = append(b, '"', ':', '"')
		if secretHeader(list[i].Name) {
			b = append(b, Redacted...)
		} else {
			for j := i; j < len(list); j++ {
				if j > i && !sameName(list[j].Name, list[i].Name) {
					continue
				}
				if j > i {
					b = append(b, ',', ' ')
				}
				truncated = truncated || len(list[j].Value) > room
				b = appendText(b, list[j].Value, room)
				room = max(0, room-len(list[j].Value))
			}
		}
		b = append(b, '"')
	}
	return append(b, '}'), truncated
}

// sameName reports whether two names are written alike: cut, in lower case. A
// line that has a member twice is none (Decode).
func sameName(a, b string) bool {
	return strings.EqualFold(a[:min(len(a), maxName)], b[:min(len(b), maxName)])
}

// appendBody writes what was recorded of a body, at most maxBodyText of it with
// what escaping adds.
func appendBody(b []byte, name, body string, truncated bool) ([]byte, bool) {
	if body == "" {
		return b, truncated
	}
	b = comma(b)
	b = append(b, name...)
	b = append(b, '"')
	const step = 4 << 10
	for room := len(b) + maxBodyText; body != ""; {
		if len(b)+6*step > room {
			return append(append(b, cut...), '"'), true
		}
		piece := body
		if len(piece) > step {
			piece = body[:len(wholeRunes(body[:step]))]
			if piece == "" {
				piece = body[:step]
			}
		}
		b = appendText(b, piece, step)
		body = body[len(piece):]
	}
	return append(b, '"'), truncated
}

func appendWebSocket(b []byte, w *WebSocket) []byte {
	if *w == (WebSocket{}) {
		return b
	}
	b = open(b, nameWebSocket)
	b = appendNumber(b, nameMessagesSent, w.MessagesSent)
	b = appendNumber(b, nameMessagesReceived, w.MessagesReceived)
	if w.CloseCode != 0 {
		b = appendNumber(b, nameCloseCode, uint64(w.CloseCode))
	}
	return append(b, '}')
}

func appendDNS(b []byte, d *DNSQuery) []byte {
	if d.Name == "" && d.Type == "" && d.Rcode == "" && len(d.Answers) == 0 {
		return b
	}
	b = open(b, nameDNS)
	b = appendName(b, nameName, d.Name)
	b = appendName(b, nameType, d.Type)
	if len(d.Answers) > 0 {
		b = comma(b)
		b = append(b, nameAnswers...)
		b = append(b, '[')
		for i, a := range d.Answers[:min(len(d.Answers), maxAnswers)] {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, '"')
			b = appendText(b, a, maxName)
			b = append(b, '"')
		}
		b = append(b, ']')
	}
	b = appendName(b, nameRcode, d.Rcode)
	return append(b, '}')
}

func appendUpstream(b []byte, u *Upstream) []byte {
	if *u == (Upstream{}) {
		return b
	}
	b = open(b, nameUpstream)
	b = appendName(b, nameTarget, u.Target)
	b = appendIP(b, u.IP)
	if u.Attempts > 0 {
		b = appendNumber(b, nameAttempts, uint64(u.Attempts))
	}
	return append(b, '}')
}

func appendDuration(b []byte, d *Duration) []byte {
	if *d == (Duration{}) {
		return b
	}
	b = open(b, nameDuration)
	b = appendSecondsOf(b, nameTotal, d.Total)
	if d.Upstream != 0 {
		b = appendSecondsOf(b, nameUpstream, d.Upstream)
	}
	if d.Queued != 0 {
		b = appendSecondsOf(b, nameQueued, d.Queued)
	}
	return append(b, '}')
}

func appendCounters(b []byte, c *Counters) []byte {
	if *c == (Counters{}) {
		return b
	}
	b = open(b, nameCounters)
	b = appendLeg(b, nameWorkload, &c.Workload)
	b = appendLeg(b, nameUpstream, &c.Upstream)
	return append(b, '}')
}

func appendLeg(b []byte, name string, l *Leg) []byte {
	if *l == (Leg{}) {
		return b
	}
	b = open(b, name)
	b = appendNumber(b, nameBytesSent, l.BytesSent)
	b = appendNumber(b, nameBytesReceived, l.BytesReceived)
	b = appendNumber(b, nameSegments, l.Segments)
	b = appendNumber(b, nameRetransmits, l.Retransmits)
	b = appendSecondsOf(b, nameRTT, l.RTT)
	return append(b, '}')
}

func open(b []byte, name string) []byte {
	b = comma(b)
	b = append(b, name...)
	return append(b, '{')
}

func comma(b []byte) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	return b
}

func appendName(b []byte, name, value string) []byte {
	return appendString(b, name, value, maxName)
}

func appendString(b []byte, name, value string, limit int) []byte {
	if value == "" {
		return b
	}
	b = comma(b)
	b = append(b, name...)
	b = append(b, '"')
	b = appendText(b, value, limit)
	return append(b, '"')
}

func appendNumber(b []byte, name string, v uint64) []byte {
	b = comma(b)
	b = append(b, name...)
	return appendUint(b, v)
}

func appendUint(b []byte, v uint64) []byte { return strconv.AppendUint(b, v, 10) }

func appendSecondsOf(b []byte, name string, d time.Duration) []byte {
	b = comma(b)
	b = append(b, name...)
	return appendSeconds(b, d)
}

// appendIP writes IPv4 in its plain form also where it came as a mapped
// address; a zone of a link-local address stays.
func appendIP(b []byte, ip netip.Addr) []byte {
	if !ip.IsValid() {
		return b
	}
	b = comma(b)
	b = append(b, nameIP...)
	b = append(b, '"')
	b = ip.Unmap().AppendTo(b)
	return append(b, '"')
}

// appendLower appends a header name in lower case, escaped.
func appendLower(b []byte, name string) []byte {
	start := len(b)
	b = appendText(b, name, maxName)
	for i := start; i < len(b); i++ {
		if c := b[i]; c == '\\' {
			i++ // an escape keeps its letter
		} else if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return b
}
