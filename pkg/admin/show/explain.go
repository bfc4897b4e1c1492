package show

import (
	"fmt"
	"io"
	"strings"

	"sallyport/pkg/admin"
)

// Explanation writes the answer of `policy explain`: the decision, then every
// rule that was looked at and why it did not decide.
func Explanation(w io.Writer, e *admin.Explanation) error {
	var b strings.Builder
	b.WriteString(clean(e.Verdict))
	for _, part := range [][2]string{{"reason", e.Reason}, {"rule", e.Rule}, {"handling", e.Handling}, {"mode", e.Mode}, {"upstream_proxy", e.UpstreamProxy}} {
		if part[1] != "" {
			fmt.Fprintf(&b, " %s=%s", part[0], clean(part[1]))
		}
	}
	b.WriteByte('\n')
	if len(e.Steps) > 0 {
		b.WriteByte('\n')
		t := &table{columns: []column{{title: ""}, {title: "RULE"}, {title: "WHY"}}}
		for _, s := range e.Steps {
			mark := ""
			if s.Matched {
				mark = "*"
			}
			t.add(mark, clean(s.Rule), clean(s.Why))
		}
		t.write(&b)
	}
	if len(e.Stages) > 0 {
		b.WriteString("\nThen, not tried here: " + clean(strings.Join(e.Stages, ", ")) + "\n")
	}
	if e.Hint != "" {
		b.WriteString("\nTo allow it:\n")
		for part := range strings.SplitSeq(strings.TrimRight(e.Hint, "\n"), "\n") {
			b.WriteString("  " + clean(part) + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
