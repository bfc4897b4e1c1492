package show

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/pkg/admin"
)

// Status writes the answer of `status`: what matters first, problems before
// everything that is well.
func Status(w io.Writer, s *admin.Status) error {
	var b strings.Builder
	word := func(ok bool, yes, no string) string {
		if ok {
			return yes
		}
		return no
	}
	config := short(clean(s.Config.Hash), 13, false)
	if s.Config.Error != "" {
		config += ", but the last reload changed nothing"
	}
	for _, row := range [][2]string{
		{"ready", word(s.Ready, "yes", "NO")},
		{"enforcement", word(s.EnforcementActive, "active (probed)", "NOT ACTIVE")},
		{"mode", clean(s.Mode)},
		{"config", config},
		{"flows", strconv.Itoa(s.Flows) + " open"},
		{"bounds", bounds(s.Maps)},
		{"problems", word(len(s.Problems) == 0 && s.Config.Error == "", "none", "")},
	} {
		fmt.Fprint(&b, strings.TrimRight(fmt.Sprintf("%-13s%s", row[0], row[1]), " ")+"\n")
	}
	for _, p := range s.Problems {
		indent(&b, p)
	}
	if s.Config.Error != "" {
		indent(&b, s.Config.Error)
	}
	if len(s.Workloads) > 0 {
		b.WriteByte('\n')
		workloads(s.Workloads).write(&b)
	}
	if len(s.Pinned) > 0 {
		b.WriteByte('\n')
		pinned(s.Pinned).write(&b)
	}
	if filling := maps(s.Maps); len(filling.rows) > 0 {
		b.WriteByte('\n')
		filling.write(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// indent writes a text, which may have several lines, as one point.
func indent(b *strings.Builder, text string) {
	lead := "  - "
	for part := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		b.WriteString(lead + clean(part) + "\n")
		lead = "    "
	}
}

func workloads(list []admin.Workload) *table {
	t := &table{columns: []column{{title: "WORKLOAD"}, {title: "FLOWS", right: true}, {title: "MODE"}, {title: "WHAT"}, {title: "NOTE"}}}
	for _, w := range list {
		what := w.Cgroup
		for _, better := range []string{w.Unit, w.Container, w.Command} {
			if better != "" {
				what = better
				break
			}
		}
		t.add(short(clean(w.Name), 40, false), strconv.Itoa(w.Flows), clean(w.Mode), short(clean(what), 60, false), clean(w.Note))
	}
	return t
}

// pinned lists what is tunnelled because its clients do not trust us.
func pinned(list []admin.Pinned) *table {
	t := &table{columns: []column{{title: "WORKLOAD"}, {title: "TUNNELLED (ON_PINNED)"}, {title: "UNTIL"}}}
	for _, p := range list {
		t.add(short(clean(p.Workload), 40, false), short(clean(p.Host), 60, false), p.Until.UTC().Format(time.RFC3339))
	}
	return t
}

// notable is from which percentage on a bounded thing is shown.
const notable = 50

// bounds sums up how full everything is.
func bounds(m map[string]admin.Fill) string {
	filling := len(maps(m).rows)
	if filling == 0 {
		return fmt.Sprintf("%d, none half full", len(m))
	}
	return fmt.Sprintf("%d, of which %d half full or more", len(m), filling)
}

func percent(f admin.Fill) int {
	if f.Capacity == 0 {
		return 0
	}
	return int(float64(f.Entries) / float64(f.Capacity) * 100)
}

// maps lists what is at least half full, the fullest first. The JSON has all.
func maps(m map[string]admin.Fill) *table {
	t := &table{columns: []column{{title: "BOUNDED"}, {title: "USED", right: true}, {title: "OF", right: true}, {title: "FULL", right: true}}}
	var names []string
	for name, f := range m {
		if percent(f) >= notable {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := percent(m[b]) - percent(m[a]); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		f := m[name]
		t.add(clean(name), strconv.FormatUint(f.Entries, 10), strconv.FormatUint(f.Capacity, 10), strconv.Itoa(percent(f))+"%")
	}
	return t
}
