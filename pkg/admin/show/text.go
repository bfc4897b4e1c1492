// Package show writes what sallyport answers for a person at a terminal: tables
// with aligned columns, one line for each event. Names that a workload or an
// upstream chose are made harmless first: a terminal obeys control characters.
package show

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// clean replaces what a terminal might obey or hide (control characters,
// direction overrides, bytes that are no UTF-8) by its escape.
func clean(s string) string {
	ok := utf8.ValidString(s)
	for _, r := range s {
		ok = ok && unicode.IsPrint(r)
	}
	if ok {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		i += size
	}
	return b.String()
}

// short cuts a text to a number of characters, its end or its beginning.
func short(s string, most int, keepEnd bool) string {
	runes := []rune(s)
	if len(runes) <= most {
		return s
	}
	if keepEnd {
		return "…" + string(runes[len(runes)-most+1:])
	}
	return string(runes[:most-1]) + "…"
}

// size gives bytes in units of 1000, as the configuration means "10MB".
func size(n uint64) string {
	if n < 1000 {
		return strconv.FormatUint(n, 10) + "B"
	}
	v := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB"} {
		v /= 1000
		switch {
		case v < 9.95:
			return strconv.FormatFloat(v, 'f', 1, 64) + unit
		case v < 999.5 || unit == "TB":
			return strconv.FormatFloat(v, 'f', 0, 64) + unit
		}
	}
	return ""
}

// span gives a duration with two or three digits.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Millisecond:
		return strconv.FormatInt(d.Microseconds(), 10) + "µs"
	case d < 10*time.Millisecond:
		return strconv.FormatFloat(d.Seconds()*1e3, 'f', 1, 64) + "ms"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	case d < time.Minute:
		return strconv.FormatInt(int64(d.Seconds()), 10) + "s"
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

func secondsOf(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// A column of a table.
type column struct {
	title string
	right bool
	// min is the least width, for tables that grow line by line.
	min int
}

// A table is rows of cells that are already clean.
type table struct {
	columns []column
	rows    [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// write writes title and rows with two spaces between columns and none at the
// end of a line.
func (t *table) write(w io.Writer) error {
	widths := make([]int, len(t.columns))
	for i, c := range t.columns {
		widths[i] = max(c.min, utf8.RuneCountInString(c.title))
		for _, row := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	titles := make([]string, len(t.columns))
	for i, c := range t.columns {
		titles[i] = c.title
	}
	var b strings.Builder
	for _, row := range append([][]string{titles}, t.rows...) {
		line(&b, t.columns, widths, row)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// line writes one row without spaces at its end.
func line(b *strings.Builder, columns []column, widths []int, cells []string) {
	var row strings.Builder
	for i, cell := range cells {
		if i > 0 {
			row.WriteString("  ")
		}
		pad := strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(cell)))
		if columns[i].right {
			row.WriteString(pad + cell)
		} else {
			row.WriteString(cell + pad)
		}
	}
	b.WriteString(strings.TrimRight(row.String(), " ") + "\n")
}
