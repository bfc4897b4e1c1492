package auth

import (
	"strings"
	"testing"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
)

func stage(t testing.TB, header, secret string) *Stage {
	t.Helper()
	s, err := New(&config.Auth{Header: header, SecretFile: "/etc/key"}, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRequest(t *testing.T) {
	tests := []struct {
		name, header string
		fields       []string
		want         policy.Reason
	}{
		{"right", "X-Api-Key", []string{"X-Api-Key: s3cret"}, policy.NoReason},
		{"another case of the name", "X-Api-Key", []string{"x-api-key: s3cret"}, policy.NoReason},
		{"absent", "X-Api-Key", []string{"Accept: */*"}, policy.AuthRequired},
		{"empty", "X-Api-Key", []string{"X-Api-Key: "}, policy.AuthDenied},
		{"wrong", "X-Api-Key", []string{"X-Api-Key: s3creT"}, policy.AuthDenied},
		{"the beginning", "X-Api-Key", []string{"X-Api-Key: s3cre"}, policy.AuthDenied},
		{"longer", "X-Api-Key", []string{"X-Api-Key: s3crets"}, policy.AuthDenied},
		{"twice its length", "X-Api-Key", []string{"X-Api-Key: s3crets3cret"}, policy.AuthDenied},
		{"repeated, both right", "X-Api-Key", []string{"X-Api-Key: s3cret", "X-Api-Key: s3cret"}, policy.AuthDenied},
		{"repeated, the last right", "X-Api-Key", []string{"X-Api-Key: x", "x-api-key: s3cret"}, policy.AuthDenied},
		{"a list", "X-Api-Key", []string{"X-Api-Key: x, s3cret"}, policy.AuthDenied},
		{"another field", "X-Api-Key", []string{"X-Api-Key2: s3cret"}, policy.AuthRequired},
		{"a field with a meaning", "Authorization", []string{"Authorization: s3cret"}, policy.NoReason},
		{"observed", "X-Api-Key", nil, policy.AuthRequired},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := stage(t, tt.header, "s3cret\n")
			x := new(exchange.Exchange)
			x.Subject.Rule, x.Subject.Observe = "r", strings.Contains(tt.name, "observe")
			for _, f := range tt.fields {
				name, value, _ := strings.Cut(f, ": ")
				x.Request.Header.Add(name, value)
			}
			x.Request.Header.Add("Kept", "yes")
			got := policy.NoReason
			// As the pipeline does.
			r := x.Object(s.Request(t.Context(), x))
			if r != nil {
				got = r.Reason
				if strings.Contains(r.Message, "s3cre") {
					t.Errorf("the refusal tells a value: %s", r.Message)
				}
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			if x.Request.Header.Has(tt.header) || !x.Request.Header.Has("Kept") {
				t.Error("the field is still there, or another one is not")
			}
			if got == policy.AuthRequired {
				var resp exchange.Response
				r.Answer(&x.Request, &resp)
				if resp.Status != 401 || resp.Header.Get("WWW-Authenticate") != `Key realm="sallyport"` {
					t.Errorf("%d %q", resp.Status, resp.Header.Get("WWW-Authenticate"))
				}
			}
		})
	}
}

func TestChallengeHasTheSchemeOfTheSecret(t *testing.T) {
	s := stage(t, "Authorization", "Bearer abc")
	if s.challenge.Value != `Bearer realm="sallyport"` {
		t.Error(s.challenge.Value)
	}
}

func TestUnusableSecrets(t *testing.T) {
	for _, file := range []string{"", "\n", " \t", "a\nb", "a\x00b", "a\x7f"} {
		if _, err := New(&config.Auth{Header: "X-Api-Key"}, []byte(file)); err == nil {
			t.Errorf("%q is taken", file)
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	s := stage(b, "X-Api-Key", strings.Repeat("k", 40))
	x := new(exchange.Exchange)
	b.ReportAllocs()
	for b.Loop() {
		x.Request.Header.Reset()
		x.Request.Header.Append(exchange.Field{Name: "Accept", Value: "*/*", ID: exchange.Accept})
		x.Request.Header.Append(exchange.Field{Name: "X-Api-Key", Value: s.secret})
		if s.Request(b.Context(), x) != nil {
			b.Fatal("refused")
		}
	}
}
