package headers

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
)

// fields reads "Name: value" as the configuration and a message have it.
func fields(lines ...string) (list []config.HeaderField) {
	for _, l := range lines {
		n, v, _ := strings.Cut(l, ": ")
		list = append(list, config.HeaderField{Name: n, Value: v})
	}
	return list
}

func fill(h *exchange.Header, lines []string) {
	for _, f := range fields(lines...) {
		h.Add(f.Name, f.Value)
	}
}

func lines(h *exchange.Header) (list []string) {
	for n, v := range h.All() {
		list = append(list, n+": "+v)
	}
	return list
}

func an(observe bool) *exchange.Exchange {
	x := new(exchange.Exchange)
	x.Subject = exchange.Subject{
		Workload: "github", Rule: "r", Scheme: "https", Host: "api.example.com", Port: 8443,
		Client: netip.MustParseAddr("::ffff:127.0.0.1"), Method: "GET", Observe: observe,
	}
	x.Request.Path, x.Request.Query = "/a/b", "c=d"
	return x
}

func TestChanges(t *testing.T) {
	tests := []struct {
		name    string
		changes config.HeaderChanges
		in      []string
		want    []string
	}{
		{"nothing", config.HeaderChanges{}, []string{"A: 1"}, []string{"A: 1"}},
		{"set a new one", config.HeaderChanges{Set: fields("X-A: 1")}, []string{"B: 2"}, []string{"B: 2", "X-A: 1"}},
		{"set in its place, whatever the case", config.HeaderChanges{Set: fields("X-A: 1")},
			[]string{"x-a: 0", "B: 2"}, []string{"X-A: 1", "B: 2"}},
		{"set takes the place of all", config.HeaderChanges{Set: fields("X-A: 1")},
			[]string{"B: 2", "X-A: 0", "C: 3", "x-a: 9", "X-A: 8"}, []string{"B: 2", "X-A: 1", "C: 3"}},
		{"set to nothing", config.HeaderChanges{Set: fields("X-A: ")}, []string{"X-A: 0"}, []string{"X-A: "}},
		{"add beside", config.HeaderChanges{Add: fields("X-A: 1", "X-A: 2")}, []string{"X-A: 0"}, []string{"X-A: 0", "X-A: 1", "X-A: 2"}},
		{"remove all", config.HeaderChanges{Remove: []string{"X-A", "Gone"}}, []string{"x-A: 0", "B: 1", "X-a: 2"}, []string{"B: 1"}},
		{"remove, set, add", config.HeaderChanges{Remove: []string{"X-A"}, Set: fields("X-A: 1"), Add: fields("X-A: 2")},
			[]string{"X-A: 0"}, []string{"X-A: 1", "X-A: 2"}},
		{"fields with a meaning", config.HeaderChanges{Set: fields("User-Agent: x"), Remove: []string{"Cookie"}},
			[]string{"user-agent: curl", "cookie: a=b"}, []string{"User-Agent: x"}},
		{"variables", config.HeaderChanges{Set: fields(
			"X-Real-Ip: {client_ip}", "X-All: <{workload}|{rule}|{scheme}|{host}|{port}|{method}|{path}|{query}>",
			"X-Port: {port}", "X-Workload: {workload}",
		)}, nil, []string{
			"X-Real-Ip: 127.0.0.1", "X-All: <github|r|https|api.example.com|8443|GET|/a/b|c=d>", "X-Port: 8443", "X-Workload: github",
		}},
		{"no variables", config.HeaderChanges{Set: fields("X-A: {x} {Workload} { workload } {} { {{workload}}")}, nil,
			[]string{"X-A: {x} {Workload} { workload } {} { {github}"}},
		{"forwarded for", config.HeaderChanges{Set: fields("X-Forwarded-For: {forwarded_for}")}, nil, []string{"X-Forwarded-For: 127.0.0.1"}},
		{"forwarded for goes on", config.HeaderChanges{Set: fields("X-Forwarded-For: {forwarded_for}")},
			[]string{"X-Forwarded-For: 10.0.0.1, 10.0.0.2", "x-forwarded-for: 10.0.0.3"},
			[]string{"X-Forwarded-For: 10.0.0.1, 10.0.0.2, 10.0.0.3, 127.0.0.1"}},
		{"values are those before a removal", config.HeaderChanges{Remove: []string{"X-Forwarded-For"}, Set: fields("X-Chain: {forwarded_for}")},
			[]string{"X-Forwarded-For: 10.0.0.1"}, []string{"X-Chain: 10.0.0.1, 127.0.0.1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := New(&config.Headers{Request: tt.changes, Response: tt.changes})
			if err != nil {
				t.Fatal(err)
			}
			for _, observe := range []bool{false, true} {
				want := tt.want
				if observe {
					want = tt.in
				}
				x := an(observe)
				fill(&x.Request.Header, tt.in)
				x.Request.Trailer.Add("X-A", "trailer")
				before := lines(&x.Request.Trailer)
				// What a response's variables say is about the request.
				fill(&x.Response.Header, tt.in)
				if r := s.Response(t.Context(), x); r != nil {
					t.Fatal(r)
				}
				if diff := cmp.Diff(want, lines(&x.Response.Header)); diff != "" {
					t.Errorf("observe %v: response: %s", observe, diff)
				}
				if r := s.Request(t.Context(), x); r != nil {
					t.Fatal(r)
				}
				if diff := cmp.Diff(want, lines(&x.Request.Header)); diff != "" {
					t.Errorf("observe %v: request: %s", observe, diff)
				}
				if diff := cmp.Diff(before, lines(&x.Request.Trailer)); diff != "" {
					t.Errorf("trailer: %s", diff)
				}
			}
		})
	}
}

