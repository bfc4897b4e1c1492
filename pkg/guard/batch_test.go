package guard

import (
	"strings"
	"testing"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// expressions are those of a rule, as the library writes them.
func expressions(t testing.TB, body ...expr.Any) []byte {
	t.Helper()
	var items []netlink.Attribute
	for _, e := range body {
		item, err := expr.Marshal(unix.NFPROTO_INET, e)
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, netlink.Attribute{Type: unix.NFTA_LIST_ELEM, Data: item})
	}
	list, err := netlink.MarshalAttributes(items)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestDirected: a conntrack zone is set for the original direction alone, and
// nothing else is changed.
func TestDirected(t *testing.T) {
	direction := " 3=00"
	for name, tt := range map[string]struct {
		e    expr.Any
		want bool
	}{
		"a zone that is set":  {&expr.Ct{Key: expr.CtKeyZONE, SourceRegister: true, Register: 1}, true},
		"a zone that is read": {&expr.Ct{Key: expr.CtKeyZONE, Register: 1}, false},
		"a mark that is set":  {&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1}, false},
		"a counter":           {&expr.Counter{}, false},
	} {
		list := expressions(t, tt.e)
		got, err := directedList(list)
		if err != nil {
			t.Fatal(err)
		}
		before, err1 := describe(list)
		after, err2 := describe(got)
		if err1 != nil || err2 != nil || strings.Contains(before, direction) || strings.Contains(after, direction) != tt.want || !tt.want && before != after {
			t.Errorf("%s: %s became %s (%v, %v)", name, before, after, err1, err2)
		}
	}
}

// FuzzDirectedList: what can be read can be read afterwards, whatever it is.
func FuzzDirectedList(f *testing.F) {
	f.Add(expressions(f, &expr.Ct{Key: expr.CtKeyZONE, SourceRegister: true, Register: 1}, &expr.Counter{}))
	f.Add(expressions(f, &expr.Immediate{Register: 1, Data: []byte{1, 2}}, &expr.Verdict{Kind: expr.VerdictJump, Chain: "c"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := directedList(b)
		if err != nil {
			return
		}
		if _, err := describe(b); err != nil {
			return
		}
		if _, err := describe(got); err != nil {
			t.Errorf("%x became %x: %v", b, got, err)
		}
	})
}
