package guard

import (
	"encoding/hex"
	"testing"
)

// TestSaid: a bare RST is the kernel's, one with data or any other segment is not.
func TestSaid(t *testing.T) {
	const (
		four = "4e19bf025f99de83655c1f2e080045000028000040004006c2cbcb007101cb007102"
		six  = "4e19bf025f99de83655c1f2e86dd60000000001406402001" +
			"0db8000000000000000000000001" + "20010db8000000000000000000000002"
	)
	for name, c := range map[string]struct {
		frame string
		want  bool
	}{
		"reset":             {four + "e73200074b6537ad0000000050040000cd8f0000", false},
		"reset, IPv6":       {six + "e73200074b6537ad0000000050040000cd8f0000", false},
		"end":               {four + "e73200074b6537ad0000000050110000cd8f0000", true},
		"end, IPv6":         {six + "e73200074b6537ad0000000050110000cd8f0000", true},
		"reset with data":   {"4e19bf025f99de83655c1f2e080045000029000040004006c2cbcb007101cb007102" + "e73200074b6537ad0000000050040000cd8f000061", true},
		"UDP like a reset":  {"4e19bf025f99de83655c1f2e080045000028000040004011c2cbcb007101cb007102" + "e73200074b6537ad0000000050040000cd8f0000", true},
		"a question by ARP": {"ffffffffffffde83655c1f2e080600010800060400019e", false},
	} {
		f, err := hex.DecodeString(c.frame)
		if err != nil {
			t.Fatal(err)
		}
		if got := said(f); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
