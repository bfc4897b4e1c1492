package filter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
	"sallyport/pkg/stage/size"
)

var errCut = errors.New("cut")

func TestActions(t *testing.T) {
	const text = "some text, a bad word12, and more of it\n"
	const clean = "some text, a good word, and more of it\n"
	for _, response := range []bool{false, true} {
		for _, m := range []message{
			{body: []byte(text), length: true}, {body: []byte(text)}, {body: zip([]byte(text)), encoding: "gzip"}, {body: zip([]byte(text)), encoding: "gzip", length: true},
			{body: zip(zip([]byte(text))), encoding: "gzip, gzip", length: true}, {body: []byte(text), contentType: "application/x-ndjson"},
			{body: zip([]byte(text)), contentType: "application/x-ndjson", encoding: "gzip"},
			{body: []byte("data: bad\ndata: word12\n\n"), contentType: "text/event-stream"}, {body: []byte(`{"a":"\u0062ad\u0020word12"}`), contentType: "application/json", length: true},
			{body: []byte("a=bad+word12&b=1"), contentType: "application/x-www-form-urlencoded", length: true}, {body: []byte("a=b%61d%20word12&b=1"), contentType: "application/x-www-form-urlencoded"},
			{body: grpc(false, "first", "a bad word12 inside", "last"), contentType: "application/grpc"}, {body: grpc(true, "first", "a bad word12 inside", "last"), contentType: "application/grpc+proto", header: map[string]string{"grpc-encoding": "gzip"}},
		} {
			if !response && m.contentType == "text/event-stream" {
				continue
			}
			name := fmt.Sprintf("response %v, %s %s, length %v", response, m.contentType, m.encoding, m.length)
			for i, pieces := range splits(m.body) {
				got := carry(t, response, m, pieces, newStageOnce(t, config.FilterBlock))
				refusal := got.refused()
				want := policy.ContentFilter
				if response {
					want = policy.ResponseFilter
				}
				if refusal == nil || refusal.Reason != want || refusal.Message != map[bool]string{false: "Request", true: "Response"}[response]+" blocked by content filter" {
					t.Fatalf("%s, block, split %d: %v, passed on %q", name, i, refusal, got.body)
				}
				if !strings.Contains(got.notes, "content_filter bad in the ") || strings.Contains(got.notes, "word") {
					t.Errorf("%s: notes %q", name, got.notes)
				}
				stream := strings.Contains(m.contentType, "grpc") || response && (strings.Contains(m.contentType, "event") || strings.Contains(m.contentType, "ndjson"))
				if !stream && got.refusal == nil {
					t.Errorf("%s, block, split %d: refused only in the body", name, i)
				}

				got = carry(t, response, m, pieces, newStageOnce(t, config.FilterRedact))
				if got.refused() != nil || got.err != nil {
					t.Fatalf("%s, redact, split %d: %v %v", name, i, got.refused(), got.err)
				}
				body := got.body
				if strings.Contains(body, "word") || !strings.Contains(body, "[redacted:") {
					t.Fatalf("%s, redact, split %d: %q", name, i, body)
				}
				if got.length >= 0 && got.length != int64(len(body)) {
					t.Errorf("%s, redact: length %d of %d", name, got.length, len(body))
				}
				h := &got.x.Request.Header
				if response {
					h = &got.x.Response.Header
				}
				if h.Has("Content-Encoding") {
					t.Errorf("%s, redact: still encoded", name)
				}

				got = carry(t, response, m, pieces, newStageOnce(t, config.FilterReport))
				if got.refused() != nil || got.err != nil || got.body != string(m.body) || !strings.Contains(got.notes, "content_filter bad in") {
					t.Fatalf("%s, report, split %d: %v %v %q", name, i, got.refused(), got.err, got.notes)
				}
				m.observe = true
				got = carry(t, response, m, pieces, newStageOnce(t, config.FilterBlock))
				if got.refused() != nil || got.body != string(m.body) || got.objection == nil || got.objection.Reason != want {
					t.Fatalf("%s, observed, split %d: %v %v %q", name, i, got.refused(), got.objection, got.notes)
				}
				got = carry(t, response, m, pieces, newStageOnce(t, config.FilterRedact))
				if got.refused() != nil || got.body != string(m.body) || got.objection != nil || !strings.Contains(got.notes, "would be redacted") {
					t.Fatalf("%s, redact observed, split %d: %v %q", name, i, got.refused(), got.notes)
				}
				m.observe = false
			}
		}
		// What nothing is found in stays as it is, with its coding and length.
		for _, m := range []message{{body: zip([]byte(clean)), encoding: "gzip", length: true}, {body: []byte(clean)}, {body: grpc(true, clean), contentType: "application/grpc", header: map[string]string{"grpc-encoding": "gzip"}}} {
			for _, action := range []config.FilterAction{config.FilterBlock, config.FilterRedact, config.FilterReport} {
				if got := carry(t, response, m, nil, newStageOnce(t, action)); got.refused() != nil || got.body != string(m.body) && !(action == config.FilterRedact && got.body == clean) {
					t.Errorf("clean, %s: %v %q", action, got.refused(), got.body)
				}
			}
		}
	}
}

