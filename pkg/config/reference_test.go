package config

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/invopop/jsonschema"
)

// referenceFile is the reference of the configuration, for people.
const referenceFile = "../../docs/configuration.md"

// referenceHead is what the tables cannot tell.
const referenceHead = `# The configuration, key by key

<!-- Generated from the schema (make generate); the texts are in pkg/config/schema_test.go. -->

` + "`/etc/sallyport/sallyport.yaml`" + `, or the file given with ` + "`--config`" + `, and the files ` + "`conf.d/*.yaml`" + ` beside it: maps are joined by name, ` + "`rules`" + `
are appended in the order of the files' names, and a name or scalar that is set twice is an error which names both places.
` + "`mode`, `default`, `audit` and `tls`" + ` stand in the main file only. Top-level keys that begin with ` + "`x-`" + ` are ignored: a place for
YAML anchors.

A key that is unknown, or not built yet, is an error with its line and column. ` + "`sallyport config check`" + ` names all mistakes of
a file, ` + "`sallyport config show`" + ` prints what is in force with every default, ` + "`sallyport config schema`" + ` prints the JSON Schema for
editors. How rules match is told in [policy.md](policy.md), what the stages of a rule do in [controls.md](controls.md).

Sizes are ` + "`10MB` (10⁶) or `10MiB` (2²⁰)" + `, durations ` + "`100ms`, `30s`, `10m`" + `. Where a list may stand one value will do.
`

// TestReferenceIsCurrent fails when docs/configuration.md is not what the schema
// gives, or when a key has no text; -update writes the file anew.
func TestReferenceIsCurrent(t *testing.T) {
	s, _ := generateSchema(t)
	r := reference{t: t}
	r.WriteString(referenceHead)
	r.section("The file", "", func() {
		for p := s.Properties.Oldest(); p != nil; p = p.Next() {
			if leaf(p.Value) {
				r.row(p.Key, p.Value)
			}
		}
	})
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		if leaf(p.Value) {
			continue
		}
		v, head := p.Value, p.Key
		switch {
		case v.AdditionalProperties != nil && v.Properties == nil:
			v, head = v.AdditionalProperties, head+".NAME"
		case v.Items != nil || len(v.OneOf) > 0:
			v, head = objectOf(v), head+"[]"
		}
		text := p.Value.Description
		if p.Key == "defaults" {
			r.section("`defaults`", text+" Its keys are those of a rule that are stages, and `timeouts`, `upstream_proxy` and `upstream_tls`.", nil)
			continue
		}
		r.section("`"+head+"`", text, func() { r.object("", v) })
	}
	if *update {
		if err := os.WriteFile(referenceFile, r.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r.String(), string(have)); diff != "" {
		t.Errorf("docs/configuration.md is out of date; run make generate:\n%s", diff)
	}
}

type reference struct {
	bytes.Buffer
	t *testing.T
}

// section writes a heading, a sentence, and a table of the rows that body writes.
func (r *reference) section(title, text string, body func()) {
	fmt.Fprintf(r, "\n## %s\n", title)
	if text != "" {
		fmt.Fprintf(r, "\n%s\n", text)
	}
	if body == nil {
		return
	}
	r.WriteString("\n| key | value | default | meaning |\n|---|---|---|---|\n")
	body()
}

// object writes a row for each key of an object, and behind one that is an object
// itself the rows of its keys.
func (r *reference) object(path string, s *jsonschema.Schema) {
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		at := joined(path, p.Key)
		r.row(at, p.Value)
		if inner := objectOf(p.Value); inner != nil {
			r.object(at, inner)
		} else if inner := p.Value.AdditionalProperties; inner != nil && inner.Properties != nil {
			r.object(at+".NAME", inner)
		}
	}
}

func (r *reference) row(path string, s *jsonschema.Schema) {
	if s.Description == "" {
		r.t.Errorf("%s has no text", path)
	}
	value := strings.ReplaceAll(valueOf(s), "|", "\\|")
	text := strings.ReplaceAll(s.Description, "|", "\\|")
	def := ""
	if s.Default != nil {
		def = fmt.Sprintf("`%v`", s.Default)
	}
	fmt.Fprintf(r, "| `%s` | %s | %s | %s |\n", path, value, def, text)
}

// objectOf is the object that a key holds, alone, in a list, or where it may be off;
// nil where it holds none.
func objectOf(s *jsonschema.Schema) *jsonschema.Schema {
	if s.Properties != nil && s.Properties.Len() > 0 {
		return s
	}
	if s.Items != nil {
		return objectOf(s.Items)
	}
	for _, one := range s.OneOf {
		if o := objectOf(one); o != nil {
			return o
		}
	}
	return nil
}

// leaf reports whether a key holds no object.
func leaf(s *jsonschema.Schema) bool { return objectOf(s) == nil && s.AdditionalProperties == nil }

// valueOf says in words what a key holds.
func valueOf(s *jsonschema.Schema) string {
	switch {
	case len(s.OneOf) > 0:
		return alternatives(s.OneOf)
	case len(s.Enum) > 0:
		return enumerated(s.Enum)
	case s.Items != nil:
		return "list"
	case s.Properties != nil && s.Properties.Len() > 0:
		return "mapping"
	case s.AdditionalProperties != nil:
		return "mapping: name to " + valueOf(s.AdditionalProperties)
	}
	for t, known := range simple {
		if s.Pattern != "" && s.Pattern == known.Pattern {
			return patternName[t.Name()]
		}
	}
	switch s.Type {
	case "integer":
		if s.Minimum != "" && s.Maximum != "" {
			return fmt.Sprintf("%s to %s", s.Minimum, s.Maximum)
		}
		return "number"
	case "boolean":
		return "`true`, `false`"
	}
	return "text"
}

// patternName names what the patterns of the schema stand for.
var patternName = map[string]string{
	"docPath": "absolute path", "docDuration": "duration", "docSize": "size", "docCounterKey": "`workload`, `rule`, `host`, `header:NAME`",
}

func alternatives(all []*jsonschema.Schema) string {
	var words []string
	list := false
	for _, one := range all {
		if one.Items != nil {
			list = true
			continue
		}
		if k := valueOf(one); !slices.Contains(words, k) {
			words = append(words, k)
		}
	}
	text := strings.Join(words, " or ")
	if list {
		text += ", or a list"
	}
	return text
}

func enumerated(all []any) string {
	var words []string
	for _, v := range all {
		if v == false {
			continue // how YAML 1.1 reads off
		}
		words = append(words, fmt.Sprintf("`%v`", v))
	}
	return strings.Join(words, ", ")
}
