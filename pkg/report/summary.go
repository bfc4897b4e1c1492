package report

import "time"

// A Summary is a report in the form in which it is printed.
type Summary struct {
	// First and Last are the times of the earliest and the latest event; zero
	// without events.
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Events counts all, Unreadable the lines that are none, Kinds those of each
	// kind.
	Events     uint64            `json:"events"`
	Unreadable uint64            `json:"unreadable"`
	Kinds      map[string]uint64 `json:"kinds"`
	// Tables in the order in which they are printed.
	Tables []Table `json:"tables"`
	// Slowest and Largest are exchanges.
	Slowest []Extreme `json:"slowest"`
	Largest []Extreme `json:"largest"`
}

// A Table is the rows of one question.
type Table struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	// Columns name the names of each row.
	Columns []string `json:"columns"`
	// Traffic says that rows count refusals and bytes too.
	Traffic bool  `json:"-"`
	Rows    []Row `json:"rows"`
	// Groups is how many rows there are without the cut.
	Groups int `json:"groups"`
}

// Summary gives what was added so far.
func (r *Report) Summary() Summary {
	s := Summary{
		First: r.first, Last: r.last, Events: r.events, Unreadable: r.unreadable,
		Kinds: make(map[string]uint64), Slowest: append([]Extreme{}, r.slowest.rows...), Largest: append([]Extreme{}, r.largest.rows...),
	}
	for k, n := range r.kinds {
		s.Kinds[k.String()] = n
	}
	for _, t := range []struct {
		name, title string
		columns     []string
		traffic     bool
		groups      *groups
	}{
		{"rate_limited", "Rate-limit violations", []string{"workload", "rule", "reason"}, false, &r.limited},
		{"authentication", "Authentication failures", []string{"workload", "rule", "reason", "host"}, false, &r.auth},
		{"server_errors", "Server errors", []string{"host", "status", "reason"}, false, &r.errors},
		{"filtered", "Stopped by filters and secrets", []string{"workload", "rule", "reason", "host"}, false, &r.found},
		{"would_deny", "Would be denied if enforced", []string{"reason", "workload", "rule", "host"}, false, &r.wouldDeny},
		{"denied", "Denied", []string{"reason", "workload", "rule", "host"}, false, &r.denied},
		{"tls_rejected", "Clients that rejected our certificate", []string{"workload", "host"}, false, &r.tls},
		{"cache", "Cache", []string{"served"}, false, &r.cache},
		{"workloads", "Top workloads", []string{"workload"}, true, &r.workloads},
		{"hosts", "Top hosts", []string{"host"}, true, &r.hosts},
		{"rules", "Top rules", []string{"rule"}, true, &r.rules},
	} {
		rows, n := t.groups.ranked(r.top)
		s.Tables = append(s.Tables, Table{Name: t.name, Title: t.title, Columns: t.columns, Traffic: t.traffic, Rows: rows, Groups: n})
	}
	return s
}