var stages = map[config.FilterAction]*Stage{}

// TestFraming: what is rewritten keeps its framing.
func TestFraming(t *testing.T) {
	s := newStageOnce(t, config.FilterRedact)
	for _, c := range []struct {
		name, contentType string
		in, want          []byte
	}{
		{"events", "text/event-stream", []byte("event: a\r\ndata: one bad word\r\n\r\n: bad-word1\n\nid: 7\rdata:bad\rdata: word2 x\r\rdata: end"),
			[]byte("event: a\r\ndata: one [redacted:bad]\r\n\r\n: [redacted:bad]\n\nid: 7\rdata:[redacted:bad] x\r\rdata: end")},
		{"messages", "application/grpc", grpc(false, "x bad word12345678 y", "", "clean"), grpc(false, "x [redacted:bad]** y", "", "clean")},
		{"JSON", "application/json", []byte(`{"a":"\"bad\u0020word\"","b":"bad-word"}`), []byte(`{"a":"\"[redacted:bad]\"","b":"[redacted:bad]"}`)},
	} {
		for i, pieces := range splits(c.in) {
			got := carry(t, true, message{contentType: c.contentType, body: c.in}, pieces, s)
			if got.refused() != nil || got.body != string(c.want) {
				t.Errorf("%s, split %d: %v %q, want %q", c.name, i, got.refused(), got.body, c.want)
			}
		}
	}
}

// TestEventsPassAtOnce: an event is passed on when it is whole, and those before
// one that is blocked have been.
func TestEventsPassAtOnce(t *testing.T) {
	s := newStageOnce(t, config.FilterBlock)
	body := []byte("data: one\n\ndata: two\n\ndata: a bad word\n\ndata: four\n\n")
	got := carry(t, true, message{contentType: "text/event-stream", body: body}, nil, s)
	if got.cut == nil || got.body != "data: one\n\ndata: two\n\n" {
		t.Errorf("%v after %q", got.cut, got.body)
	}
	got = carry(t, true, message{contentType: "application/grpc", body: grpc(false, "one", "bad word", "three")}, nil, s)
	if got.cut == nil || got.body != string(grpc(false, "one")) {
		t.Errorf("%v after %q", got.cut, got.body)
	}
}

