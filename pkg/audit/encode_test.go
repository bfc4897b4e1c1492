package audit

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func encode(e *Event) string { return string(appendEvent(nil, e, time.Time{}, nil)) + "}" }

var at = time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC)

// exchangeEvent is a usual exchange.
func exchangeEvent() *Event {
	return &Event{
		Time: at, ID: "id-1", Kind: Exchange, Verdict: "allow", Rule: "github-read", Mode: "enforce",
		Workload: Workload{Name: "github", Cgroup: "/mcp.slice/mcp-github.service", Unit: "mcp-github.service", PID: 4711, UID: 1000, Exe: "/usr/bin/node"},
		Flow:     77,
		Dst:      Destination{IP: netip.MustParseAddr("203.0.113.9"), Port: 443, Host: "api.github.com"},
		TLS:      TLS{SNI: "api.github.com", ALPN: "http/1.1", Version: "1.3", Handling: "inspect", UpstreamVersion: "1.3"},
		HTTP: HTTP{
			Version: "1.1", Method: "GET", Scheme: "https", Host: "api.github.com", Path: "/repos/x/y", Query: "per_page=100&access_token=hunter2",
			Status: 200, ResponseBytes: 5120,
		},
		Upstream:    Upstream{Target: "api.github.com:443", IP: netip.MustParseAddr("203.0.113.9"), Attempts: 1},
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		Duration:    Duration{Total: 12345678 * time.Nanosecond, Upstream: 12 * time.Millisecond},
	}
}

func TestEncodeExchange(t *testing.T) {
	want := `{"time":"2026-03-04T05:06:07.000000089Z","event":"id-1","kind":"exchange","verdict":"allow","rule":"github-read","mode":"enforce",` +
		`"workload":{"name":"github","cgroup":"/mcp.slice/mcp-github.service","unit":"mcp-github.service","pid":4711,"uid":1000,"exe":"/usr/bin/node"},` +
		`"flow":77,"dst":{"ip":"203.0.113.9","port":443,"host":"api.github.com"},` +
		`"tls":{"sni":"api.github.com","alpn":"http/1.1","version":"1.3","handling":"inspect","upstream_version":"1.3"},` +
		`"http":{"version":"1.1","method":"GET","scheme":"https","host":"api.github.com","path":"/repos/x/y","query":"per_page=100&access_token=[redacted]",` +
		`"status":200,"request_bytes":0,"response_bytes":5120},` +
		`"upstream":{"target":"api.github.com:443","ip":"203.0.113.9","attempts":1},` +
		`"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",` +
		`"duration":{"total":0.012345678,"upstream":0.012}}`
	if diff := cmp.Diff(want, encode(exchangeEvent())); diff != "" {
		t.Error(diff)
	}
}

