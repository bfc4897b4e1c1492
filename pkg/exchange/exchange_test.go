package exchange

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sallyport/pkg/policy"
)

func TestHeader(t *testing.T) {
	var h Header
	for _, f := range [][2]string{{"Accept", "a"}, {"X-One", "1"}, {"aCCEPT", "b"}, {"x-one", "2"}, {"Host", "h"}} {
		h.Add(f[0], f[1])
	}
	if got := slices.Collect(h.Values("accept")); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("Values %q", got)
	}
	if h.Get("X-ONE") != "1" || h.Get("nope") != "" || !h.Has("host") || h.Has("nope") || h.Find(Host).Value != "h" || h.Find(Cookie) != nil {
		t.Error("look-ups")
	}
	h.Set("x-one", "3")
	h.Del("ACCEPT")
	var got []string
	for name, value := range h.All() {
		got = append(got, name+"="+value)
	}
	if want := []string{"X-One=3", "Host=h"}; !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
	h.Reset()
	if h.Len() != 0 {
		t.Error("not empty")
	}
}

func TestLookupName(t *testing.T) {
	for id := AltSvc; int(id) < len(nameStrings); id++ {
		for _, name := range []string{id.String(), strings.ToUpper(id.String()), strings.ToLower(id.String())} {
			if got := LookupName(name); got != id {
				t.Errorf("%q: id %d, want %d", name, got, id)
			}
		}
	}
	for _, name := range []string{"", "X", "Hos", "Content-Lengt\u212a", "Content_Length", "Host ", "ConneCtion\x00"} {
		if got := LookupName(name); got != OtherName {
			t.Errorf("%q: id %v", name, got)
		}
	}
}

// No field that frames, routes or authorises can be declared hop-by-hop.
func TestNominable(t *testing.T) {
	for _, id := range []NameID{Host, ContentLength, TransferEncoding, ContentType, ContentEncoding, Authorization, Cookie, SetCookie, CacheControl, Expect, Trailer, Range, Location} {
		if id.Nominable() || id.HopByHop() {
			t.Errorf("%v", id)
		}
	}
	for _, id := range []NameID{Connection, KeepAlive, TE, Upgrade, ProxyConnection, ProxyAuthorization, ProxyAuthenticate, HTTP2Settings} {
		if !id.HopByHop() {
			t.Errorf("%v", id)
		}
	}
}

type testStage struct {
	name           string
	log            *[]string
	refuse, answer bool
	refuseResponse bool
}

func (s *testStage) Name() string { return s.name }

func (s *testStage) Request(_ context.Context, x *Exchange) *Refusal {
	*s.log = append(*s.log, s.name+">")
	x.Keep(s, s.name)
	if s.answer {
		x.Answer()
	}
	if s.refuse {
		return &Refusal{Reason: policy.RuleDenied}
	}
	return nil
}

func (s *testStage) Withdraw(*Exchange) { *s.log = append(*s.log, "-"+s.name) }

func (s *testStage) Response(_ context.Context, x *Exchange) *Refusal {
	*s.log = append(*s.log, "<"+s.name)
	if x.Kept(s) != s.name {
		return &Refusal{Reason: policy.MalformedRequest}
	}
	if s.refuseResponse {
		return &Refusal{Reason: policy.ResponseTooLarge}
	}
	return nil
}

func TestPipeline(t *testing.T) {
	for _, tt := range []struct {
		name                               string
		stages                             []testStage
		want                               string
		refused, refusedResponse, answered bool
	}{
		{name: "none"},
		{name: "order", stages: []testStage{{name: "a"}, {name: "b"}}, want: "a> b> <a <b"},
		{name: "refused", stages: []testStage{{name: "a"}, {name: "b", refuse: true}, {name: "c"}}, want: "a> b> -a", refused: true},
		{name: "answered", stages: []testStage{{name: "a"}, {name: "b", answer: true}, {name: "c"}}, want: "a> b> -a", answered: true},
		{name: "response refused", stages: []testStage{{name: "a", refuseResponse: true}, {name: "b"}}, want: "a> b> <a", refusedResponse: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log []string
			var stages []Stage
			for i := range tt.stages {
				tt.stages[i].log = &log
				stages = append(stages, &tt.stages[i])
			}
			p := NewPipeline(stages...)
			if p.Empty() != (len(stages) == 0) {
				t.Error("Empty")
			}
			var pool Pool
			x := pool.Get()
			defer pool.Put(x)
			refused := p.Request(t.Context(), x)
			if (refused != nil) != tt.refused || x.Answered() != tt.answered {
				t.Errorf("refused %v, answered %v", refused, x.Answered())
			}
			if refused == nil && !x.Answered() {
				if r := p.Response(t.Context(), x); (r != nil) != tt.refusedResponse {
					t.Errorf("response refused %v", r)
				}
			}
			if got := strings.Join(log, " "); got != tt.want {
				t.Errorf("ran %q, want %q", got, tt.want)
			}
		})
	}
}

