package show

import (
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"sallyport/pkg/audit"
)

// Event writes one line of `tail`: time of day in loc, verdict, kind, workload,
// what happened, and why.
func Event(w io.Writer, e *audit.Event, loc *time.Location) error {
	verdict := e.Verdict
	if verdict == "" {
		verdict = "-"
	}
	name := e.Workload.Name
	if name == "" {
		name = "-"
	}
	var b strings.Builder
	line(&b, eventColumns, eventWidths, []string{
		e.Time.In(loc).Format("15:04:05.000"), clean(verdict), e.Kind.String(), short(clean(name), 32, false),
		strings.Join(append(what(e), why(e)...), " "),
	})
	_, err := io.WriteString(w, b.String())
	return err
}

var (
	eventColumns = make([]column, 5)
	eventWidths  = []int{12, 10, 14, 16, 0}
)

// what happened, in the words of its kind.
func what(e *audit.Event) []string {
	var parts []string
	add := func(s string) {
		if s != "" {
			parts = append(parts, clean(s))
		}
	}
	switch e.Kind {
	case audit.WebSocketOpen:
		add(short(target(e), 120, false))
	case audit.Exchange:
		add(e.HTTP.Method)
		add(short(target(e), 120, false))
		if e.HTTP.Status != 0 {
			add(strconv.Itoa(e.HTTP.Status))
		}
		add("↑" + size(uint64(max(e.HTTP.RequestBytes, 0))))
		add("↓" + size(uint64(max(e.HTTP.ResponseBytes, 0))))
		if w := e.WebSocket; w != (audit.WebSocket{}) {
			add("messages ↑" + strconv.FormatUint(w.MessagesSent, 10))
			add("↓" + strconv.FormatUint(w.MessagesReceived, 10))
			if w.CloseCode != 0 {
				add("closed " + strconv.Itoa(int(w.CloseCode)))
			}
		}
		add(span(e.Duration.Total))
	case audit.DNS:
		add(e.DNS.Type)
		add(e.DNS.Name)
		add(e.DNS.Rcode)
		add(short(strings.Join(e.DNS.Answers, ","), 80, false))
	case audit.FlowClose:
		add(address(e))
		leg := e.Counters.Workload
		if leg == (audit.Leg{}) {
			leg = e.Counters.Upstream
		}
		add("↑" + size(leg.BytesSent))
		add("↓" + size(leg.BytesReceived))
		add(span(e.Duration.Total))
	default:
		add(address(e))
		add(e.TLS.Handling)
	}
	return parts
}

func target(e *audit.Event) string {
	u := e.HTTP.Path
	if e.HTTP.Query != "" {
		u += "?" + e.HTTP.Query
	}
	if e.HTTP.Host != "" {
		u = e.HTTP.Host + u
		if e.HTTP.Scheme != "" {
			u = e.HTTP.Scheme + "://" + u
		}
	}
	return u
}

func address(e *audit.Event) string {
	host := e.Dst.Host
	if host == "" {
		host = e.TLS.SNI
	}
	if host == "" && e.Dst.IP.IsValid() {
		host = e.Dst.IP.Unmap().String()
	}
	if host == "" || e.Dst.Port == 0 {
		return host
	}
	return net.JoinHostPort(host, strconv.Itoa(int(e.Dst.Port)))
}

// why it was so: reason and rule, count and message.
func why(e *audit.Event) []string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+clean(value))
		}
	}
	add("reason=", e.Reason)
	add("rule=", e.Rule)
	add("", e.Direction)
	if e.Count > 1 {
		add("×", strconv.FormatUint(e.Count, 10))
	}
	add("", e.Message)
	return parts
}
