// Package monitoring holds docs/monitoring against promtool, and against the
// page that it is made for. test/e2e holds it against a real Prometheus.
package monitoring

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

const directory = "../../docs/monitoring"

// A rule is an alert of alerts.yaml.
type rule struct {
	Alert, Expr         string
	Labels, Annotations map[string]string
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(directory, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rules gives the alerts in the order of the file.
func rules(t *testing.T) (all []rule) {
	t.Helper()
	var file struct{ Groups []struct{ Rules []rule } }
	if err := yaml.Unmarshal(read(t, "alerts.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 10 {
		t.Fatalf("%d alerts", len(all))
	}
	return all
}

func names(all []rule) (list []string) {
	for _, r := range all {
		list = append(list, r.Alert)
	}
	slices.Sort(list)
	return list
}

// TestPromtool: Prometheus's own checks, and a run of the cases.
func TestPromtool(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"check", "rules", "--lint-fatal", "alerts.yaml"},
		{"check", "config", "prometheus.yaml"},
		{"test", "rules", "alerts_test.yaml"},
	} {
		c := exec.Command("promtool", args...)
		c.Dir = directory
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("promtool %s (scripts/setup test installs it): %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// TestCases: each alert has a case in which it fires, with its texts, and one in
// which it stays quiet.
func TestCases(t *testing.T) {
	t.Parallel()
	var file struct {
		Tests []struct {
			Name  string
			Rules []struct {
				Name     string `yaml:"alertname"`
				Expected []struct {
					Annotations map[string]string `yaml:"exp_annotations"`
				} `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	if err := yaml.Unmarshal(read(t, "alerts_test.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	var fires, quiet []string
	for _, test := range file.Tests {
		for _, r := range test.Rules {
			if len(r.Expected) == 0 {
				quiet = append(quiet, r.Name)
				continue
			}
			fires = append(fires, r.Name)
			for _, e := range r.Expected {
				if e.Annotations["summary"] == "" || e.Annotations["description"] == "" {
					t.Errorf("%s: does not say what the alert says", test.Name)
				}
			}
		}
	}
	want := names(rules(t))
	for what, got := range map[string][]string{"fires": fires, "stays quiet": quiet} {
		slices.Sort(got)
		if got = slices.Compact(got); !slices.Equal(got, want) {
			t.Errorf("%s in the cases: %v\nalerts: %v", what, got, want)
		}
	}
}

// TestTable: the README's table is the alerts, with their severities.
func TestTable(t *testing.T) {
	t.Parallel()
	var got, want []string
	for _, m := range regexp.MustCompile(`(?m)^\| (Sallyport\w+) \| (\w+) \|`).FindAllStringSubmatch(string(read(t, "README.md")), -1) {
		got = append(got, m[1]+" "+m[2])
	}
	for _, r := range rules(t) {
		want = append(want, r.Alert+" "+r.Labels["severity"])
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("table:  %v\nalerts: %v", got, want)
	}
}

type board struct {
	Templating struct{ List []struct{ Name, Type string } }
	Panels     []panel
}

type panel struct {
	ID          int
	Type, Title string
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct {
		Expr       string
		RefID      string `json:"refId"`
		Datasource struct{ Type, UID string }
	}
}

func dashboard(t *testing.T) (d board) {
	t.Helper()
	if err := json.Unmarshal(read(t, "dashboard.json"), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDashboard: what Grafana would not tell anybody who imports it.
func TestDashboard(t *testing.T) {
	t.Parallel()
	d := dashboard(t)
	variables := map[string]bool{"__rate_interval": true}
	for _, v := range d.Templating.List {
		variables[v.Name] = true
	}
	if !variables["datasource"] {
		t.Error("no variable for the data source")
	}
	seen := map[int]string{}
	for i, p := range d.Panels {
		if other, ok := seen[p.ID]; ok || p.ID == 0 {
			t.Errorf("%s: id %d is that of %q", p.Title, p.ID, other)
		}
		seen[p.ID] = p.Title
		g := p.GridPos
		if g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 || p.Title == "" {
			t.Errorf("%q at %+v", p.Title, g)
		}
		for _, o := range d.Panels[:i] {
			if q := o.GridPos; g.X < q.X+q.W && q.X < g.X+g.W && g.Y < q.Y+q.H && q.Y < g.Y+g.H {
				t.Errorf("%q and %q overlap", o.Title, p.Title)
			}
		}
		if (p.Type == "row") != (len(p.Targets) == 0) {
			t.Errorf("%s %q has %d targets", p.Type, p.Title, len(p.Targets))
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if target.Datasource.Type != "prometheus" || target.Datasource.UID != "${datasource}" || refs[target.RefID] {
				t.Errorf("%s %s: data source %+v", p.Title, target.RefID, target.Datasource)
			}
			refs[target.RefID] = true
			for _, m := range regexp.MustCompile(`\$(?:\{)?([a-z_]+)`).FindAllStringSubmatch(target.Expr, -1) {
				if !variables[m[1]] {
					t.Errorf("%s %s: no variable %s", p.Title, target.RefID, m[1])
				}
			}
		}
	}
}

var metric = regexp.MustCompile(`\bsallyport_[a-z0-9_]+`)

// TestFamilies: whatever is asked for is on the page that TestGolden of
// pkg/metrics keeps, and each family of the page is on the dashboard.
func TestFamilies(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../pkg/metrics/testdata/page.txt")
	if err != nil {
		t.Fatal(err)
	}
	series, shown := map[string]bool{}, map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`).FindAllStringSubmatch(string(page), -1) {
		parts := []string{""}
		if m[2] == "histogram" {
			parts = []string{"_bucket", "_sum", "_count"}
		}
		for _, part := range parts {
			series[m[1]+part] = true
		}
	}
	used := func(where, expr string) {
		for _, name := range metric.FindAllString(expr, -1) {
			if !series[name] {
				t.Errorf("%s: no series %s", where, name)
			}
		}
	}
	for _, r := range rules(t) {
		used(r.Alert, r.Expr)
	}
	for _, p := range dashboard(t).Panels {
		for _, target := range p.Targets {
			used(p.Title, target.Expr)
			for _, name := range metric.FindAllString(target.Expr, -1) {
				shown[strings.TrimSuffix(name, "_bucket")] = true
			}
		}
	}
	for name := range series {
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, part)
		}
		if !shown[name] {
			t.Errorf("%s is on no panel", name)
		}
	}
}