func TestResetForgets(t *testing.T) {
	var x Exchange
	x.Request = Request{Method: "GET", Path: "/", Body: NewBytes(nil), Upgrade: "x"}
	x.Request.Header.Add("Cookie", "secret")
	x.Response.Trailer.Add("A", "b")
	x.Keep("k", 1)
	x.Answer()
	x.Reset()
	if x.Request.Method != "" || x.Request.Body != nil || x.Request.Upgrade != "" || x.Request.Header.Len() != 0 ||
		x.Response.Trailer.Len() != 0 || x.Kept("k") != nil || x.Answered() || x.Response.Local {
		t.Errorf("%+v", &x)
	}
	if f := x.Request.Header.fields[:1]; f[0] != (Field{}) {
		t.Error("the list still holds the last exchange's text")
	}
}

func TestReadAll(t *testing.T) {
	data := strings.Repeat("a", 1000)
	if got, err := ReadAll(NewBytes([]byte(data)), 1000); err != nil || string(got) != data {
		t.Error(len(got), err)
	}
	if _, err := ReadAll(NewBytes([]byte(data)), 999); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	for _, limit := range []int{999, 1000} {
		got, err := ReadAll(&slow{Bytes: NewBytes([]byte(data))}, limit)
		if limit == 1000 && (err != nil || string(got) != data) || limit == 999 && !errors.Is(err, ErrTooLarge) {
			t.Error(limit, len(got), err)
		}
	}
	cut := &slow{Bytes: NewBytes([]byte(data)), err: io.ErrUnexpectedEOF}
	var source *SourceError
	if _, err := ReadAll(cut, 5000); !errors.As(err, &source) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// slow is a body that comes in pieces and may be cut.
type slow struct {
	*Bytes
	err error
}

func (s *slow) Buffered() ([]byte, bool) { return nil, false }

func (s *slow) Read(p []byte) (int, error) {
	n, err := s.Bytes.Read(p[:min(len(p), 100)])
	if err == io.EOF && s.err != nil {
		err = s.err
	}
	return n, err
}

func answer(req *Request) (status int, header Header, body string) {
	r := &Refusal{Reason: policy.NoRule, Rule: "r", Message: "no rule allows \"x\"\xff", Event: "e", RetryAfter: 2 * time.Second,
		Fields: []Field{{Name: "RateLimit-Limit", Value: "5"}}}
	var resp Response
	r.Answer(req, &resp)
	data, err := ReadAll(resp.Body, 1<<20)
	if err != nil {
		panic(err)
	}
	return resp.Status, resp.Header, string(data)
}

func TestRefusalPlain(t *testing.T) {
	status, header, body := answer(nil)
	if status != 403 || body != `{"error":"no rule allows \"x\"`+"\uFFFD"+`","reason":"no_rule","rule":"r","event":"e"}`+"\n" {
		t.Errorf("%d %q", status, body)
	}
	var got []string
	for name, value := range header.All() {
		got = append(got, name+": "+value)
	}
	want := []string{"Content-Type: application/json", "X-Sallyport-Reason: no_rule", "Retry-After: 2", "RateLimit-Limit: 5", "Content-Length: " + strconv.Itoa(len(body))}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
}

func TestRefusalStatus(t *testing.T) {
	for _, tt := range []struct {
		refusal Refusal
		want    int
	}{
		{Refusal{Reason: policy.MalformedRequest}, 400},
		{Refusal{Reason: policy.MalformedRequest, Status: 501}, 501},
		{Refusal{Reason: policy.AuditUnavailable}, 503},
		{Refusal{Reason: policy.UpstreamTimeout}, 504},
		{Refusal{Reason: policy.UpstreamTLS}, 502},
	} {
		if got := tt.refusal.Code(); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.refusal.Reason, got, tt.want)
		}
	}
}

