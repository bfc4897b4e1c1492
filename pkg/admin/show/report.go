package show

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/pkg/report"
)

// Report writes the tables of `report`; those without a row are left out.
func Report(w io.Writer, s *report.Summary, loc *time.Location) error {
	p := printer{w: w}
	if s.Events == 0 {
		p.printf("no events%s\n", unreadable(s.Unreadable))
		return p.err
	}
	p.printf("%d events from %s to %s%s\n", s.Events, s.First.In(loc).Format(time.DateTime), s.Last.In(loc).Format(time.DateTime), unreadable(s.Unreadable))
	var kinds []string
	for name, n := range s.Kinds {
		kinds = append(kinds, fmt.Sprintf("%s %d", name, n))
	}
	slices.Sort(kinds)
	p.printf("%s\n", strings.Join(kinds, ", "))
	for i := range s.Tables {
		p.reportTable(&s.Tables[i])
	}
	p.extremes("Slowest", s.Slowest, loc, []column{{title: "TOTAL", right: true}, {title: "UPSTREAM", right: true}}, func(e *report.Extreme) []string {
		return []string{span(secondsOf(e.Total)), span(secondsOf(e.Upstream))}
	})
	p.extremes("Largest", s.Largest, loc, []column{{title: "SENT", right: true}, {title: "RECEIVED", right: true}}, func(e *report.Extreme) []string {
		return []string{size(uint64(e.Sent)), size(uint64(e.Received))}
	})
	return p.err
}

func unreadable(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %d lines that are no event", n)
}

// A printer keeps the first error of many writes.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

func (p *printer) table(title string, t *table) {
	p.printf("\n%s\n", title)
	if p.err == nil {
		p.err = t.write(p.w)
	}
}

// name makes a value that an event lacks visible.
func name(s string) string {
	if s == "" {
		return "-"
	}
	return short(clean(s), 56, false)
}

func (p *printer) reportTable(r *report.Table) {
	if len(r.Rows) == 0 {
		return
	}
	title := r.Title
	if more := r.Groups - len(r.Rows); more > 0 {
		title += fmt.Sprintf(" (and %d more)", more)
	}
	count := "COUNT"
	if r.Traffic {
		count = "REQUESTS"
	}
	t := table{columns: []column{{title: count, right: true}}}
	if r.Traffic {
		t.columns = append(t.columns, column{title: "DENIED", right: true}, column{title: "SENT", right: true}, column{title: "RECEIVED", right: true})
	}
	for _, c := range r.Columns {
		t.columns = append(t.columns, column{title: strings.ToUpper(c)})
	}
	for i := range r.Rows {
		row := &r.Rows[i]
		cells := []string{strconv.FormatUint(row.Count, 10)}
		if r.Traffic {
			cells = append(cells, strconv.FormatUint(row.Denied, 10), size(row.Sent), size(row.Received))
		}
		for _, n := range row.Names {
			cells = append(cells, name(n))
		}
		t.add(cells...)
	}
	p.table(title, &t)
}

func (p *printer) extremes(title string, rows []report.Extreme, loc *time.Location, columns []column, cells func(*report.Extreme) []string) {
	if len(rows) == 0 {
		return
	}
	t := table{columns: append(columns, column{title: "STATUS", right: true}, column{title: "TIME"}, column{title: "WORKLOAD"}, column{title: "REQUEST"})}
	for i := range rows {
		e := &rows[i]
		status := "-"
		if e.Status != 0 {
			status = strconv.Itoa(e.Status)
		}
		t.add(append(cells(e), status, e.Time.In(loc).Format(time.DateTime), name(e.Workload), short(clean(e.Request), 100, false))...)
	}
	p.table(title, &t)
}
