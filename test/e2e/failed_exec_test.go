package e2e

import (
	"strings"
	"testing"
)

// TestFailedExec: an exec that cannot be set up says why and leaves nothing.
func TestFailedExec(t *testing.T) {
	h := newHost(t)
	h.warmUp()
	unwritable := []string{"env", "-C", "/proc", h.binary, "exec", "--", "true"}
	noAuthority := h.exec(h.config("state_dir: /proc/nowhere\n"), "true")
	before := h.snapshot()
	for _, c := range []struct {
		says string
		argv []string
	}{{"audit file", unwritable}, {"certificate authority", noAuthority}} {
		r := h.run(h.command(c.argv...))
		if r.code != 1 || !strings.HasPrefix(r.stderr, "sallyport: exec: ") || !strings.Contains(r.stderr, c.says) {
			t.Errorf("%v, want exit 1 and a word of the %s", r, c.says)
		}
		h.goneWithin(goneAfter, before, nil, 0)
	}
}