func TestRefusalJSONRPC(t *testing.T) {
	object := func(id string) string {
		return `{"jsonrpc":"2.0","id":` + id + `,"error":{"code":-32001,"message":"no rule allows \"x\"` + "\uFFFD" + `","data":{"status":403,"reason":"no_rule","rule":"r","event":"e"}}}`
	}
	call := func(id string) string { return `{"jsonrpc":"2.0","id":` + id + `,"method":"tools/call"}` }
	for _, tt := range []struct{ name, contentType, body, want string }{
		{"number", "application/json", call("1"), object("1")},
		{"big number, echoed exactly", "application/json", call("12345678901234567890.10e0"), object("12345678901234567890.10e0")},
		{"string, echoed exactly", "application/json", call(`"a\u00e4\"b"`), object(`"a\u00e4\"b"`)},
		{"null", "application/json", call("null"), object("null")},
		{"parameters and case", "Application/JSON; charset=utf-8", call("1"), object("1")},
		{"whitespace", "application/json", " \n" + call(" 1 ") + "\n", object("1")},
		{"id last, params deep", "application/json", `{"method":"m","params":{"id":9,"a":[{}]},"jsonrpc":"2.0","id":2}`, object("2")},
		{"batch", "application/json", "[" + call("1") + `,{"jsonrpc":"2.0","method":"notify"},` + call(`"b"`) + "]", "[" + object("1") + "," + object(`"b"`) + "]"},
		{"batch with an answer in it", "application/json", "[" + call("1") + `,{"jsonrpc":"2.0","id":5,"result":{}}]`, "[" + object("1") + "]"},
		{"notification", "application/json", `{"jsonrpc":"2.0","method":"notify"}`, ""},
		{"answer", "application/json", `{"jsonrpc":"2.0","id":1,"result":{}}`, ""},
		{"no JSON-RPC", "application/json", `{"id":1,"method":"m"}`, ""},
		{"empty batch", "application/json", `[]`, ""},
		{"batch of other things", "application/json", `[1,2]`, ""},
		{"batch too long", "application/json", "[" + strings.Repeat(call("1")+",", maxRPCBatch) + call("1") + "]", ""},
		{"id that is an object", "application/json", call(`{}`), ""},
		{"long id", "application/json", call(`"` + strings.Repeat("a", maxRPCID) + `"`), ""},
		{"duplicate id", "application/json", `{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}`, ""},
		{"other case of a name", "application/json", `{"jsonrpc":"2.0","ID":1,"Method":"m"}`, ""},
		{"not UTF-8", "application/json", call("\"\xff\""), ""},
		{"two values", "application/json", call("1") + call("2"), ""},
		{"cut", "application/json", call("1")[:20], ""},
		{"other type", "text/plain", call("1"), ""},
		{"no type", "", call("1"), ""},
		{"too long", "application/json", call(`1,"a":"` + strings.Repeat("a", maxRPCBody) + `"`), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, method := range []string{"POST", "PUT"} {
				req := Request{Method: method, Length: UnknownLength, Body: NewBytes([]byte(tt.body))}
				if tt.contentType != "" {
					req.Header.Add("Content-Type", tt.contentType)
				}
				status, _, got := answer(&req)
				if tt.want == "" || method == "PUT" {
					if status != 403 || !strings.HasPrefix(got, `{"error"`) {
						t.Errorf("%s: %d %q", method, status, got)
					}
					continue
				}
				if status != 200 || got != tt.want+"\n" {
					t.Errorf("%d\n got %s\nwant %s", status, got, tt.want)
				}
			}
		})
	}
}

// FuzzRPC checks that no body crashes and that ids are answered as valid JSON.
func FuzzRPC(f *testing.F) {
	for _, seed := range []string{`{"jsonrpc":"2.0","id":1,"method":"m"}`, `[{"jsonrpc":"2.0","id":"a","method":"m"},{"jsonrpc":"2.0","method":"n"}]`, `[`, `{"id":{}}`, `[]]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ids, _, err := rpcIDs(data)
		if err != nil {
			return
		}
		if len(ids) > maxRPCBatch {
			t.Errorf("%d ids", len(ids))
		}
		for _, id := range ids {
			if !id.IsValid() {
				t.Errorf("id %q", id)
			}
		}
	})
}