// A name that a workload gave itself must not become a line of its own.
func TestValuesThatNoFieldCanHave(t *testing.T) {
	bad := []string{"a\r\nEvil: 1", "a\nb", "a\x00b", "\x7f", " a", "a\t"}
	changes := config.HeaderChanges{Set: fields("X-Workload: {workload}"), Remove: []string{"Kept"}}
	for _, c := range []config.Headers{{Request: changes}, {Response: changes}} {
		s, err := New(&c)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range bad {
			x := an(false)
			x.Subject.Workload = name
			x.Request.Header.Add("Kept", "1")
			r := s.Request(t.Context(), x)
			if r == nil || r.Reason != policy.MalformedRequest {
				t.Errorf("%q: %v", name, r)
			}
			if !x.Request.Header.Has("Kept") {
				t.Errorf("%q: half of the changes were made", name)
			}
		}
	}
}

func TestMistakes(t *testing.T) {
	tests := []struct {
		name    string
		changes config.HeaderChanges
	}{
		{"Host", config.HeaderChanges{Set: fields("Host: x")}},
		{"framing", config.HeaderChanges{Remove: []string{"content-length"}}},
		{"hop by hop", config.HeaderChanges{Add: fields("Connection: close")}},
		{"around the gate", config.HeaderChanges{Add: fields("Alt-Svc: h3=\":443\"")}},
		{"no name", config.HeaderChanges{Set: fields(": x")}},
		{"a name that is none", config.HeaderChanges{Set: fields("X A: x")}},
		{"a name with a line", config.HeaderChanges{Remove: []string{"X\r\nY"}}},
		{"a value with a line", config.HeaderChanges{Set: []config.HeaderField{{Name: "X", Value: "a\r\nb"}}}},
		{"a value with white space", config.HeaderChanges{Set: []config.HeaderField{{Name: "X", Value: "a "}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, c := range []config.Headers{{Request: tt.changes}, {Response: tt.changes}} {
				if _, err := New(&c); err == nil {
					t.Error("it is taken")
				}
			}
		})
	}
}

func BenchmarkHeaders(b *testing.B) {
	s, err := New(&config.Headers{
		Request:  config.HeaderChanges{Set: fields("X-Real-Ip: {client_ip}", "X-Team: payments"), Add: fields("Via-Rule: {rule}"), Remove: []string{"User-Agent"}},
		Response: config.HeaderChanges{Set: fields("Cache-Control: no-store"), Remove: []string{"Server"}},
	})
	if err != nil {
		b.Fatal(err)
	}
	x := an(false)
	names := []string{"Accept", "Accept-Encoding", "Accept-Language", "User-Agent", "Traceparent", "Content-Type", "X-Request-Id"}
	b.ReportAllocs()
	for b.Loop() {
		x.Request.Header.Reset()
		x.Response.Header.Reset()
		for _, n := range names {
			f := exchange.Field{Name: n, Value: "value", ID: exchange.LookupName(n), Checked: true}
			x.Request.Header.Append(f)
			x.Response.Header.Append(f)
		}
		if s.Request(b.Context(), x) != nil || s.Response(b.Context(), x) != nil {
			b.Fatal("refused")
		}
	}
}

// BenchmarkNothing is what BenchmarkHeaders does besides.
func BenchmarkNothing(b *testing.B) {
	x := an(false)
	names := []string{"Accept", "Accept-Encoding", "Accept-Language", "User-Agent", "Traceparent", "Content-Type", "X-Request-Id"}
	for b.Loop() {
		x.Request.Header.Reset()
		x.Response.Header.Reset()
		for _, n := range names {
			f := exchange.Field{Name: n, Value: "value", ID: exchange.LookupName(n), Checked: true}
			x.Request.Header.Append(f)
			x.Response.Header.Append(f)
		}
	}
}

// TestVariablesAreKnown: `config check` knows the same variables.
func TestVariablesAreKnown(t *testing.T) {
	if diff := cmp.Diff(variableNames[workload:], config.HeaderVariables); diff != "" {
		t.Error(diff)
	}
}
