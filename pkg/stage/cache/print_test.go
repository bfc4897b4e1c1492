package cache

import (
	"testing"

	"sallyport/pkg/config"
)

// What shapes a rule's answers changes its print, what does not leaves it.
func TestPrint(t *testing.T) {
	printOf := func(extra, stages string) Print {
		t.Helper()
		c, err := config.Parse([]config.File{{Name: "f", Data: []byte("version: 1\n" + extra +
			"rules: [ { name: r, match: { hosts: [a.example] }, action: allow, " + stages + " } ]\n")}})
		if err != nil {
			t.Fatal(err)
		}
		return PrintOf(c, &c.Rules[0])
	}
	const up = "upstreams: { u: { targets: [ { target: \"t.example:443\" } ] } }\n"
	plain := printOf("", "cache: {}")
	for _, same := range [][2]string{
		{"", "cache: {}"}, {"", "cache: { ttl: 300s }"}, {"x-note: 1\n", "cache: {}"}, {"cache: { max_bytes: 1MB }\n", "cache: {}"},
		{"", "cache: {}, log: { response_body: true }"}, {"", "cache: {}, rate_limit: { minute: 5 }"}, {"", "cache: {}, retry: { attempts: 3 }"},
		{"", "cache: {}, throttle: { rate: 1r/s }"}, {up, "cache: {}"},
	} {
		if printOf(same[0], same[1]) != plain {
			t.Errorf("%q is another print", same)
		}
	}
	seen := map[Print]string{plain: "cache: {}"}
	for _, other := range [][2]string{
		{"", "cache: { ttl: 1s }"}, {"", "cache: { force: true }"}, {"", "cache: { statuses: [200] }"},
		{"", "cache: {}, secrets: redact"}, {"", "cache: {}, headers: { request: { set: { X-A: b } } }"}, {"", "cache: {}, headers: { request: { set: { X-A: c } } }"},
		{"", "cache: {}, content_filter: [ { name: a, pattern: b, in: response, action: redact } ]"},
		{"", "cache: {}, size_limit: { response: 1MB }"}, {up, "cache: {}, upstream: u"},
		{"upstreams: { u: { targets: [ { target: \"o.example:443\" } ] } }\n", "cache: {}, upstream: u"},
		{"tls: { upstream_ca_files: [/x.pem] }\n", "cache: {}"}, {"upstream_proxy: { url: \"http://p.example:3128\" }\n", "cache: {}"},
	} {
		p := printOf(other[0], other[1])
		if was, ok := seen[p]; ok {
			t.Errorf("%q has the print of %q", other, was)
		}
		seen[p] = other[1]
	}
}