func TestURLAndFields(t *testing.T) {
	block, redact := newStageOnce(t, config.FilterBlock), newStageOnce(t, config.FilterRedact)
	for _, m := range []message{
		{path: "/a/bad-word"}, {path: "/a/b%61d%20word"}, {query: "q=bad+word"}, {query: "q=%62%61%64%20%77ord&x=1"}, {query: "x=y?bad-word"},
		{header: map[string]string{"X-Note": "a bad word"}}, {header: map[string]string{"bad-word": "1"}}, {header: map[string]string{"Authorization": "bad word"}},
		{body: []byte("x"), trailer: "bad word"}, {upgrade: "websocket"},
	} {
		got := carry(t, false, m, nil, block)
		if got.refusal == nil || got.refusal.Reason != policy.ContentFilter || got.refusal.Code() != map[bool]int{true: 403, false: 400}[false] {
			t.Errorf("%+v: %v", m, got.refused())
		}
	}
	got := carry(t, false, message{path: "/a b", query: "q=see+bad+word5&y=%2B", header: map[string]string{"X-Note": "a bad word!", "bad-word": "1", "X-Other": "stays"}}, nil, redact)
	h := &got.x.Request.Header
	if got.refusal != nil || got.x.Request.Query != "q=see+%5Bredacted%3Abad%5D&y=%2B" || got.x.Request.Path != "/a b" ||
		h.Get("X-Note") != "a [redacted:bad]!" || h.Has("bad-word") || h.Get("X-Other") != "stays" {
		t.Errorf("%v %q %v", got.refusal, got.x.Request.Query, h)
	}
	if got = carry(t, false, message{path: "/a/bad-word"}, nil, redact); got.refusal == nil {
		t.Error("a path was rewritten")
	}
	if got = carry(t, true, message{header: map[string]string{"X-Note": "bad word"}}, nil, block); got.refusal == nil || got.refusal.Code() != 502 {
		t.Errorf("a response's field: %v", got.refusal)
	}
	if got = carry(t, true, message{body: []byte("x"), trailer: "bad word"}, nil, redact); got.x.Response.Trailer.Get("X-Trailer") != "[redacted:bad]" {
		t.Errorf("a response's trailer: %v", got.x.Response.Trailer)
	}
	report := newStageOnce(t, config.FilterReport)
	if got = carry(t, false, message{upgrade: "websocket", path: "/bad-word"}, nil, report); got.refusal != nil || !strings.Contains(got.notes, "upgrade") || !strings.Contains(got.notes, "URL") {
		t.Errorf("%v %q", got.refusal, got.notes)
	}
	// What the response may be encoded with, and that it comes whole.
	got = carry(t, false, message{header: map[string]string{"Accept-Encoding": "gzip, dcz, *", "Range": "bytes=0-5"}}, nil, block)
	if h = &got.x.Request.Header; h.Get("Accept-Encoding") != "gzip" || h.Has("Range") {
		t.Errorf("%v", h)
	}
}

// TestElsewhere: what else of a message can carry text.
func TestElsewhere(t *testing.T) {
	block, redact := newStageOnce(t, config.FilterBlock), newStageOnce(t, config.FilterRedact)
	x := &exchange.Exchange{}
	x.Request.Method, x.Request.Path = "bad-word", "/"
	if r := block.Request(context.Background(), x); r == nil {
		t.Error("a method passed")
	}
	x = &exchange.Exchange{}
	x.Request.Method, x.Request.Path, x.Request.Authority = "GET", "/", "bad-word.example.com"
	for _, s := range []*Stage{block, redact} {
		if r := s.Request(context.Background(), x); r == nil {
			t.Error("a host passed")
		}
	}
	x = &exchange.Exchange{}
	x.Response.Status, x.Response.Phrase = 200, "bad word"
	if r := block.Response(context.Background(), x); r == nil {
		t.Error("a reason phrase passed")
	}
	if r := redact.Response(context.Background(), x); r != nil || x.Response.Phrase != "" {
		t.Errorf("a reason phrase: %v %q", r, x.Response.Phrase)
	}
	var interim exchange.Response
	interim.Status = 103
	interim.Header.Add("Link", "bad word")
	if block.Interim(x, &interim) {
		t.Error("an interim response passed")
	}
	if !redact.Interim(x, &interim) || interim.Header.Get("Link") != "[redacted:bad]" {
		t.Errorf("an interim response: %v", interim.Header)
	}
}

