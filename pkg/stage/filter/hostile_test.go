package filter

import (
	"encoding/binary"
	"strings"
	"testing"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
)

func utf16(text string, big bool) []byte {
	var p []byte
	for _, c := range []byte(text) {
		if big {
			p = append(p, 0, c)
		} else {
			p = append(p, c, 0)
		}
	}
	return p
}

// TestOtherReadings: what a receiver may read in another way than its type says
// does not pass.
func TestOtherReadings(t *testing.T) {
	json := `{"a":"bad word"}`
	var wide32 []byte
	for _, c := range []byte(json) {
		wide32 = append(wide32, c, 0, 0, 0)
	}
	for name, m := range map[string]message{
		"UTF-16LE of JSON":          {body: utf16(json, false), contentType: "application/json"},
		"UTF-16BE of JSON":          {body: utf16(json, true), contentType: "application/json"},
		"UTF-32LE of JSON":          {body: wide32},
		"UTF-16 with its mark":      {body: append([]byte{0xff, 0xfe}, utf16(json, false)...), contentType: "text/plain"},
		"a charset by another name": {body: utf16(json, false), contentType: "text/plain; charset=u16"},
		"EBCDIC":                    {body: []byte{0x82, 0x81, 0x84, 0x40, 0xa6, 0x96, 0x99, 0x84}, contentType: "text/plain; charset=cp037"},
		"a charset with an escape":  {body: []byte("+AGIAYQBk- word"), contentType: `text/plain; charset="ut\f-7"`},
		"two charsets":              {body: []byte("+AGIAYQBk- word"), contentType: `text/plain; charset=utf-8; charset=utf-7`},
		"JSON sent as a form":       {body: []byte(`{"a":"b\u0061d word"}`), contentType: "application/x-www-form-urlencoded"},
		"JSON in a form":            {body: []byte(`a={"a":"b\u0061d+word"}`), contentType: "application/x-www-form-urlencoded"},
		"JSON encoded in a form":    {body: []byte(`a=%7b%22a%22:%22bad%20word`), contentType: "application/x-www-form-urlencoded"},
		"base64 of gRPC":            {body: []byte("YmFkIHdvcmQ="), contentType: "application/grpc-web-text+proto"},
		"events that are none":      {body: []byte("bad\n\nword"), contentType: "text/event-stream"},
	} {
		for _, action := range []config.FilterAction{config.FilterBlock, config.FilterRedact} {
			m := m
			f := bad(config.InBoth, action)
			f.Pattern = `bad\s+word`
			for _, length := range []bool{false, true} {
				m.length = length
				for i, pieces := range splits(m.body) {
					got := carry(t, false, m, pieces, newStageOf(t, f))
					redacted := action == config.FilterRedact && strings.Contains(got.body, "[redacted:bad]")
					if got.refused() == nil && !redacted {
						t.Fatalf("%s, %s, split %d: passed as %q", name, action, i, got.body)
					}
				}
			}
		}
	}
}

var stagesOf = map[config.ContentFilter]*Stage{}

func newStageOf(t testing.TB, f config.ContentFilter) *Stage {
	if stagesOf[f] == nil {
		stagesOf[f] = newStage(t, "", f)
	}
	return stagesOf[f]
}

// TestTwoTypes: which of two types counts is a matter of opinion.
func TestTwoTypes(t *testing.T) {
	x := &exchange.Exchange{}
	x.Request.Method, x.Request.Path = "POST", "/"
	x.Request.Header.Add("Content-Type", "application/json")
	x.Request.Header.Add("content-type", "application/x-www-form-urlencoded")
	x.Request.Body, x.Request.Length = &pieceBody{pieces: [][]byte{[]byte("a=b%61d+word")}}, exchange.UnknownLength
	p := exchange.NewPipeline(newStage(t, "", bad(config.InBoth, config.FilterBlock)))
	if r := p.Request(t.Context(), x); r == nil || r.Reason != policy.ContentFilter {
		t.Errorf("%v", r)
	}
	p.End(x)
}

