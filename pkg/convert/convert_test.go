package convert_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport/pkg/config"
	"sallyport/pkg/convert"
	"sallyport/pkg/convert/kong"
	"sallyport/pkg/convert/nginx"
	"sallyport/pkg/policy"
)

var update = flag.Bool("update", false, "write what is converted as what is wanted")

// converted converts a source by the ending of its name, whose folder is left out
// of what is written.
func converted(t fatal, name string, data []byte) (yaml, notes string, complete bool, err error) {
	t.Helper()
	var d *convert.Draft
	var n *convert.Notes
	if strings.HasSuffix(name, ".conf") {
		dir := "testdata/nginx/"
		d, n, err = nginx.Convert(filepath.Base(name), data, nginx.Files{
			Read: func(path string) ([]byte, error) { return os.ReadFile(dir + path) },
			Glob: func(pattern string) ([]string, error) {
				all, err := filepath.Glob(dir + pattern)
				for i := range all {
					all[i] = strings.TrimPrefix(all[i], dir)
				}
				return all, err
			},
		})
	} else {
		d, n, err = kong.Convert(filepath.Base(name), data)
	}
	if err != nil {
		return "", "", false, err
	}
	var b bytes.Buffer
	if err := convert.WriteYAML(&b, d); err != nil {
		t.Fatal(err)
	}
	for _, note := range n.List() {
		mark := map[convert.Kind]string{convert.Lost: "lost", convert.Changed: "changed", convert.Tuning: "tuning"}[note.Kind]
		notes += mark + " " + note.String() + "\n"
	}
	return b.String(), notes, n.Complete(), nil
}

// golden compares with a file beside the source.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", path, d)
	}
}

// load gives the policy of what was written, which must have no mistake and no
// warning.
func load(t fatal, yaml string) *policy.Policy {
	t.Helper()
	c, warnings, err := config.Check([]config.File{{Name: "converted.yaml", Data: []byte(yaml)}})
	if err != nil {
		t.Fatalf("%v\n%s", err, yaml)
	}
	for _, w := range warnings {
		t.Errorf("warning: %v\n%s", w, yaml)
	}
	p, err := policy.Compile(c)
	if err != nil {
		t.Fatalf("%v\n%s", err, yaml)
	}
	return p
}

// TestConvert: each source of testdata gives its YAML and its notes, and the
// YAML is a configuration without mistakes.
func TestConvert(t *testing.T) {
	for _, pattern := range []string{"testdata/kong/*.yml", "testdata/nginx/*.conf"} {
		sources, err := filepath.Glob(pattern)
		if err != nil || len(sources) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, source := range sources {
			base := strings.TrimSuffix(source, filepath.Ext(source))
			t.Run(filepath.Base(base), func(t *testing.T) {
				data, err := os.ReadFile(source)
				if err != nil {
					t.Fatal(err)
				}
				yaml, notes, _, err := converted(t, source, data)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.HasPrefix(yaml, "version: 1\ndefault: deny\n") {
					t.Error("it does not begin with version and default")
				}
				golden(t, base+".yaml", yaml)
				golden(t, base+".notes", notes)
				load(t, yaml)
			})
		}
	}
}

// TestMistakes: what cannot be read is told with its line.
func TestMistakes(t *testing.T) {
	sources, err := filepath.Glob("testdata/bad/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range sources {
		if strings.HasSuffix(source, ".err") {
			continue
		}
		t.Run(filepath.Base(source), func(t *testing.T) {
			data, err := os.ReadFile(source)
			if err != nil {
				t.Fatal(err)
			}
			_, _, _, err = converted(t, source, data)
			if err == nil {
				t.Fatal("no error")
			}
			golden(t, strings.TrimSuffix(source, filepath.Ext(source))+".err", err.Error()+"\n")
		})
	}
}

// TestExamples: what people bring converts completely but for what each note
// marked lost names.
func TestExamples(t *testing.T) {
	for _, tt := range []struct {
		source   string
		complete bool
	}{
		{"testdata/kong/example.yml", true},
		{"testdata/kong/example-full.yml", false},
		{"testdata/nginx/example.conf", true},
	} {
		data, err := os.ReadFile(tt.source)
		if err != nil {
			t.Fatal(err)
		}
		if _, notes, complete, err := converted(t, tt.source, data); err != nil || complete != tt.complete {
			t.Errorf("%s: complete %v, error %v, want %v\n%s", tt.source, complete, err, tt.complete, notes)
		}
	}
}

// fatal is what testing and rapid have in common.
type fatal interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}
