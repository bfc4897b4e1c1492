package show

import (
	"io"
	"net"
	"strconv"
	"strings"

	"sallyport/pkg/admin"
)

// The columns of `flows`. The widths are for --follow, where a later line may
// not move the earlier ones.
var flowColumns = []column{
	{title: "STATE", min: 6}, {title: "AGE", right: true, min: 6}, {title: "WORKLOAD", min: 16}, {title: "PID", right: true, min: 7},
	{title: "DESTINATION", min: 32}, {title: "HANDLING", min: 8}, {title: "VERDICT", min: 10}, {title: "RULE", min: 16},
	{title: "SENT", right: true, min: 6}, {title: "RECEIVED", right: true, min: 8}, {title: "RTT", right: true, min: 6},
}

// Flows writes the answer of `flows`.
func Flows(w io.Writer, list []admin.Flow) error {
	if len(list) == 0 {
		_, err := io.WriteString(w, "no open flows\n")
		return err
	}
	t := table{}
	for _, c := range flowColumns {
		c.min = 0
		t.columns = append(t.columns, c)
	}
	for i := range list {
		t.add(flowCells(&list[i])...)
	}
	return t.write(w)
}

// FlowHeader writes the titles for Flow.
func FlowHeader(w io.Writer) error { return followed(w, nil) }

// Flow writes one line of `flows --follow`.
func Flow(w io.Writer, f *admin.Flow) error { return followed(w, flowCells(f)) }

// followed writes cells, or the titles for nil, in the fixed widths.
func followed(w io.Writer, cells []string) error {
	widths := make([]int, len(flowColumns))
	titles := make([]string, len(flowColumns))
	for i, c := range flowColumns {
		widths[i], titles[i] = c.min, c.title
	}
	if cells == nil {
		cells = titles
	}
	var b strings.Builder
	line(&b, flowColumns, widths, cells)
	_, err := io.WriteString(w, b.String())
	return err
}

func flowCells(f *admin.Flow) []string {
	var sent, received, rtt string
	// What the workload saw; a direct flow has the upstream leg only.
	leg := f.Counters.Workload
	if leg == nil {
		leg = f.Counters.Upstream
	}
	if leg != nil {
		sent, received = size(leg.BytesSent), size(leg.BytesReceived)
		if leg.RTT > 0 {
			rtt = span(secondsOf(leg.RTT))
		}
	}
	pid := ""
	if f.Workload.PID != 0 {
		pid = strconv.FormatUint(uint64(f.Workload.PID), 10)
	}
	verdict := f.Verdict
	if f.Direction != "" {
		verdict = strings.TrimSpace(verdict + " " + f.Direction)
	}
	return []string{
		clean(f.State), span(secondsOf(f.Duration)), short(clean(f.Workload.Name), 32, false), pid,
		destination(f), clean(f.Handling), clean(verdict), short(clean(f.Rule), 32, false), sent, received, rtt,
	}
}

func destination(f *admin.Flow) string {
	host := f.Dst.Host
	if host == "" && f.Dst.IP.IsValid() {
		host = f.Dst.IP.Unmap().String()
	}
	if host == "" {
		return ""
	}
	return short(clean(net.JoinHostPort(host, strconv.Itoa(int(f.Dst.Port)))), 56, true)
}