// TestRecordedURL: no secret of a URL is recorded, whatever is done about it.
func TestRecordedURL(t *testing.T) {
	token := "gh" + "p_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
	for _, action := range []config.FilterAction{config.FilterBlock, config.FilterRedact, config.FilterReport} {
		s := newStage(t, action)
		for _, path := range []string{"/" + token, "/gh%70_" + token[4:], "/clean"} {
			for _, query := range []string{"q=" + token, "q=%67hp_" + token[4:] + "&r=1", "r=1"} {
				x := &exchange.Exchange{}
				x.Request.Method, x.Request.Path, x.Request.Query, x.Request.HasQuery = "GET", path, query, true
				_ = s.Request(context.Background(), x)
				s.Redact(x)
				recorded := []string{x.Request.Path, x.Request.Query}
				if x.Record.Path != "" {
					recorded[0] = x.Record.Path
				}
				if x.Record.Query != "" {
					recorded[1] = x.Record.Query
				}
				for _, text := range recorded {
					if strings.Contains(text, token[4:]) {
						t.Errorf("%s: of %s?%s is recorded %q", action, path, query, recorded)
					}
				}
			}
		}
	}
}

func TestUnreadable(t *testing.T) {
	big := bytes.Repeat([]byte("x"), Bound+1)
	bomb := zip(make([]byte, 16<<20))
	message := map[string]message{
		"unknown coding":       {body: []byte("x"), encoding: "compress"},
		"corrupt":              {body: []byte("not gzip"), encoding: "gzip"},
		"cut":                  {body: zip([]byte("some text"))[:20], encoding: "gzip"},
		"charset":              {body: []byte("b\x00a\x00d\x00"), contentType: "text/plain; charset=UTF-16LE"},
		"bomb":                 {body: bomb, encoding: "gzip"},
		"message of gRPC":      {body: grpc(false, string(make([]byte, 5<<20))), contentType: "application/grpc"},
		"part of a message":    {body: grpc(false, "hello")[:8], contentType: "application/grpc"},
		"compressed message":   {body: []byte{1, 0, 0, 0, 1, 'x'}, contentType: "application/grpc", header: map[string]string{"grpc-encoding": "snappy"}},
		"message is a bomb":    {body: grpc(true, string(make([]byte, 8<<20))), contentType: "application/grpc", header: map[string]string{"grpc-encoding": "gzip"}},
		"event":                {body: append([]byte("data: "), big...), contentType: "text/event-stream"},
		"too large to be held": {body: big, length: true},
		"too long to be held":  {body: big},
	}
	for name, m := range message {
		for _, response := range []bool{false, true} {
			if name == "event" && !response {
				continue
			}
			long := strings.HasPrefix(name, "too l")
			for _, action := range []config.FilterAction{config.FilterBlock, config.FilterRedact} {
				got := carry(t, response, m, nil, newStageOnce(t, action))
				refusal := got.refused()
				if long && (response || action == config.FilterRedact) {
					if refusal != nil || got.body != string(m.body) {
						t.Errorf("%s, %s, response %v: %v", name, action, response, refusal)
					}
					continue
				}
				if refusal == nil || !strings.Contains(refusal.Message, "cannot be judged") || !strings.Contains(refusal.Message, "report") {
					t.Errorf("%s, %s, response %v: %v", name, action, response, refusal)
				}
				if len(got.body) > 9<<20 {
					t.Errorf("%s, %s: %d bytes were passed on", name, action, len(got.body))
				}
			}
			got := carry(t, response, m, nil, newStageOnce(t, config.FilterReport))
			if got.refused() != nil || got.err != nil || got.body != string(m.body) || !long && name != "event" && !strings.Contains(got.notes, "not judged") {
				t.Errorf("%s, report, response %v: %v %v, %d bytes, %q", name, response, got.refused(), got.err, len(got.body), got.notes)
			}
		}
	}
}

// TestLongBodies: behind what can be held, judged as it comes.
func TestLongBodies(t *testing.T) {
	var text []byte
	for i := range 150_000 {
		text = fmt.Appendf(text, "clean text %d, ", i*7919)
	}
	text = append(text, "a bad word, the end"...)
	for _, m := range []message{{body: text, length: true}, {body: text}, {body: zip(text), encoding: "gzip", length: true}} {
		got := carry(t, true, m, nil, newStageOnce(t, config.FilterBlock))
		if got.refusal != nil || got.cut == nil || strings.Contains(got.body, "bad") {
			t.Errorf("block: %v %v, %d bytes", got.refusal, got.cut, len(got.body))
		}
		for _, response := range []bool{true, false} {
			got = carry(t, response, m, nil, newStageOnce(t, config.FilterRedact))
			if got.refused() != nil || got.length != exchange.UnknownLength && len(m.encoding) == 0 && !m.length || got.body != strings.Replace(string(text), "bad word", "[redacted:bad]", 1) {
				t.Errorf("redact: %v, length %d, %d bytes", got.refused(), got.length, len(got.body))
			}
		}
	}
}

