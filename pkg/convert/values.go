package convert

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"sallyport/pkg/config"
)

func by(k config.CounterKey) string {
	if k.By == config.ByHeader {
		return scalar("header:" + k.Header)
	}
	return string(k.By)
}

func rateLimit(l *config.RateLimit) string {
	var parts []string
	for _, window := range []struct {
		key string
		n   int64
	}{{"second", l.Second}, {"minute", l.Minute}, {"hour", l.Hour}, {"day", l.Day}} {
		if window.n > 0 {
			parts = append(parts, fmt.Sprintf("%s: %d", window.key, window.n))
		}
	}
	parts = append(parts, "by: "+by(l.By), "policy: "+string(l.Policy))
	if l.HideClientHeaders {
		parts = append(parts, "hide_client_headers: true")
	}
	if !l.FaultTolerant {
		parts = append(parts, "fault_tolerant: false")
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

func throttle(t *config.Throttle) string {
	unit := "r/s"
	if t.Per == time.Minute {
		unit = "r/m"
	}
	parts := []string{fmt.Sprintf("rate: %d%s", t.Requests, unit)}
	if t.Burst > 0 {
		parts = append(parts, fmt.Sprintf("burst: %d", t.Burst))
	}
	switch {
	case t.Burst == 0 || t.Delay == 0:
	case t.Delay == t.Burst:
		parts = append(parts, "nodelay: true")
	default:
		parts = append(parts, fmt.Sprintf("delay: %d", t.Delay))
	}
	parts = append(parts, "by: "+by(t.By), fmt.Sprintf("status: %d", t.Status))
	return "{ " + strings.Join(parts, ", ") + " }"
}

func timeouts(t *Timeouts) string {
	var parts []string
	for _, f := range []struct {
		key string
		d   *time.Duration
	}{{"connect", t.Connect}, {"response_header", t.ResponseHeader}, {"stream_idle", t.StreamIdle}} {
		if f.d != nil {
			parts = append(parts, f.key+": "+duration(*f.d))
		}
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

// duration writes 90s as 1m30s and never 1h0m0s.
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func numbers(all []int) string {
	text := make([]string, len(all))
	for i, n := range all {
		text[i] = strconv.Itoa(n)
	}
	return "[" + strings.Join(text, ", ") + "]"
}

func flow(all []string) string {
	quoted := make([]string, len(all))
	for i, s := range all {
		quoted[i] = scalar(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// scalar quotes text where it has to be.
func scalar(s string) string {
	switch strings.ToLower(s) {
	case "true", "false", "yes", "no", "on", "off", "y", "n", "null":
		return strconv.Quote(s)
	}
	if plain.MatchString(s) {
		return s
	}
	return strconv.Quote(strings.ToValidUTF8(s, "\uFFFD"))
}
