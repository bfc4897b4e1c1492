package proxy

import (
	"crypto/tls"
	"errors"
	"testing"
)

func TestOverheard(t *testing.T) {
	hello := append([]byte{22, 3, 1, 0, 40}, make([]byte, 40)...)
	ccs := []byte{20, 3, 3, 0, 1, 1}
	for _, tt := range []struct {
		name string
		sent []byte
		want byte
	}{
		{"unknown_ca behind a hello", append(append([]byte(nil), hello...), 21, 3, 3, 0, 2, 2, 48), 48},
		{"behind change_cipher_spec", append(append(append([]byte(nil), hello...), ccs...), 21, 3, 3, 0, 2, 2, 42), 42},
		{"encrypted", append(append([]byte(nil), hello...), 23, 3, 3, 0, 2, 2, 48), 0},
		{"encrypted of TLS 1.2", append(append([]byte(nil), hello...), append([]byte{21, 3, 3, 0, 26}, make([]byte, 26)...)...), 0},
		{"a warning", append(append([]byte(nil), hello...), 21, 3, 3, 0, 2, 1, 0), 0},
		{"cut", append(append([]byte(nil), hello...), 21, 3, 3, 0, 2, 2), 0},
		{"empty records", append(append([]byte(nil), 22, 3, 1, 0, 0, 22, 3, 1, 0, 0), 21, 3, 3, 0, 2, 2, 46), 46},
		{"alert within a hello", append([]byte{22, 3, 1, 0, 7, 21, 3, 3, 0, 2, 2, 48}, ccs...), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for step := 1; step <= len(tt.sent); step++ {
				var o overheard
				for p := tt.sent; len(p) > 0; p = p[min(step, len(p)):] {
					o.see(p[:min(step, len(p))])
				}
				if o.alert != tt.want {
					t.Fatalf("in pieces of %d: alert %d, want %d", step, o.alert, tt.want)
				}
			}
		})
	}
	o := overheard{alert: 48}
	if err := o.explain(errors.New("local error: tls: bad record MAC")); !rejected(err) || err.Error() != "remote error: tls: unknown certificate authority" {
		t.Errorf("%v is no rejection", err)
	}
	if o.explain(nil) != nil {
		t.Error("a handshake that succeeded has failed")
	}
	if err := (&overheard{alert: 80}).explain(tls.RecordHeaderError{}); rejected(err) {
		t.Errorf("%v is a rejection", err)
	}
}

func FuzzOverheard(f *testing.F) {
	f.Add([]byte{22, 3, 1, 0, 1, 0, 21, 3, 3, 0, 2, 2, 48}, 3)
	f.Fuzz(func(t *testing.T, p []byte, step int) {
		var whole, parts overheard
		whole.see(p)
		for step = max(step, 1); len(p) > 0; p = p[min(step, len(p)):] {
			parts.see(p[:min(step, len(p))])
		}
		if whole.alert != parts.alert {
			t.Errorf("alert %d at once, %d in pieces of %d", whole.alert, parts.alert, step)
		}
	})
}