func TestSecrets(t *testing.T) {
	token := "gh" + "p_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
	s := newStage(t, config.FilterBlock)
	for _, m := range []message{{body: []byte("the token " + token), length: true}, {query: "t=" + token}, {header: map[string]string{"X-Note": token}}} {
		got := carry(t, false, m, nil, s)
		if got.refusal == nil || got.refusal.Reason != policy.SecretFound || got.refusal.Code() != 403 || !strings.Contains(got.refusal.Message, "github-token") || strings.Contains(got.refusal.Message+got.notes, token) {
			t.Errorf("%+v: %v %q", m, got.refusal, got.notes)
		}
	}
	// What is meant to carry a credential may.
	for _, name := range []string{"Authorization", "Cookie", "X-Api-Key", "Private-Token"} {
		if got := carry(t, false, message{header: map[string]string{name: token}}, nil, s); got.refusal != nil {
			t.Errorf("%s: %v", name, got.refusal)
		}
	}
	if got := carry(t, true, message{body: []byte(token)}, nil, s); got.refusal == nil || got.refusal.Reason != policy.ResponseFilter {
		t.Errorf("response: %v", got.refusal)
	}
	got := carry(t, true, message{body: []byte(`{"key":"` + token + `"}`), length: true, header: map[string]string{"ETag": `"x"`, "Digest": "y"}}, nil, newStage(t, config.FilterRedact))
	if got.body != `{"key":"[redacted:github-token]"}` || got.length != int64(len(got.body)) || got.x.Response.Header.Get("ETag") != `W/"x"` || got.x.Response.Header.Has("Digest") {
		t.Errorf("%q, %d, %v", got.body, got.length, got.x.Response.Header)
	}
	got = carry(t, false, message{body: []byte(token + " 4111111111111111")}, nil, newStage(t, config.FilterReport))
	if got.refused() != nil || !strings.Contains(got.notes, "secret github-token in the request's body before byte 40") || !strings.Contains(got.notes, "secret credit-card") {
		t.Errorf("%v %q", got.refused(), got.notes)
	}
	// Both kinds of filter in one pass.
	both := newStage(t, config.FilterRedact, bad(config.InBoth, config.FilterBlock))
	if got = carry(t, false, message{body: []byte(token + " bad word"), length: true}, nil, both); got.refusal == nil || got.refusal.Reason != policy.ContentFilter {
		t.Errorf("%v", got.refusal)
	}
}

// TestJSONRPC: a refused call can be answered by its id.
func TestJSONRPC(t *testing.T) {
	call := []byte(`{"jsonrpc":"2.0","id":41,"method":"tools/call","params":{"text":"a bad word"}}`)
	for i, pieces := range splits(call) {
		got := carry(t, false, message{body: call, contentType: "application/json", length: i%2 == 0}, pieces, newStageOnce(t, config.FilterBlock))
		if got.refusal == nil {
			t.Fatal("not refused")
		}
		got.refusal.Answer(&got.x.Request, &got.x.Response)
		p, err := io.ReadAll(got.x.Response.Body)
		if err != nil || !bytes.Contains(p, []byte(`"id":41,"error"`)) {
			t.Fatalf("split %d: %s %v", i, p, err)
		}
	}
}

// TestExpect: a client that waits for a 100 is not waited for.
func TestExpect(t *testing.T) {
	for _, text := range []string{"a bad word", "a good word"} {
		m := message{body: []byte(text), length: true, expect: true}
		got := carry(t, false, m, nil, newStageOnce(t, config.FilterBlock))
		if blocked := strings.Contains(text, "bad"); got.refusal != nil || (got.cut != nil) != blocked || !blocked && got.body != text || blocked && got.body != "" {
			t.Errorf("%q: %v %v %q", text, got.refusal, got.cut, got.body)
		}
	}
}

