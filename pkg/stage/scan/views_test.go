package scan

import (
	"encoding/json"
	"net/url"
	"slices"
	"testing"
	"unicode/utf8"
)

// seen gives what a view makes of p, cut at that place (-1: not).
func seen(view View, p []byte, cut int) string {
	var t text
	if cut >= 0 {
		var n int
		t.units, n = view(nil, p[:cut], false)
		more, _ := view(nil, p[n:], true)
		for _, u := range more {
			u.Pos += int64(n)
			t.units = append(t.units, u)
		}
	} else {
		t.units, _ = view(nil, p, true)
	}
	t.buf = p
	return string(t.append(nil, 0, int64(len(p)), true))
}

// FuzzViews: views decode as other people's decoders do, wherever the text is
// cut.
func FuzzViews(f *testing.F) {
	f.Add([]byte(`a\u0041\n\"\\\ud83d\ude00\ud83dx`))
	f.Add([]byte("a%41+%C3%A9%C3%28%zz%e2%82%ac"))
	f.Add([]byte("data: a\ndata:b\r\n\r\nid: \\u0041\rdata: c"))
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, view := range []View{JSON, Percent, Form} {
			want := seen(view, p, -1)
			for cut := range len(p) + 1 {
				if got := seen(view, p, cut); got != want {
					t.Errorf("%q cut at %d: %q, whole %q", p, cut, got, want)
				}
			}
		}
		var s string
		if quoted := slices.Concat([]byte{'"'}, p, []byte{'"'}); utf8.Valid(p) && json.Unmarshal(quoted, &s) == nil {
			if got := seen(JSON, p, -1); got != s {
				t.Errorf("%q: %q, encoding/json has %q", p, got, s)
			}
		}
		if s, err := url.QueryUnescape(string(p)); err == nil && utf8.ValidString(s) {
			if got := seen(Form, p, -1); got != s {
				t.Errorf("%q: %q, net/url has %q", p, got, s)
			}
		}
	})
}

func TestEvent(t *testing.T) {
	for in, want := range map[string]string{
		"data: a\ndata: b\n\n":                     "data: a\nb\n\n",
		"data:a\r\ndata:b\r\n\r\n":                 "data:a\nb\r\n\r\n",
		"data: a\rdata: b\rid: c\rdata: d\r\r":     "data: a\nb\rid: c\rdata: d\r\r",
		"event: x\ndata: {\"a\":\"\\u0041\\n\"}\n": "event: x\ndata: {\"a\":\"A\n\"}\n",
		"data\ndata: b":                            "data\ndata: b",
	} {
		if got := seen(Event, []byte(in), -1); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
