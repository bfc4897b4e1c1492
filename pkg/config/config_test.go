package config

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"sallyport/pkg/policy/pattern"
)

var update = flag.Bool("update", false, "write the golden files anew")

var compareConfig = cmp.Options{
	cmpopts.IgnoreFields(UpstreamTLS{}, "At"),
	cmp.Comparer(func(a, b pattern.Glob) bool { return a.Equal(b) }),
	cmp.Comparer(func(a, b pattern.Path) bool { return a.Equal(b) }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

// TestMistakes: each file of testdata/bad has one mistake (or, in a folder,
// several files have it together) and a golden file with the exact messages.
func TestMistakes(t *testing.T) {
	entries, err := os.ReadDir("testdata/bad")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		path := filepath.Join("testdata/bad", e.Name())
		golden := strings.TrimSuffix(path, ".yaml") + ".err"
		switch {
		case e.IsDir():
			path = filepath.Join(path, "sallyport.yaml")
		case !strings.HasSuffix(path, ".yaml"):
			continue
		}
		n++
		t.Run(e.Name(), func(t *testing.T) {
			c, _, err := Load(path)
			if err == nil {
				t.Fatalf("accepted:\n%s", c.Show())
			}
			got := strings.ReplaceAll(err.Error(), "testdata/bad/", "") + "\n"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("messages differ (-want +got):\n%s", diff)
			}
		})
	}
	if n < 60 {
		t.Errorf("only %d mistakes are tried", n)
	}
}

func TestGoodFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/good/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(err, files)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			c, files, err := Load(path)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Parse([]File{{"shown", c.Show()}})
			if err != nil {
				t.Fatalf("what is shown is refused: %v\n%s", err, c.Show())
			}
			if diff := cmp.Diff(c, again, compareConfig); diff != "" {
				t.Errorf("what is shown is another configuration:\n%s", diff)
			}
			if c.Hash() != again.Hash() || len(c.Hash()) != 64 {
				t.Errorf("hashes %s, %s", c.Hash(), again.Hash())
			}
			other, err := Parse(files)
			if err != nil || other.Hash() != c.Hash() {
				t.Errorf("the sources give another configuration: %v", err)
			}
		})
	}
}

