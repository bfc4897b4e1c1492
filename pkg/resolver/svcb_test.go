package resolver

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"
)

type params []dnsmessage.SVCParam

func TestStripService(t *testing.T) {
	const (
		mandatory = dnsmessage.SVCParamMandatory
		alpn      = dnsmessage.SVCParamALPN
		noDefault = dnsmessage.SVCParamNoDefaultALPN
		port      = dnsmessage.SVCParamPort
		v4        = dnsmessage.SVCParamIPv4Hint
		ech       = dnsmessage.SVCParamECH
		v6        = dnsmessage.SVCParamIPv6Hint
	)
	p := func(key dnsmessage.SVCParamKey, value string) dnsmessage.SVCParam {
		return dnsmessage.SVCParam{Key: key, Value: []byte(value)}
	}
	tests := map[string]struct {
		priority uint16
		in, want params
		changed  bool
		dropped  bool
	}{
		"plain":                 {1, params{p(alpn, "\x02h2"), p(port, "\x01\xbb")}, params{p(alpn, "\x02h2"), p(port, "\x01\xbb")}, false, false},
		"ech":                   {1, params{p(alpn, "\x02h2"), p(ech, "config")}, params{p(alpn, "\x02h2")}, true, false},
		"hints":                 {1, params{p(v4, "\xcb\x00\x71\x01"), p(v6, "0123456789abcdef")}, params{}, true, false},
		"h3 among others":       {1, params{p(alpn, "\x02h3\x02h2\x05h3-29\x08http/1.1")}, params{p(alpn, "\x02h2\x08http/1.1")}, true, false},
		"h3 alone":              {1, params{p(alpn, "\x02h3")}, params{}, true, false},
		"h3 and no default":     {1, params{p(alpn, "\x02h3"), p(noDefault, "")}, nil, true, true},
		"h3 alone, mandatory":   {1, params{p(mandatory, "\x00\x01"), p(alpn, "\x02h3")}, nil, true, true},
		"not h3":                {1, params{p(alpn, "\x03h30\x03xh3")}, params{p(alpn, "\x03h30\x03xh3")}, false, false},
		"mandatory ech":         {1, params{p(mandatory, "\x00\x05"), p(ech, "config")}, nil, true, true},
		"mandatory hint":        {1, params{p(mandatory, "\x00\x01\x00\x04"), p(alpn, "\x02h2"), p(v4, "\xcb\x00\x71\x01")}, params{p(mandatory, "\x00\x01"), p(alpn, "\x02h2")}, true, false},
		"mandatory only hint":   {1, params{p(mandatory, "\x00\x04"), p(v4, "\xcb\x00\x71\x01")}, params{}, true, false},
		"malformed mandatory":   {1, params{p(mandatory, "\x00")}, nil, true, true},
		"malformed alpn":        {1, params{p(alpn, "\x09h2")}, nil, true, true},
		"empty alpn id":         {1, params{p(alpn, "\x00")}, nil, true, true},
		"alias with parameters": {0, params{p(ech, "config")}, params{}, true, false},
		"alias":                 {0, params{}, params{}, false, false},
	}
	for label, tt := range tests {
		t.Run(label, func(t *testing.T) {
			r := &dnsmessage.SVCBResource{Priority: tt.priority, Target: name("."), Params: append(params{}, tt.in...)}
			changed, keep := stripService(r)
			if keep == tt.dropped || changed != tt.changed {
				t.Fatalf("changed %v, keep %v", changed, keep)
			}
			if keep {
				if diff := cmp.Diff(tt.want, append(params{}, r.Params...)); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestHTTPSRecordsReachTheClientWithoutECH(t *testing.T) {
	record := func(typ dnsmessage.Type) dnsmessage.Resource {
		body := dnsmessage.SVCBResource{Priority: 1, Target: name("."), Params: params{
			{Key: dnsmessage.SVCParamALPN, Value: []byte("\x02h3\x02h2")}, {Key: dnsmessage.SVCParamECH, Value: []byte("config")}}}
		r := dnsmessage.Resource{Header: header("a.example.com.", typ, 60), Body: &body}
		if typ == dnsmessage.TypeHTTPS {
			r.Body = &dnsmessage.HTTPSResource{SVCBResource: body}
		}
		return r
	}
	u := newUpstream(t, func(q dnsmessage.Message, tcp bool) []dnsmessage.Message {
		m := respond(q, record(q.Questions[0].Type))
		m.AuthenticData = true
		return []dnsmessage.Message{m}
	})
	r := newResolver(t, &fakes{}, Limits{}, u.addr)
	for _, typ := range []dnsmessage.Type{dnsmessage.TypeSVCB, dnsmessage.TypeHTTPS} {
		m := ask(t, r, "a.example.com.", typ)
		if len(m.Answers) != 1 || m.AuthenticData {
			t.Fatalf("%s", m.GoString())
		}
		var body dnsmessage.SVCBResource
		switch b := m.Answers[0].Body.(type) {
		case *dnsmessage.SVCBResource:
			body = *b
		case *dnsmessage.HTTPSResource:
			body = b.SVCBResource
		}
		want := params{{Key: dnsmessage.SVCParamALPN, Value: []byte("\x02h2")}}
		if diff := cmp.Diff(want, params(body.Params)); diff != "" {
			t.Errorf("%s: %s", typ, diff)
		}
	}
}