func TestEncodeLeavesOutWhatIsEmpty(t *testing.T) {
	tests := []struct {
		name  string
		event Event
		want  string
	}{
		{"least", Event{Time: at, ID: "x", Kind: Lifecycle}, `{"time":"2026-03-04T05:06:07.000000089Z","event":"x","kind":"lifecycle"}`},
		{"root is uid 0", Event{Time: at, ID: "x", Kind: Admin, Workload: Workload{PID: 1}},
			`{"time":"2026-03-04T05:06:07.000000089Z","event":"x","kind":"admin","workload":{"pid":1,"uid":0}}`},
		{"mapped address", Event{Time: at, ID: "x", Kind: Refused, Dst: Destination{IP: netip.MustParseAddr("::ffff:192.0.2.1"), Port: 53}},
			`{"time":"2026-03-04T05:06:07.000000089Z","event":"x","kind":"refused","dst":{"ip":"192.0.2.1","port":53}}`},
		{"counters", Event{Time: at, ID: "x", Kind: FlowClose, Counters: Counters{Upstream: Leg{BytesSent: 1, RTT: 1500 * time.Microsecond}}},
			`{"time":"2026-03-04T05:06:07.000000089Z","event":"x","kind":"flow_close","counters":{"upstream":{"bytes_sent":1,"bytes_received":0,"segments":0,"retransmits":0,"rtt":0.0015}}}`},
		{"dns", Event{Time: at, ID: "x", Kind: DNS, DNS: DNSQuery{Name: "a.example", Type: "A", Answers: []string{"192.0.2.1", "192.0.2.2"}, Rcode: "NOERROR"}},
			`{"time":"2026-03-04T05:06:07.000000089Z","event":"x","kind":"dns","dns":{"name":"a.example","type":"A","answers":["192.0.2.1","192.0.2.2"],"rcode":"NOERROR"}}`},
		{"clock stepped back", Event{Time: at, ID: "x", Kind: Exchange, Duration: Duration{Total: -5}},
			`{"time":"2026-03-04T05:06:07.000000089Z","event":"x","kind":"exchange","duration":{"total":0}}`},
		{"websocket", Event{Time: at, ID: "x", Kind: Exchange, WebSocket: WebSocket{MessagesReceived: 2, CloseCode: 1000}},
			`{"time":"2026-03-04T05:06:07.000000089Z","event":"x","kind":"exchange","websocket":{"messages_sent":0,"messages_received":2,"close_code":1000}}`},
		{"userinfo", Event{Time: at, ID: "x", Kind: Exchange, HTTP: HTTP{Method: "GET", Host: "user:pw@h.example"}},
			`{"time":"2026-03-04T05:06:07.000000089Z","event":"x","kind":"exchange","http":{"method":"GET","host":"h.example","request_bytes":0,"response_bytes":0}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, encode(&tt.event)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// fill sets every field to something that is not zero.
func fill(t *testing.T, v reflect.Value, n *int) {
	*n++
	switch p := v.Addr().Interface().(type) {
	case *time.Time:
		*p = at
		return
	case *netip.Addr:
		*p = netip.MustParseAddr("2001:db8::1")
		return
	case *time.Duration:
		*p = time.Duration(*n)*time.Hour + 123456789
		return
	case *Kind:
		*p = ForeignSocket
		return
	case *[]Header:
		*p = []Header{{"a", "1"}, {"b", "2"}}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), n)
		}
	case reflect.String:
		v.SetString(strings.Repeat("x", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Slice:
		v.Set(reflect.ValueOf([]string{"one", "two"}))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n))
	default:
		t.Fatalf("no value for %s", v.Type())
	}
}

// TestEveryFieldIsReadBack holds encoder and decoder together.
func TestEveryFieldIsReadBack(t *testing.T) {
	var want, got Event
	n := 0
	fill(t, reflect.ValueOf(&want).Elem(), &n)
	c := chain{}
	c.resume(nil)
	first := c.appendLine(nil, appendEvent(nil, &want, time.Time{}, nil))
	line := c.appendLine(nil, appendEvent(nil, &want, time.Time{}, nil))
	if err := Decode(line, &got); err != nil {
		t.Fatal(err)
	}
	want.Prev, want.Hash = string(lineHash(first)), string(lineHash(line))
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
	if len(want.Hash) != 64 || want.Prev == want.Hash {
		t.Errorf("prev %q, hash %q", want.Prev, want.Hash)
	}
}

func TestText(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"plain", "abc/~ {}", `abc/~ {}`},
		{"quote and backslash", `a"b\c`, `a\"b\\c`},
		{"controls", "\x00\x1b[31m\n\r\t\x7f", `\u0000\u001b[31m\n\r\t\u007f`},
		{"umlaut and emoji stay", "é😀", `é😀`},
		{"not UTF-8", "a\xff\xc3(\xe2\x82", `a\ufffd\ufffd(\ufffd\ufffd`},
		{"surrogate half", "\xed\xa0\x80", `\ufffd\ufffd\ufffd`},
		{"C1 CSI", "\u009b31m", `\u009b31m`},
		{"right to left override", "a\u202egpj.exe", `a\u202egpj.exe`},
		{"line separator", "\u2028\u2029", `\u2028\u2029`},
		{"isolate", "\u2066x\u2069", `\u2066x\u2069`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(appendText(nil, tt.in, 100)); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestTextIsCutBetweenCharacters(t *testing.T) {
	tests := []struct{ in, want string }{
		{"abcdefgh", "abcdefgh"},
		{"abcdefghi", "abcdefgh…"},
		{"abcdefgé", "abcdefg…"},
		{"abcdef😀", "abcdef…"},
		{"abcdefg\xff\xff", "abcdefg\\ufffd…"},
		{"äöüäö", "äöüä…"},
	}
	for _, tt := range tests {
		if got := string(appendText(nil, tt.in, 8)); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.in, got, tt.want)
		}
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"", "plain", "\"\\\x00", "\xff\xfe", "é\u2028\u202e😀", "\xed\xa0\x80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b := append(appendText([]byte{'"'}, s, 1<<20), '"')
		var got string
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%q became %s: %v", s, b, err)
		}
		if want := toValid(s); got != want {
			t.Errorf("%q came back as %q, want %q", s, got, want)
		}
		if !utf8.Valid(b) || bytes.ContainsAny(b, "\n\x1b\u202e") {
			t.Errorf("%q became %q", s, b)
		}
	})
}