// TestDefaults: the contract's file with every default written out, an empty
// file and no file at all are one configuration.
func TestDefaults(t *testing.T) {
	written, _, err := Load("testdata/good/contract.yaml")
	if err != nil {
		t.Fatal(err)
	}
	empty, err := Parse([]File{{Name: "empty"}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(Enforce), empty, compareConfig); diff != "" {
		t.Errorf("no file and an empty one differ:\n%s", diff)
	}
	written.Workloads, written.Upstreams, written.Rules = nil, nil, nil
	if diff := cmp.Diff(written, empty, compareConfig); diff != "" {
		t.Errorf("the written defaults differ from those of an empty file:\n%s", diff)
	}
	if got := Default(Observe).Mode; got != Observe {
		t.Errorf("mode %s", got)
	}
}

func TestDerivedPaths(t *testing.T) {
	c := parse(t, "state_dir: /s\nruntime_dir: /r\n")
	if c.TLS.CADir != "/s/ca" || c.Admin.Socket != "/r/admin.sock" {
		t.Errorf("ca_dir %s, socket %s", c.TLS.CADir, c.Admin.Socket)
	}
	c = parse(t, "state_dir: /s\nruntime_dir: /r\ntls: {ca_dir: /c}\nadmin: {socket: /a}\n")
	if c.TLS.CADir != "/c" || c.Admin.Socket != "/a" {
		t.Errorf("ca_dir %s, socket %s", c.TLS.CADir, c.Admin.Socket)
	}
}

func TestDecoded(t *testing.T) {
	c, _, err := Load("testdata/good/anchors.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.Workloads[0].Key, c.Workloads[1].Key, c.Workloads[2].Key, c.Workloads[3].Key); got != "anyunitsboxestools" {
		t.Errorf("workloads out of order: %s", got)
	}
	db, cdn, both := c.Rules[0], c.Rules[1], c.Rules[2]
	if got := cdn.Match.Hosts; !reflect.DeepEqual(got, []pattern.Host{{Name: "api.example.com"}, {Name: "cdn.example.com", Wildcard: true}}) {
		t.Errorf("hosts %v", got)
	}
	if got := cdn.Match.Ports; !reflect.DeepEqual(got, []PortRange{{443, 443}, {8000, 8100}}) {
		t.Errorf("ports %v", got)
	}
	if cdn.Action != Allow || cdn.Mode != Observe || cdn.Handling != Inspect {
		t.Errorf("merged keys: %+v", cdn)
	}
	// A rule without timeouts has those of defaults, one with them has none.
	if got := cdn.Timeouts.Over(c.Timeouts); got.Connect != 2*time.Second || got.StreamIdle != time.Hour || got.ResponseHeader != 10*time.Minute {
		t.Errorf("timeouts %+v", got)
	}
	if got := both.Timeouts.Over(c.Timeouts); got.Connect != time.Second || got.StreamIdle != 0 {
		t.Errorf("timeouts %+v", got)
	}
	if both.Mode != Observe {
		t.Errorf("the key itself must win over the merged one: %s", both.Mode)
	}
	if got := both.Match.Hosts[0].Name; got != "xn--bcher-kva.example" {
		t.Errorf("host %s", got)
	}
	if got := fmt.Sprint(db.Match.CIDRs); got != "[10.1.2.3/32 2001:db8::/32]" || db.Handling != Direct {
		t.Errorf("cidrs %s, handling %s", got, db.Handling)
	}
	g := c.Workloads[2].NameGlob()
	if !g.Match("box-web-1") || g.Match("web-1") {
		t.Errorf("name glob %s", g)
	}
}

func TestConfD(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("sallyport.yaml", "mode: observe\ndns: {allow_unlisted: true}\nworkloads: {a: {}}\nrules: [{name: r0, action: deny}]\n")
	write("conf.d/20-b.yaml", "x-note: ignored\nslice: other.slice\nrules: [{name: r2, match: {workloads: c}, action: deny}]\n")
	write("conf.d/10-a.yaml", "dns: {upstreams: [192.0.2.53]}\nworkloads: {c: {}}\nrules: [{name: r1, action: deny}]\n")
	write("conf.d/.hidden.yaml", "nonsense: 1")
	write("conf.d/30-c.yml", "nonsense: 1")
	write("conf.d/40-d.yaml~", "nonsense: 1")
	c, files, err := Load(filepath.Join(dir, "sallyport.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 3 || c.Slice != "other.slice" || len(c.DNS.Upstreams) != 1 || !c.DNS.AllowUnlisted || len(c.Workloads) != 2 {
		t.Errorf("%d files, %+v", len(files), c)
	}
	if got := c.Rules[0].Name + c.Rules[1].Name + c.Rules[2].Name; got != "r0r1r2" {
		t.Errorf("rules %s", got)
	}
	if err := os.Mkdir(filepath.Join(dir, "conf.d/50.yaml"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(filepath.Join(dir, "sallyport.yaml")); err == nil {
		t.Error("a folder among the files is accepted")
	}
	if _, _, err := Load(filepath.Join(dir, "absent.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
}

func TestNotBuilt(t *testing.T) {
	_, err := Parse([]File{{"f", []byte("rules: [{ name: a, action: deny, match: { mcp: {} } }]\n")}})
	if !errors.Is(err, ErrNotBuilt) {
		t.Errorf("%v is not ErrNotBuilt", err)
	}
	_, err = Parse([]File{{"f", []byte("rediss: {}\n")}})
	if err == nil || errors.Is(err, ErrNotBuilt) {
		t.Errorf("%v is ErrNotBuilt", err)
	}
	var all Errors
	if !errors.As(err, &all) || len(all) != 1 || all[0].Line != 1 || all[0].Column != 1 {
		t.Errorf("not Errors: %#v", err)
	}
}

// TestAllMistakesAreTold, in order of files and lines.
func TestAllMistakesAreTold(t *testing.T) {
	_, err := Parse([]File{
		{"z", []byte("mode: x\nlisten: {tcp: -1, dsn: 1}\nrules:\n- {}\n")},
		{"a", []byte("slice: 1\nmode: observe\n")},
	})
	want := strings.Join([]string{
		`z:1:7: mode: want enforce or observe, found "x"`,
		`z:2:15: listen.tcp: want a number from 0 to 65535, found -1`,
		`z:2:19: unknown field "dsn" (did you mean "dns"?)`,
		`z:4:3: a rule needs a "name"`,
		`z:4:3: a rule needs an "action": allow or deny`,
		`a:1:8: slice: want a string, found the number 1 (write "1")`,
		`a:2:1: "mode" belongs in the main file, z`,
	}, "\n")
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestLimits(t *testing.T) {
	tests := map[string]string{
		"file":   strings.Repeat("#", MaxFileSize+1),
		"rules":  "rules:\n" + strings.Repeat("- {}\n", MaxRules+1),
		"items":  "rules: [{name: a, action: deny, match: {ports: [" + strings.Repeat("1,", MaxListItems+1) + "]}}]",
		"depth":  strings.Repeat("[", 100) + strings.Repeat("]", 100),
		"string": "slice: " + strings.Repeat("a", MaxString+1),
		"key":    strings.Repeat("a", MaxString+1) + ": 1",
		"bomb":   bomb(),
		"errors": "rules:\n" + strings.Repeat("- 1\n", 5000),
	}
	for name, text := range tests {
		start := time.Now()
		_, err := Parse([]File{{name, []byte(text)}})
		var all Errors
		if !errors.As(err, &all) || len(all) > maxErrors {
			t.Errorf("%s: %d errors, %T", name, len(all), err)
		}
		if d := time.Since(start); d > 20*time.Second {
			t.Errorf("%s: took %v", name, d)
		}
	}
}

// bomb is a list that many rules use.
func bomb() string {
	return "x-hosts: &h [" + strings.Repeat("a.example, ", 5000) + "]\n" +
		"x-rule: &r { name: r, action: deny, match: { hosts: *h } }\n" +
		"rules: [" + strings.Repeat("*r, ", 5000) + "]\n"
}

// TestAliasesCostNothing: ten levels of ten aliases each are ten lists.
func TestAliasesCostNothing(t *testing.T) {
	var b strings.Builder
	b.WriteString("x-0: &a0 [a, a, a, a, a, a, a, a, a, a]\n")
	for i := 1; i < 30; i++ {
		fmt.Fprintf(&b, "x-%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	start := time.Now()
	parse(t, b.String())
	if _, err := Parse([]File{{"f", []byte(b.String() + "slice: *a29\nrules: *a29\n")}}); err == nil {
		t.Error("lists of lists are accepted")
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("took %v", d)
	}
}

// TestShow holds the form that people read.
func TestShow(t *testing.T) {
	got := string(parse(t, "workloads: { a: { listen: [80] } }\ntimeouts: { idle: 1h, drain: 90s, sniff: 1h1m }\nrules: [{ name: r, match: { headers: { a: b } }, action: deny }]\n").Show())
	for _, want := range []string{
		"  response_header: 10m\n", "  idle: 1h\n", "  drain: 1m30s\n", "  sniff: 1h1m\n", "  stream_idle: 0s\n",
		"workloads:\n  a:\n    name: a\n    listen: [80]\n",
		"- name: r\n  match:\n    headers:\n      A: [b]\n  action: deny\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}

// TestShowJSON: JSON is YAML too, so reading it back must give the same.
func TestShowJSON(t *testing.T) {
	for _, name := range []string{"anchors", "contract", "empty"} {
		data, err := os.ReadFile("testdata/good/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		c := parse(t, string(data))
		shown := c.ShowJSON()
		if !json.Valid(shown) {
			t.Errorf("%s: not JSON: %s", name, shown)
			continue
		}
		if back := parse(t, string(shown)); back.Hash() != c.Hash() {
			t.Errorf("%s: read back it is another:\n%s\n%s", name, back.Show(), c.Show())
		}
	}
}

func TestSize(t *testing.T) {
	for s, want := range map[string]Size{"10MB": 10e6, "10MiB": 10 << 20, "1B": 1, "64KB": 64e3, "0B": 0, "3GiB": 3 << 30} {
		got, ok := parseSize(s)
		if !ok || got != want {
			t.Errorf("%s is %d, %v", s, got, ok)
		}
		if back, ok := parseSize(got.String()); !ok || back != got {
			t.Errorf("%s is written as %s", s, got)
		}
	}
	for _, s := range []string{"", "10", "MB", "1.5MB", "10mb", "10M", "-1MB", "+1MB", "1 MB", "9223372036854775807MB", "99999999TiB"} {
		if got, ok := parseSize(s); ok {
			t.Errorf("%q is accepted as %d", s, got)
		}
	}
}

func TestSuggest(t *testing.T) {
	tests := []struct{ written, want string }{
		{"hostz", "hosts"}, {"host", "hosts"}, {"Hosts", "hosts"}, {"prots", "ports"}, {"zzzz", ""}, {"", ""},
	}
	for _, tt := range tests {
		got := suggest(tt.written, []string{"hosts", "ports", "methods"})
		want := ""
		if tt.want != "" {
			want = fmt.Sprintf(" (did you mean %q?)", tt.want)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", tt.written, got, want)
		}
	}
}

func parse(t testing.TB, text string) *Config {
	t.Helper()
	c, err := Parse([]File{{"test.yaml", []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// FuzzParse: whatever the file holds, either every mistake has a place in it,
// or what is shown is the same configuration.
func FuzzParse(f *testing.F) {
	for _, glob := range []string{"testdata/good/*.yaml", "testdata/bad/*.yaml"} {
		names, _ := filepath.Glob(glob)
		for _, name := range names {
			if data, err := os.ReadFile(name); err == nil && len(data) < 1<<14 {
				f.Add(data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse([]File{{"f.yaml", data}})
		if err != nil {
			var all Errors
			if !errors.As(err, &all) || len(all) == 0 {
				t.Fatalf("%T: %v", err, err)
			}
			for _, e := range all {
				if e.Line < 1 || e.Column < 1 || e.Message == "" || strings.Contains(e.Error(), "\n") {
					t.Fatalf("%#v", e)
				}
			}
			return
		}
		again, err := Parse([]File{{"f.yaml", c.Show()}})
		if err != nil {
			t.Fatalf("%v\n%s", err, c.Show())
		}
		if diff := cmp.Diff(c, again, compareConfig); diff != "" {
			t.Fatal(diff)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	data, err := os.ReadFile("testdata/good/anchors.yaml")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse([]File{{"f", data}}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestReservedSlices: whoever captures these captures the host itself.
func TestReservedSlices(t *testing.T) {
	for slice, want := range map[string]bool{"system.slice": false, "user.slice": false, "mcp.slice": true, "system-mcp.slice": true} {
		_, err := Parse([]File{{"f", []byte("version: 1\nslice: " + slice + "\n")}})
		if ok := err == nil; ok != want {
			t.Errorf("%s: %v", slice, err)
		}
	}
}