// TestCut: a body that its sender cut does not end cleanly.
func TestCut(t *testing.T) {
	for _, action := range []config.FilterAction{config.FilterBlock, config.FilterRedact, config.FilterReport} {
		for _, encoding := range []string{"", "gzip"} {
			x := &exchange.Exchange{}
			text := []byte("half of a body")
			if encoding != "" {
				x.Response.Header.Add("Content-Encoding", encoding)
				text = zip(text)[:12]
			}
			x.Response.Status, x.Response.Length = 200, exchange.UnknownLength
			x.Response.Body = &pieceBody{pieces: [][]byte{text}, err: errCut}
			p := exchange.NewPipeline(newStageOnce(t, action))
			if r := p.Request(context.Background(), x); r != nil {
				t.Fatal(r)
			}
			if r := p.Response(context.Background(), x); r != nil {
				t.Fatal(r)
			}
			if _, err := io.ReadAll(x.Response.Body); !errors.Is(err, errCut) {
				t.Errorf("%s %s: %v", action, encoding, err)
			}
			p.End(x)
		}
	}
}

// TestMemory: with nowhere to hold bodies, nothing passes unjudged.
func TestMemory(t *testing.T) {
	s := newStage(t, "", bad(config.InBoth, config.FilterBlock))
	s.o.Memory = NewMemory(100 << 10)
	got := carry(t, false, message{body: bytes.Repeat([]byte("x"), 500<<10), length: true}, nil, s)
	if got.refusal == nil || got.refusal.Reason != policy.Overloaded {
		t.Errorf("%v", got.refusal)
	}
}

// TestDecodedSize: what a body decompresses to counts, where it is decompressed.
func TestDecodedSize(t *testing.T) {
	m := message{body: zip(make([]byte, 300<<10)), encoding: "gzip", length: true}
	limit := size.New(&config.SizeLimit{Request: 200 << 10, Response: 200 << 10})
	for _, action := range []config.FilterAction{config.FilterBlock, config.FilterRedact, config.FilterReport} {
		for _, response := range []bool{false, true} {
			want := policy.RequestTooLarge
			if response {
				want = policy.ResponseTooLarge
			}
			got := carry(t, response, m, [][]byte{m.body[:100], m.body[100:]}, limit, newStageOnce(t, action))
			if refusal := got.refused(); refusal == nil || refusal.Reason != want {
				t.Errorf("%s, response %v: %v", action, response, refusal)
			}
		}
	}
	if got := carry(t, false, m, nil, limit); got.refused() != nil {
		t.Errorf("without a filter: %v", got.refused())
	}
}

// FuzzBodies: no match gets through, however the body is framed and cut.
func FuzzBodies(f *testing.F) {
	f.Add([]byte("data: bad\ndata: word\n\n"), uint16(9), byte(1))
	f.Add(grpc(false, "bad word"), uint16(3), byte(2))
	f.Add([]byte(`"b\u0061d word"`), uint16(5), byte(0))
	types := []string{"application/json", "text/event-stream", "application/grpc", "application/x-www-form-urlencoded", ""}
	redact := newStage(f, "", bad(config.InBoth, config.FilterRedact))
	block := newStage(f, "", bad(config.InBoth, config.FilterBlock))
	f.Fuzz(func(t *testing.T, p []byte, cut uint16, kind byte) {
		m := message{body: p, contentType: types[int(kind)%len(types)]}
		at := int(cut) % (len(p) + 1)
		for _, s := range []*Stage{redact, block} {
			whole := carry(t, true, m, nil, s)
			if strings.Contains(whole.body, "bad word") && m.contentType != "application/grpc" {
				t.Errorf("%q became %q", p, whole.body)
			}
			parts := carry(t, true, m, [][]byte{p[:at], p[at:]}, s)
			if at > 0 && at < len(p) && (whole.body != parts.body && whole.refused() == nil || (whole.refused() == nil) != (parts.refused() == nil)) {
				t.Errorf("%q cut at %d: %q %v, whole %q %v", p, at, parts.body, parts.refused(), whole.body, whole.refused())
			}
		}
	})
}