// toValid replaces each byte that is no UTF-8 by U+FFFD (strings.ToValidUTF8
// replaces a run of them by one).
func toValid(s string) string {
	var b strings.Builder
	for _, r := range s {
		b.WriteRune(r)
	}
	return b.String()
}

func FuzzTimeAndSeconds(f *testing.F) {
	f.Add(int64(0), int64(0))
	f.Add(int64(1_700_000_000_123_456_789), int64(1))
	f.Fuzz(func(t *testing.T, ns, d int64) {
		when := time.Unix(0, ns)
		if got, want := string(appendTime(nil, when)), when.UTC().Format("2006-01-02T15:04:05.000000000Z07:00"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if d < 0 {
			return
		}
		var back decoder
		if got := back.seconds(appendSeconds(nil, time.Duration(d))); got != time.Duration(d) || back.errs != nil {
			t.Errorf("%d ns came back as %d (%v)", d, got, back.errs)
		}
	})
}

func TestRedactedHeaders(t *testing.T) {
	secret := []string{
		"Authorization", "AUTHORIZATION", "Proxy-Authorization", "Cookie", "Set-Cookie", "X-Api-Key", "api-key", "apikey", "X-API_KEY",
		"X-Auth-Token", "X-Amz-Security-Token", "X-Goog-Api-Key", "Private-Token", "X-Vault-Token", "X-Client-Secret", "X-Password",
		"X-Hub-Signature-256", "DPoP", "Ocp-Apim-Subscription-Key",
	}
	open := []string{
		"Accept", "Content-Type", "User-Agent", "Host", "ETag", "Idempotency-Key", "WWW-Authenticate", "Mcp-Session-Id",
		"anthropic-ratelimit-tokens-remaining", "Sec-WebSocket-Key", "",
	}
	for _, name := range secret {
		if !secretHeader(name) {
			t.Errorf("%s is recorded", name)
		}
	}
	for _, name := range open {
		if secretHeader(name) {
			t.Errorf("%s is redacted", name)
		}
	}
}

func TestRecordedHeaders(t *testing.T) {
	many := make([]Header, MaxHeaders+1)
	for i := range many {
		many[i] = Header{"a", "b"}
	}
	tests := []struct {
		name string
		list []Header
		want string
	}{
		{"order, case and repetition", []Header{{"Accept", "a/b"}, {"X-B", "1"}, {"ACCEPT", "c/d"}}, `"request_headers":{"accept":"a/b, c/d","x-b":"1"}`},
		{"credentials", []Header{{"Cookie", "s=1"}, {"cookie", "t=2"}, {"Authorization", "Bearer x"}},
			`"request_headers":{"cookie":"[redacted]","authorization":"[redacted]"}`},
		{"hostile name", []Header{{"A\"\x00É", "v\n"}}, `"request_headers":{"a\"\u0000É":"v\n"}`},
		{"too many", many, `"request_headers":{"a":"` + strings.Repeat("b, ", MaxHeaders-1) + `b"},"truncated":true`},
		{"too long", []Header{{"a", strings.Repeat("x", maxHeaderText)}},
			`"request_headers":{"a":"` + strings.Repeat("x", maxHeaderText-1) + `…"},"truncated":true`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := encode(&Event{Time: at, ID: "x", Kind: Exchange, HTTP: HTTP{Method: "GET", RequestHeaders: tt.list}})
			_, got, _ = strings.Cut(got, `"response_bytes":0,`)
			if want := tt.want + "}}"; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestRedactedQuery(t *testing.T) {
	tests := []struct{ in, want string }{
		{"q=a&page=2", "q=a&page=2"},
		{"access_token=abc&q=1", "access_token=[redacted]&q=1"},
		{"q=1;sig=abc", "q=1;sig=[redacted]"},
		{"API_KEY=abc", "API_KEY=[redacted]"},
		{"%61pi_key=abc", "%61pi_key=[redacted]"},
		{"api%5Fkey=abc", "api%5Fkey=[redacted]"},
		{"key=AIza", "key=[redacted]"},
		{"X-Amz-Signature=ff&X-Amz-Credential=AK&X-Amz-Date=1", "X-Amz-Signature=[redacted]&X-Amz-Credential=[redacted]&X-Amz-Date=1"},
		{"client_secret=a=b", "client_secret=[redacted]"},
		{"token", "token"},
		{"token=", "token="},
		{"keyword=x&monkey=y", "keyword=x&monkey=y"},
		{"&&=;", "&&=;"},
		{"password=a&password=b", "password=[redacted]&password=[redacted]"},
		{"q=%ff%", "q=%ff%"},
	}
	for _, tt := range tests {
		if got := string(appendQuery(nil, tt.in)); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.in, got, tt.want)
		}
	}
}

func TestLongQueryIsCut(t *testing.T) {
	got := string(appendQuery(nil, strings.Repeat("a=b&", MaxText)+"token=secret"))
	if len(got) > MaxText+8 || !strings.HasSuffix(got, "…") || strings.Contains(got, "secret") {
		t.Errorf("%d bytes, ends with %q", len(got), got[max(0, len(got)-10):])
	}
	line := encode(&Event{Time: at, ID: "x", Kind: Exchange, HTTP: HTTP{Method: "GET", Query: strings.Repeat("a", MaxText+1)}})
	if !strings.Contains(line, `"truncated":true`) {
		t.Error("a cut query is not marked")
	}
}

func FuzzQuery(f *testing.F) {
	f.Add("a=b&access_token=c")
	f.Add("%61ccess_token=c;sig=d")
	f.Add("%")
	f.Fuzz(func(t *testing.T, query string) {
		const secret = "hunter2hunter2"
		b := appendQuery(nil, query)
		if !json.Valid(slices.Concat([]byte{'"'}, b, []byte{'"'})) {
			t.Fatalf("%q became %q", query, b)
		}
		if len(query) < MaxText/2 && !strings.Contains(query, secret) {
			b = appendQuery(nil, query+"&access_token="+secret)
			if bytes.Contains(b, []byte(secret)) {
				t.Errorf("the credential is in %q", b)
			}
		}
	})
}

// TestWorstLine proves that MaxLine bounds what hostile input can make of one
// event.
func TestWorstLine(t *testing.T) {
	bad := strings.Repeat("\x00", 1<<20)
	var list []Header
	for range MaxHeaders {
		list = append(list, Header{bad[:100], bad})
	}
	answers := make([]string, 1000)
	for i := range answers {
		answers[i] = bad
	}
	e := Event{
		Time: at, ID: bad, Kind: Exchange, Verdict: bad, Reason: bad, Rule: bad, Mode: bad,
		Workload: Workload{Name: bad, Cgroup: bad, Unit: bad, Container: bad, Exe: bad}, Dst: Destination{Host: bad},
		TLS:  TLS{bad, bad, bad, bad, bad},
		HTTP: HTTP{Version: bad, Method: bad, Scheme: bad, Host: bad, Path: bad, Query: bad, RequestHeaders: list, ResponseHeaders: list, RequestBody: bad, ResponseBody: bad},
		DNS:  DNSQuery{bad, bad, answers, bad}, Upstream: Upstream{Target: bad}, Traceparent: bad, Direction: bad, Message: bad,
	}
	if n := len(encode(&e)); n > MaxLine-1024 {
		t.Errorf("%d bytes, the bound is %d", n, MaxLine)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, line := range []string{
		``, `{`, `null`, `[]`, `{}`, `{"time":"x","kind":"dns"}`, `{"time":"2026-03-04T05:06:07Z","kind":"nonsense"}`,
		`{"time":"2026-03-04T05:06:07Z","kind":"dns","dst":{"ip":"nonsense"}}`,
		`{"time":"2026-03-04T05:06:07Z","kind":"dns","duration":{"total":1e999999999}}`,
		`{"time":"2026-03-04T05:06:07Z","kind":"dns","duration":{"total":99999999999999999999}}`,
		`{"time":"2026-03-04T05:06:07Z","kind":"dns"} trailing`,
		`{"time":"2026-03-04T05:06:07Z","kind":"dns","kind":"exchange"}`,
		`{"time":"2026-03-04T05:06:07Z","Kind":"dns"}`,
		`{"time":"2026-03-04T05:06:07Z","kind":"dns","http":{"request_headers":{"a":"1","a":"2"}}}`,
		`{"time":"2026-03-04T05:06:07Z","kind":"dns","duration":{"total":"1.5"}}`,
		`{"time":"2026-03-04T05:06:07Z","kind":"dns","duration":{"total":{}}}`,
		`{"time":"2026-03-04T05:06:07Z","kind":"dns","duration":{"total":-99999999999.5}}`,
		"{\"time\":\"2026-03-04T05:06:07Z\",\"kind\":\"dns\",\"message\":\"\xff\"}",
	} {
		var e Event
		if Decode([]byte(line), &e) == nil {
			t.Errorf("%s is accepted", line)
		}
	}
}

// TestLongHeaderNames: names that are cut alike are one member, so that nobody
// makes a line that cannot be read.
func TestLongHeaderNames(t *testing.T) {
	long := strings.Repeat("x", maxName)
	e := exchangeEvent()
	e.HTTP.RequestHeaders = []Header{{long + "a", "1"}, {strings.ToUpper(long) + "b", "2"}, {long, "3"}, {"\xff", "4"}, {"\xfe", "5"}}
	var back Event
	if err := Decode([]byte(encode(e)), &back); err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, h := range back.HTTP.RequestHeaders {
		values = append(values, h.Value)
	}
	slices.Sort(values)
	if want := []string{"1, 2, 3", "4, 5"}; !slices.Equal(values, want) {
		t.Errorf("%v, want %v", values, want)
	}
}

func TestSeconds(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "null": 0, "1": time.Second, "0.0000000019": 1, "-1.5": -1500 * time.Millisecond, "9223372036.854775807": 1<<63 - 1, "12.000000001": 12*time.Second + 1,
	} {
		var e Event
		if err := Decode([]byte(`{"time":"2026-03-04T05:06:07Z","kind":"dns","duration":{"total":`+text+`}}`), &e); err != nil || e.Duration.Total != want {
			t.Errorf("%s: %d, %v", text, e.Duration.Total, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(encode(exchangeEvent())))
	f.Add([]byte(`{"time":"2026-03-04T05:06:07Z","kind":"dns","duration":{"total":1.5},"new":{"field":1}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var e, again Event
		if Decode(line, &e) != nil {
			return
		}
		// What was read can be written and read again.
		if err := Decode([]byte(encode(&e)), &again); err != nil {
			t.Errorf("%s: %v", encode(&e), err)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	line := []byte(encode(exchangeEvent()))
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		var e Event
		if err := Decode(line, &e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	e := exchangeEvent()
	buf := make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		buf = appendEvent(buf[:0], e, time.Time{}, nil)
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkChain(b *testing.B) {
	event := appendEvent(nil, exchangeEvent(), time.Time{}, nil)
	buf := make([]byte, 0, 4096)
	c := chain{}
	c.resume(nil)
	b.ReportAllocs()
	for b.Loop() {
		buf = c.appendLine(buf[:0], event)
	}
	b.SetBytes(int64(len(buf)))
}