// TestUsualTypesPass: none of them is refused for what it is.
func TestUsualTypesPass(t *testing.T) {
	s := newStage(t, "", bad(config.InBoth, config.FilterBlock))
	for _, contentType := range []string{
		"application/json; charset=utf-8", "text/html; charset=ISO-8859-1", `text/plain;charset="UTF-8"`, "text/xml; charset=windows-1252",
		"multipart/form-data; boundary=abc", "application/x-www-form-urlencoded; charset=UTF-8", "text/html;charset=Shift_JIS", "text/plain; charset=us-ascii; format=flowed", "",
	} {
		for _, body := range []string{"a good word", "{}", "\x89PNG\r\n\x1a\n", "\x00\x00\x01\x00\x01\x00", "\x00\x00\x00\x20ftyp", "\x00asm\x01\x00\x00\x00", "a=%2%zz\\u00+b\\"} {
			for _, response := range []bool{false, true} {
				if got := carry(t, response, message{body: []byte(body), contentType: contentType}, nil, s); got.refused() != nil || got.body != body {
					t.Errorf("%q %q: %v %q", contentType, body, got.refused(), got.body)
				}
			}
		}
	}
}

// TestHalfOfTheMemory: one workload cannot take what others need.
func TestHalfOfTheMemory(t *testing.T) {
	m := NewMemory(1 << 20)
	var held []*share
	for range 100 {
		s := &share{m: m, workload: "greedy"}
		s.set(64 << 10)
		held = append(held, s)
	}
	other := share{m: m, workload: "other"}
	if m.Used() != 512<<10 || !other.set(100<<10) {
		t.Errorf("%d bytes are held by one workload", m.Used())
	}
	other.set(0)
	for _, s := range held {
		s.set(0)
	}
	if m.Used() != 0 || len(m.holders) != 0 {
		t.Errorf("%d bytes and %d workloads are left", m.Used(), len(m.holders))
	}
}

// TestOnlookersAreCounted: bodies that are only reported on hold no more memory
// than there is for them, and pass all the same.
func TestOnlookersAreCounted(t *testing.T) {
	part := []byte{0, 0, 0x3f, 0xff, 0xff}
	for i := range uint32(400_000) { // about as compressible as text
		part = binary.BigEndian.AppendUint32(part, i*0x9e3779b9&0x0f7f0fff)
	}
	for name, m := range map[string]message{
		"gRPC":       {contentType: "application/grpc", body: part},
		"compressed": {contentType: "application/grpc", encoding: "gzip", body: zip(part)},
	} {
		s := newStage(t, "", bad(config.InBoth, config.FilterReport))
		s.o.Memory = NewMemory(16 << 20)
		for _, response := range []bool{false, true} {
			var open []*exchange.Exchange
			p := exchange.NewPipeline(s)
			unjudged := 0
			for range 10 {
				x := &exchange.Exchange{}
				x.Subject = exchange.Subject{Rule: "r", Workload: "w"}
				x.Request.Method, x.Request.Path = "POST", "/"
				h, body := &x.Request.Header, &x.Request.Body
				if response {
					h, body = &x.Response.Header, &x.Response.Body
					x.Response.Status = 200
				}
				h.Add("Content-Type", m.contentType)
				if m.encoding != "" {
					h.Add("Content-Encoding", m.encoding)
				}
				*body = &pieceBody{pieces: [][]byte{m.body, []byte("x")}}
				if r := p.Request(t.Context(), x); r != nil {
					t.Fatal(r)
				}
				if r := p.Response(t.Context(), x); response && r != nil {
					t.Fatal(r)
				}
				for n := 0; n < len(m.body); {
					k, err := (*body).Read(make([]byte, 1<<20))
					if n += k; err != nil {
						t.Fatal(err)
					}
				}
				open = append(open, x)
			}
			if used := s.o.Memory.Used(); used > 8<<20 || used < 4<<20 {
				t.Errorf("%s, response %v: %d bytes are held", name, response, used)
			}
			for _, x := range open {
				if p.End(x); strings.Contains(x.Record.Message, "no memory") {
					unjudged++
				}
			}
			if used := s.o.Memory.Used(); used != 0 || unjudged == 0 {
				t.Errorf("%s, response %v: %d bytes are left, %d were not judged", name, response, used, unjudged)
			}
		}
	}
}
