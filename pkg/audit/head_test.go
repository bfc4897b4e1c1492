package audit

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestHead(t *testing.T) {
	odd := "a\"b\\c\n\t]\u2028é\x01"
	e := exchangeEvent()
	e.Verdict, e.Reason, e.Rule, e.Workload.Name, e.ID = "deny", "no_rule", odd, odd, "id-1"
	line := []byte(encode(e))
	var h Head
	for range 2 {
		h.Read(line)
		want := [...]string{"2026-03-04T", "id-1", "exchange", "deny", "no_rule", odd, odd}
		for i, got := range [...][]byte{h.Time, h.Event, h.Kind, h.Verdict, h.Reason, h.Rule, h.Workload} {
			if i == 0 && strings.HasPrefix(string(got), want[0]) {
				continue
			}
			if string(got) != want[i] {
				t.Errorf("%d: %q, want %q", i, got, want[i])
			}
		}
	}
	h.Read([]byte(encode(&Event{Time: at, ID: "x", Kind: Lifecycle, Message: "m"})))
	if string(h.Kind) != "lifecycle" || h.Verdict != nil || h.Workload != nil {
		t.Errorf("%+v", h)
	}
}

func TestShorten(t *testing.T) {
	e := exchangeEvent()
	e.HTTP.RequestBody, e.HTTP.ResponseBody = strings.Repeat("b", 5000), strings.Repeat("\x00", 5000)
	e.HTTP.Path = "/" + strings.Repeat("p", 1000)
	line := strings.TrimSuffix(encode(e), "}")
	for limit := 200; limit < len(line); limit += 97 {
		short := string(shorten(nil, []byte(line), limit))
		if len(short) > limit+len(`,"http":{"truncated":true}`) {
			t.Fatalf("limit %d: %d bytes", limit, len(short))
		}
		var got Event
		if err := Decode([]byte(short+"}"), &got); err != nil {
			t.Fatalf("limit %d: %v: %s", limit, err, short)
		}
		if !got.HTTP.Truncated || got.HTTP.RequestBody != "" || len(got.HTTP.RequestHeaders) > 0 {
			t.Fatalf("limit %d: %s", limit, short)
		}
		if limit > 3000 && (got.HTTP.Path != e.HTTP.Path || got.Message != e.Message || got.Duration != e.Duration) {
			t.Fatalf("limit %d: more than bodies is missing: %s", limit, short)
		}
	}
}

func FuzzShorten(f *testing.F) {
	f.Add("rule", "path", "body", 300)
	f.Fuzz(func(t *testing.T, rule, path, body string, limit int) {
		e := Event{Time: at, ID: "x", Kind: Exchange, Rule: rule, HTTP: HTTP{Method: "GET", Path: path, ResponseBody: body}, Message: body}
		line := strings.TrimSuffix(encode(&e), "}")
		short := append(shorten(nil, []byte(line), max(limit, 150)), '}')
		if !json.Valid(short) {
			t.Fatalf("%s", short)
		}
		var h Head
		h.Read([]byte(line))
	})
}
