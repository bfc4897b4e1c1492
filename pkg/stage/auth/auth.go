// Package auth asks the callers inside a workload to identify themselves: a
// request must carry a field with a secret, which is taken off before the
// request goes on.
package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
)

// A Stage demands one field. It is in force in observe mode too: who asks has
// to be known before anything can be decided in its name, and the secret must
// not reach an upstream.
type Stage struct {
	header    string
	id        exchange.NameID
	secret    string
	challenge exchange.Field
}

var _ exchange.RequestStage = (*Stage)(nil)

// New makes the stage of a rule; file is what auth.secret_file holds: the value
// of the field in one line, white space around it left out.
func New(c *config.Auth, file []byte) (*Stage, error) {
	secret := string(bytes.TrimSpace(file))
	switch {
	case config.OwnField(c.Header):
		return nil, fmt.Errorf("auth.header: %s belongs to the connection and never reaches a rule", c.Header)
	case secret == "":
		return nil, fmt.Errorf("auth.secret_file %s is empty: an empty secret would be known to everybody", c.SecretFile)
	case strings.ContainsFunc(secret, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return nil, errors.New("auth.secret_file " + c.SecretFile + " holds more than one line, or a control character: no field can have this value")
	}
	s := &Stage{header: c.Header, id: exchange.LookupName(c.Header), secret: secret}
	// RFC 9110 section 11.6.1 demands a challenge with 401. No scheme is
	// registered for a key in a field of its own; "Key" is the one of Kong's
	// key-auth. Clients pass over schemes that they do not know.
	scheme := "Key"
	if s.id == exchange.Authorization {
		if word, _, credentials := strings.Cut(secret, " "); credentials {
			scheme = word
		}
	}
	s.challenge = exchange.Field{Name: "WWW-Authenticate", Value: scheme + ` realm="sallyport"`}
	return s, nil
}

// Name implements exchange.Stage.
func (s *Stage) Name() string { return "auth" }

// Request implements exchange.RequestStage: auth_required without the field,
// auth_denied where it is wrong or repeated. A repeated one is refused although
// one of its values may be right: which of them counts is a matter of opinion.
func (s *Stage) Request(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
	header := &x.Request.Header
	n, good := 0, false
	for i := range header.Len() {
		f := header.At(i)
		if f.ID == s.id && exchange.EqualFold(f.Name, s.header) {
			n++
			good = equal(f.Value, s.secret)
		}
	}
	if n > 0 {
		header.Del(s.header)
	}
	switch {
	case n == 0:
		r := x.Refuse(policy.AuthRequired, "rule "+x.Subject.Rule+" demands the field "+s.header+" with a secret: give it to the caller, or take `auth` off the rule")
		r.Fields = append(r.Fields, s.challenge)
		return r
	case n > 1:
		return x.Refuse(policy.AuthDenied, "the field "+s.header+" is there more than once")
	case !good:
		return x.Refuse(policy.AuthDenied, "the value of "+s.header+" is not the secret of rule "+x.Subject.Rule)
	}
	return nil
}

// equal takes a time that depends on the length of given alone.
func equal(given, secret string) bool {
	diff := len(given) ^ len(secret)
	for i := range len(given) {
		diff |= int(given[i] ^ secret[i%len(secret)])
	}
	return diff == 0
}
