package bodylog

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"unicode/utf16"

	"github.com/andybalholm/brotli"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/stage/secrets"
)

var compiled = sync.OnceValues(secrets.New)

func detectors(t testing.TB) *secrets.Set {
	t.Helper()
	s, err := compiled()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func stage(t testing.TB, max int, redact ...string) *Stage {
	t.Helper()
	c := &config.BodyLog{RequestBody: true, ResponseBody: true, MaxBody: config.Size(max)}
	for _, r := range redact {
		name, header := strings.CutPrefix(r, "header:")
		if header {
			c.Redact = append(c.Redact, config.Redaction{Header: name})
		} else {
			c.Redact = append(c.Redact, config.Redaction{Path: r})
		}
	}
	s, err := New(c, Options{Secrets: detectors(t), Budget: NewBudget(1 << 20)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// pieces is a body that comes in pieces of a few bytes.
type pieces struct {
	*exchange.Bytes
	step int
	cut  bool // it ends in an error
}

func (p *pieces) Buffered() ([]byte, bool) { return nil, false }
func (p *pieces) Read(b []byte) (int, error) {
	n, err := p.Bytes.Read(b[:min(len(b), p.step)])
	if err == io.EOF && p.cut {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// exchanged runs an exchange with the same body both ways and gives what was
// recorded of the response.
func exchanged(t testing.TB, s *Stage, body []byte, cut bool, fields ...string) exchange.Record {
	t.Helper()
	x := new(exchange.Exchange)
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		x.Request.Header.Add(name, value)
		x.Response.Header.Add(name, value)
	}
	x.Request.Body = &pieces{exchange.NewBytes(body), 7, cut}
	x.Response.Body = &pieces{exchange.NewBytes(body), 1000, cut}
	p := exchange.NewPipeline(s)
	if p.Request(t.Context(), x) != nil || p.Response(t.Context(), x) != nil {
		t.Fatal("refused")
	}
	p.Deliver(x)
	for _, b := range []exchange.Body{x.Request.Body, x.Response.Body} {
		got, err := io.ReadAll(b)
		if !bytes.Equal(got, body) || (err != nil) != cut {
			t.Fatalf("the body was changed: %d bytes, want %d; %v", len(got), len(body), err)
		}
	}
	p.End(x)
	if diff := cmp.Diff(string(x.Record.RequestBody), string(x.Record.ResponseBody)); diff != "" {
		t.Errorf("request and response differ: %s", diff)
	}
	if used, _ := s.o.Budget.Figures(); used != 0 {
		t.Errorf("%d bytes are still held", used)
	}
	return x.Record
}

func TestRedaction(t *testing.T) {
	const ctJSON = "Content-Type: application/json"
	key := "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"
	tests := []struct {
		name, in, want string
		redact         []string
		fields         []string
	}{
		{"nothing to redact", `{"a": [1, 2.5e3, true, null, "x"]}`, `{"a": [1, 2.5e3, true, null, "x"]}`, nil, []string{ctJSON}},
		{"a member", `{"user":"u","password":"p"}`, `{"user":"u","password":"[redacted]"}`, []string{"$.password"}, []string{ctJSON}},
		{"whatever its type", `{"password":{"a":[1]},"x":1}`, `{"password":"[redacted]","x":1}`, []string{"$.password"}, []string{ctJSON}},
		{"a number", `{"pin": 1234, "x":1}`, `{"pin": "[redacted]", "x":1}`, []string{"$.pin"}, []string{ctJSON}},
		{"another depth", `{"a":{"password":"p"}}`, `{"a":{"password":"p"}}`, []string{"$.password"}, []string{ctJSON}},
		{"any depth", `{"a":[{"password":"p"}],"password":"q"}`, `{"a":[{"password":"[redacted]"}],"password":"[redacted]"}`, []string{"$..password"}, []string{ctJSON}},
		{"below any depth", `{"a":{"b":{"c":1,"d":2}},"b":{"c":3}}`, `{"a":{"b":{"c":"[redacted]","d":2}},"b":{"c":"[redacted]"}}`, []string{"$..b.c"}, []string{ctJSON}},
		{"of a list", `{"list":[{"c":1,"d":2},{"c":3}]}`, `{"list":[{"c":"[redacted]","d":2},{"c":"[redacted]"}]}`, []string{"$.list[*].c"}, []string{ctJSON}},
		{"one element", `{"l":["a","b","c"]}`, `{"l":["a","[redacted]","c"]}`, []string{"$.l[1]"}, []string{ctJSON}},
		{"all members", `{"l":{"a":1,"b":2}}`, `{"l":{"a":"[redacted]","b":"[redacted]"}}`, []string{"$.l.*"}, []string{ctJSON}},
		{"everything", `{"l":1}`, `"[redacted]"`, []string{"$"}, []string{ctJSON}},
		{"case variants", `{"Password":"a","PASSWORD":"b","paſsword":"c"}`, `{"Password":"[redacted]","PASSWORD":"[redacted]","paſsword":"[redacted]"}`, []string{"$.password"}, []string{ctJSON}},
		{"duplicates", `{"password":"a","password":"b"}`, `{"password":"[redacted]","password":"[redacted]"}`, []string{"$.password"}, []string{ctJSON}},
		{"an escaped name", `{"pass\u0077ord":"a"}`, `{"pass\u0077ord":"[redacted]"}`, []string{"$.password"}, []string{ctJSON}},
		{"quotes in values", `{"a":"\"password\":\"x","password":"q\"q\\"}`, `{"a":"\"password\":\"x","password":"[redacted]"}`, []string{"$.password"}, []string{ctJSON}},
		{"a batch", `[{"params":{"token":"a"}},{"params":{"token":"b"}}]`, `[{"params":{"token":"[redacted]"}},{"params":{"token":"[redacted]"}}]`, []string{"$.params.token"}, []string{ctJSON}},
		{"of the list itself", `[{"c":1}]`, `[{"c":"[redacted]"}]`, []string{"$[*].c"}, []string{ctJSON}},
		{"NDJSON", "{\"k\":1}\n{\"k\":2}\n", "{\"k\":\"[redacted]\"}\n{\"k\":\"[redacted]\"}\n", []string{"$.k"}, []string{"Content-Type: application/x-ndjson"}},
		{"a byte order mark", "\ufeff{\"k\":1}", `{"k":"[redacted]"}`, []string{"$.k"}, []string{ctJSON}},
		{"JSON called something else", ` {"k":1}`, ` {"k":"[redacted]"}`, []string{"$.k"}, []string{"Content-Type: text/plain"}},
		{"JSON called a form", `{"password":"a=b"}`, `{"password":"[redacted]"}`, []string{"$.password"}, []string{"Content-Type: application/x-www-form-urlencoded"}},
		{"JSON called events", `{"password":"a"}`, `{"password":"[redacted]"}`, []string{"$.password"}, []string{"Content-Type: text/event-stream"}},
		{"JSON without a type", `[{"k":1}]`, `[{"k":"[redacted]"}]`, []string{"$.k"}, nil},
		{"not JSON", `{"a":1, password: "x", "b": 2}`, `{"a":1, …`, []string{"$.password"}, []string{ctJSON}},
		{"single quotes", `{'password':'x'}`, `{…`, []string{"$.password"}, []string{ctJSON}},
		{"a prefix", ")]}',\n{\"password\":1}", `…`, []string{"$.password"}, []string{ctJSON}},
		{"server-sent events", "event: message\ndata: {\"k\":1}\n\ndata: {\"k\":2,\ndata:  \"l\":3}\nid: 4\n\n: note\ndata: [DONE]\n\n",
			"event: message\ndata: {\"k\":\"[redacted]\"}\n\nid: 4\ndata: {\"k\":\"[redacted]\",\ndata:  \"l\":3}\n\n: note\ndata: [DONE]\n\n",
			[]string{"$.k"}, []string{"Content-Type: text/event-stream; charset=utf-8"}},
		{"events with other line ends", "data: {\"k\":1}\r\n\r\ndata: {\"k\":2}\r\r", "data: {\"k\":\"[redacted]\"}\n\ndata: {\"k\":\"[redacted]\"}\n\n",
			[]string{"$.k"}, []string{"Content-Type: text/event-stream"}},
		{"a form", "user=u&password=p&user%5Bpin%5D=1&x=;pin=2", "user=u&password=[redacted]&user%5Bpin%5D=[redacted]&x=;pin=[redacted]",
			[]string{"$.pin"}, []string{"Content-Type: application/x-www-form-urlencoded"}},
		{"a detector", `{"a":"` + key + `"}`, `{"a":"[redacted:stripe-key]"}`, nil, []string{ctJSON}},
		{"a detector in text", "key: " + key + "\n", "key: [redacted:stripe-key]\n", nil, []string{"Content-Type: text/plain"}},
		{"multipart", "--b\r\nContent-Disposition: form-data; name=\"k\"\r\n\r\nx\r\n--b--", "[multipart, in which log.redact finds nothing]",
			[]string{"$.k"}, []string{"Content-Type: multipart/form-data; boundary=b"}},
		{"binary", "\x89PNG\r\n\x1a\n\x00", "[binary, 9 bytes]", nil, []string{"Content-Type: image/png"}},
		{"binary that calls itself text", "a\x00b", "[binary, 3 bytes]", nil, []string{"Content-Type: text/plain"}},
		{"Latin-1", "caf\xe9", "caf\xe9", nil, []string{"Content-Type: text/plain; charset=iso-8859-1"}},
		{"empty", "", "", nil, nil},
		{"an unknown coding", "xyz", "[content coding that cannot be decoded]", nil, []string{"Content-Encoding: compress"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := exchanged(t, stage(t, 64<<10, tt.redact...), []byte(tt.in), false, tt.fields...)
			if diff := cmp.Diff(tt.want, string(r.ResponseBody)); diff != "" {
				t.Error(diff)
			}
			if want := strings.HasPrefix(tt.want, "[b") || strings.HasPrefix(tt.want, "[m") || strings.HasPrefix(tt.want, "[co") || strings.HasSuffix(tt.want, "…"); r.Truncated != want {
				t.Errorf("truncated is %v", r.Truncated)
			}
		})
	}
}

// encoded gives p in a coding.
func encoded(t testing.TB, coding string, p []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch coding {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "deflate":
		w = zlib.NewWriter(&b)
	case "br":
		w = brotli.NewWriter(&b)
	case "zstd":
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestCodings(t *testing.T) {
	s := stage(t, 4096, "$.password")
	small := `{"password":"hunter2","x":"` + strings.Repeat("é ", 100) + `"}`
	large := `{"x":"` + strings.Repeat("é ", 10000) + `","password":"hunter2"}`
	for _, coding := range []string{"gzip", "deflate", "br", "zstd"} {
		r := exchanged(t, s, encoded(t, coding, []byte(small)), false, "Content-Encoding: "+coding, "Content-Type: application/json")
		if want := strings.Replace(small, "hunter2", "[redacted]", 1); string(r.ResponseBody) != want || r.Truncated {
			t.Errorf("%s: %v %.200s", coding, r.Truncated, r.ResponseBody)
		}
		r = exchanged(t, s, encoded(t, coding, []byte(large)), false, "Content-Encoding: "+coding, "Content-Type: application/json")
		if len(r.ResponseBody) > 4096+len(cut) || len(r.ResponseBody) < 3900 || !r.Truncated {
			t.Errorf("%s: %d bytes, truncated %v", coding, len(r.ResponseBody), r.Truncated)
		}
		// A bomb is no more than what is wanted of it.
		r = exchanged(t, s, encoded(t, coding, make([]byte, 10<<20)), false, "Content-Encoding: "+coding)
		if string(r.ResponseBody) != "[binary, 4096 bytes]" {
			t.Errorf("%s: %.100s", coding, r.ResponseBody)
		}
		whole := encoded(t, coding, []byte(large))
		for n := range whole {
			r := exchanged(t, s, whole[:n], true, "Content-Encoding: "+coding, "Content-Type: application/json")
			if strings.Contains(string(r.ResponseBody), "hunter2") || n > 0 && !r.Truncated {
				t.Fatalf("%s cut at %d: %v %s", coding, n, r.Truncated, r.ResponseBody)
			}
		}
	}
	r := exchanged(t, s, []byte("not gzip"), false, "Content-Encoding: gzip")
	if len(r.ResponseBody) > len(cut) || !r.Truncated {
		t.Errorf("%q", r.ResponseBody)
	}
	twice := encoded(t, "br", encoded(t, "gzip", []byte(small)))
	r = exchanged(t, s, twice, false, "Content-Encoding: gzip", "Content-Encoding: br", "Content-Type: application/json")
	if !strings.Contains(string(r.ResponseBody), "[redacted]") || r.Truncated {
		t.Errorf("twice: %s", r.ResponseBody)
	}
}

func TestFields(t *testing.T) {
	s := stage(t, 100, "header:X-Custom")
	r := exchanged(t, s, []byte("x"), false, "Accept: */*", "Authorization: Bearer hunter2", "x-custom: hunter2", "X-Api-Key: hunter2",
		"Set-Cookie: a=hunter2", "X-Note: key sk_live_4eC39HqLyjWDarjtT1zdp7dc.")
	for _, list := range [][]exchange.Field{r.RequestHeaders, r.ResponseHeaders} {
		var got []string
		for _, f := range list {
			got = append(got, f.Name+": "+f.Value)
		}
		want := []string{"Accept: */*", "Authorization: [redacted]", "x-custom: [redacted]", "X-Api-Key: [redacted]", "Set-Cookie: [redacted]", "X-Note: key [redacted:stripe-key]."}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestURL(t *testing.T) {
	s := stage(t, 100)
	for _, tt := range []struct{ path, query, wantPath, wantQuery string }{
		{"/a", "b=c", "", ""},
		{"/keys/sk_live_4eC39HqLyjWDarjtT1zdp7dc", "", "/keys/[redacted:stripe-key]", ""},
		{"/", "q=sk_live_4eC39HqLyjWDarjtT1zdp7dc&r", "", "q=[redacted:stripe-key]&r"},
		{"/", "q=sk%5Flive_%34eC39HqLyjWDarjtT1zdp7dc&r", "", "q=[redacted:stripe-key]&r"},
	} {
		x := new(exchange.Exchange)
		x.Request.Path, x.Request.Query = tt.path, tt.query
		s.Redact(x) // also where the request never came here
		if x.Record.Path != tt.wantPath || x.Record.Query != tt.wantQuery || x.Request.Path != tt.path {
			t.Errorf("%q %q", x.Record.Path, x.Record.Query)
		}
	}
}

// Who asks for another protocol is recorded all the same; one that is not HTTP is
// not.
func TestUpgrade(t *testing.T) {
	s := stage(t, 100)
	for method, want := range map[string]string{"POST": "x", "CONNECT": ""} {
		x := new(exchange.Exchange)
		x.Request.Method, x.Request.Upgrade, x.Response.Status = method, "websocket", 200
		x.Request.Body, x.Response.Body = exchange.NewBytes([]byte("x")), exchange.NewBytes([]byte("x"))
		p := exchange.NewPipeline(s)
		p.Request(t.Context(), x)
		p.Response(t.Context(), x)
		p.Deliver(x)
		exchange.ReadAll(x.Request.Body, 10)
		exchange.ReadAll(x.Response.Body, 10)
		p.End(x)
		if string(x.Record.RequestBody) != want || string(x.Record.ResponseBody) != want {
			t.Errorf("%s: %q %q", method, x.Record.RequestBody, x.Record.ResponseBody)
		}
	}
}

func TestOnlyWhatIsAskedFor(t *testing.T) {
	s := stage(t, 100)
	s.request = false
	x := new(exchange.Exchange)
	x.Request.Body, x.Response.Body = exchange.NewBytes([]byte("x")), exchange.NewBytes([]byte("y"))
	p := exchange.NewPipeline(s)
	p.Request(t.Context(), x)
	p.Response(t.Context(), x)
	p.Deliver(x)
	exchange.ReadAll(x.Request.Body, 10)
	exchange.ReadAll(x.Response.Body, 10)
	p.End(x)
	if x.Record.RequestBody != nil || string(x.Record.ResponseBody) != "y" {
		t.Errorf("%q %q", x.Record.RequestBody, x.Record.ResponseBody)
	}
}

func TestBudget(t *testing.T) {
	s := stage(t, 1000)
	s.o.Budget = NewBudget(3000)
	var all []*exchange.Exchange
	p := exchange.NewPipeline(s)
	for range 3 {
		x := new(exchange.Exchange)
		x.Request.Body = exchange.NewBytes(bytes.Repeat([]byte("word "), 200))
		p.Request(t.Context(), x)
		exchange.ReadAll(x.Request.Body, 2000)
		all = append(all, x)
	}
	// One workload leaves half to others.
	x := new(exchange.Exchange)
	x.Subject.Workload = "other"
	x.Request.Body = exchange.NewBytes(bytes.Repeat([]byte("word "), 200))
	p.Request(t.Context(), x)
	exchange.ReadAll(x.Request.Body, 2000)
	if p.End(x); x.Record.Truncated || len(x.Record.RequestBody) != 1000 {
		t.Errorf("another workload: %d bytes", len(x.Record.RequestBody))
	}
	for i, x := range all {
		p.End(x)
		if x.Record.Truncated != (i > 0) {
			t.Errorf("%d: truncated %v", i, x.Record.Truncated)
		}
	}
	if used, _ := s.o.Budget.Figures(); used != 0 {
		t.Errorf("%d bytes are still held", used)
	}
}

// Every point at which a body can end: nothing of a redacted value shows, and
// no half of a secret.
func TestEveryCut(t *testing.T) {
	const secret = "hunter2hunter3hunter4"
	token := "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"
	texts := []struct{ contentType, body string }{
		{"application/json", `{"a":"b","password":"` + secret + `","n":{"l":[{"password":["` + secret + `"]}]},"t":"` + token + `","z":"` + strings.Repeat("word ", 30) + `"}`},
		{"text/event-stream", "data: {\"password\":\"" + secret + "\",\ndata: \"b\":1}\n\ndata: {\"x\":\"" + token + "\"}\n\n" + strings.Repeat(": more\n", 20)},
		{"application/x-ndjson", "{\"password\":\"" + secret + "\"}\n{\"password\":\"" + secret + "\"}\n" + strings.Repeat("{}\n", 40)},
		{"application/x-www-form-urlencoded", "a=b&password=" + secret + "&t=" + token + strings.Repeat("&a=b", 40)},
		{"text/plain", "the key is " + token + " and the card is 4111 1111 1111 1111, so" + strings.Repeat(" word", 30)},
	}
	for _, tt := range texts {
		for n := range len(tt.body) {
			bounded := exchanged(t, stage(t, n+1, "$..password"), []byte(tt.body), false, "Content-Type: "+tt.contentType)
			cutOff := exchanged(t, stage(t, 4096, "$..password"), []byte(tt.body[:n]), true, "Content-Type: "+tt.contentType)
			for _, r := range []exchange.Record{bounded, cutOff} {
				for _, s := range []string{secret[:4], token[:8], "4111"} {
					if strings.Contains(string(r.RequestBody), s) {
						t.Fatalf("%s of %d bytes: %q", tt.contentType, n, r.RequestBody)
					}
				}
			}
		}
	}
}

// FuzzRedaction: whatever surrounds it and wherever the text ends, a redacted
// value does not show.
func FuzzRedaction(f *testing.F) {
	f.Add(`{"a":[`, `]}`, "x", 1000, uint8(0))
	f.Add(`{"a":"\\`, `"`, "\"}", 30, uint8(1))
	f.Add(`[{"b":null},`, `]`, "", 12, uint8(2))
	f.Add("", "", `{"password":`, 40, uint8(3))
	const secret = "S3CR3TV4LU3"
	s := stage(f, 1<<16, "$..password")
	f.Fuzz(func(t *testing.T, before, after, name string, end int, how uint8) {
		if strings.Contains(before+after+name, "S3C") {
			return
		}
		// A valid object, with a value at the path among strange neighbours.
		neighbour, err := json.Marshal(before)
		if err != nil {
			return
		}
		key := [...]string{`password`, `Password`, `PASSWORD`, `pass\u0077ord`}[how%4]
		var other any
		rest := []byte("null")
		if json.Unmarshal([]byte(after), &other) == nil {
			rest = []byte(after)
		}
		if bytes.ContainsAny(rest, "\r\n") {
			rest = []byte("0")
		}
		value := `"` + secret + `"`
		if how&4 != 0 {
			value = `{"deep":["` + secret + `",` + string(rest) + `]}`
		}
		body := fmt.Sprintf(`{%s:%s,"%s":%s,"x":%s,"%s":%s}`, neighbour, rest, key, value, rest, key, value)
		contentType := "application/json"
		switch how >> 4 & 3 {
		case 1:
			body, contentType = "data: "+body+"\n\ndata: "+body+"\n\n", "text/event-stream"
		case 2:
			body, contentType = body+"\n"+body, "application/x-ndjson"
		case 3:
			body = "[" + body + "," + body + "]"
		}
		if end < 0 || end > len(body) {
			end = len(body)
		}
		r := exchanged(t, s, []byte(body[:end]), end < len(body), "Content-Type: "+contentType)
		if strings.Contains(string(r.RequestBody), "S3C") {
			t.Errorf("%q becomes %q", body[:end], r.RequestBody)
		}
		// And text of any kind does no harm.
		exchanged(t, s, []byte(before+after), how&8 != 0, "Content-Type: "+name)
	})
}

func TestUTF16IsNotText(t *testing.T) {
	var b []byte
	for _, c := range utf16.Encode([]rune(`{"password":"hunter2"}`)) {
		b = append(b, byte(c), byte(c>>8))
	}
	r := exchanged(t, stage(t, 1000, "$.password"), b, false, "Content-Type: application/json; charset=utf-16")
	if !strings.HasPrefix(string(r.ResponseBody), "[binary") {
		t.Errorf("%q", r.ResponseBody)
	}
}

func TestDeepJSON(t *testing.T) {
	deep := strings.Repeat("[", 100000)
	r := exchanged(t, stage(t, 1<<19, "$..password"), []byte(deep+`{"password":"hunter2"}`), false, "Content-Type: application/json")
	if strings.Contains(string(r.ResponseBody), "hunter2") || !r.Truncated {
		t.Errorf("%d bytes, truncated %v", len(r.ResponseBody), r.Truncated)
	}
}

func BenchmarkJSON(b *testing.B) {
	body := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"query":"` + strings.Repeat("word ", 400) + `","token":"x"}}}`)
	s := stage(b, 64<<10, "$..token", "$.params.password")
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		s.redact("application/json", body, false)
	}
}

func BenchmarkExchange(b *testing.B) {
	body := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"token":"x"}}`)
	s := stage(b, 64<<10, "$..token")
	p := exchange.NewPipeline(s)
	x := new(exchange.Exchange)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		x.Reset()
		x.Request.Body, x.Response.Body = exchange.NewBytes(body), exchange.NewBytes(body)
		p.Request(ctx, x)
		x.Request.Body.Buffered()
		p.Response(ctx, x)
		x.Response.Body.Buffered()
		p.Deliver(x)
		p.End(x)
	}
}
