package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestJSONPath(t *testing.T) {
	tests := []struct {
		text string
		want JSONPath
	}{
		{"$", JSONPath{}},
		{"$.password", JSONPath{{Name: "password"}}},
		{"$.a-b_c.é", JSONPath{{Name: "a-b_c"}, {Name: "é"}}},
		{"$.list[*].c", JSONPath{{Name: "list"}, {Any: true}, {Name: "c"}}},
		{"$..name", JSONPath{{Descend: true, Name: "name"}}},
		{"$..*", JSONPath{{Descend: true, Any: true}}},
		{"$..[0]", JSONPath{{Descend: true, Element: true}}},
		{"$.*[12]", JSONPath{{Any: true}, {Element: true, Index: 12}}},
		{`$['a b']["c'd"]['e\'f\\']`, JSONPath{{Name: "a b"}, {Name: "c'd"}, {Name: `e'f\`}}},
	}
	for _, tt := range tests {
		got, err := ParseJSONPath(tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.text, diff)
		}
	}
	for _, text := range []string{
		"", "password", ".a", "$a", "$.", "$..", "$.a.", "$[", "$[]", "$[-1]", "$[1:2]", "$['a", "$['a'", "$['']", "$['a','b']",
		`$['\n']`, "$.a b", "$[?(@.x)]", "$[x]", "$.a]", "$...a",
	} {
		if got, err := ParseJSONPath(text); err == nil {
			t.Errorf("%s is %+v", text, got)
		}
	}
}
