package exchange

import (
	"testing"
	"time"

	"sallyport/pkg/policy"
)

func TestRefusalGRPC(t *testing.T) {
	for _, tt := range []struct {
		contentType string
		version     Version
		method      string
		want        bool
	}{
		{"application/grpc", HTTP2, "POST", true},
		{"Application/gRPC+proto", HTTP2, "POST", true},
		{"application/grpc;charset=x", HTTP2, "POST", true},
		{"application/grpc-web", HTTP2, "POST", false},
		{"application/grpcx", HTTP2, "POST", false},
		{"application/grp", HTTP2, "POST", false},
		{"application/json", HTTP2, "POST", false},
		{"application/grpc", HTTP11, "POST", false},
		{"application/grpc", HTTP2, "GET", false},
		{"", HTTP2, "POST", false},
	} {
		req := Request{Version: tt.version, Method: tt.method, Length: UnknownLength}
		if tt.contentType != "" {
			req.Header.Add("content-type", tt.contentType)
		}
		var resp Response
		r := &Refusal{Reason: policy.NoRule, Message: "100% \u00e9\n", RetryAfter: time.Second}
		r.Answer(&req, &resp)
		if got := resp.Header.Get("grpc-status"); (got != "") != tt.want {
			t.Errorf("%+v: grpc-status %q", tt, got)
		}
		if !tt.want {
			continue
		}
		if resp.Status != 200 || resp.Body != nil || resp.Length != NoBody || !resp.Local {
			t.Errorf("%+v", resp)
		}
		for name, want := range map[string]string{
			"grpc-status": "7", "grpc-message": "100%25 %C3%A9%0A", "content-type": "application/grpc",
			ReasonField: "no_rule", "Retry-After": "1",
		} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if resp.Header.Has("Content-Length") {
			t.Error("a response of trailers only has a length")
		}
	}
}

func TestGRPCStatus(t *testing.T) {
	for code, want := range map[int]int{400: 3, 401: 16, 403: 7, 413: 8, 429: 8, 500: 14, 501: 14, 502: 14, 503: 14, 504: 14} {
		if got := grpcStatus(code); got != want {
			t.Errorf("%d: %d, want %d", code, got, want)
		}
	}
}
