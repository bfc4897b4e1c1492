// Package cache answers from memory what RFC 9111 lets a shared cache answer.
// Each workload has a cache of its own: what one has fetched is never served to
// another. The store is one for all rules and outlives reloads.
package cache

import (
	"mime"
	"slices"
	"strings"
	"time"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
)

// A Stage is the cache of one rule.
type Stage struct {
	store  *Store
	rule   config.RuleCache
	types  []mediaType
	scopes [2]scope // enforced and observed
	names  namesSeen
	now    func() time.Time
}

var (
	_ exchange.RequestStage  = (*Stage)(nil)
	_ exchange.ResponseStage = (*Stage)(nil)
	_ exchange.RescueStage   = (*Stage)(nil)
	_ exchange.EndStage      = (*Stage)(nil)
)

// New makes the cache of a rule over a store. print is that of the rule.
func New(store *Store, rule string, c *config.RuleCache, print Print) *Stage {
	s := &Stage{store: store, rule: *c, now: time.Now}
	for i, observe := range [...]bool{false, true} {
		s.scopes[i] = scope{rule: rule, print: print.digest, observe: observe}
	}
	for _, t := range c.ContentTypes {
		s.types = append(s.types, parseType(t))
	}
	return s
}

// Name implements exchange.Stage.
func (s *Stage) Name() string { return "cache" }

func (s *Stage) scope(x *exchange.Exchange) *scope {
	if x.Subject.Observe {
		return &s.scopes[1]
	}
	return &s.scopes[0]
}

// A mediaType is a media type with its parameters, canonical.
type mediaType struct {
	name   string
	params map[string]string
}

func parseType(text string) mediaType {
	name, params, err := mime.ParseMediaType(text)
	if err != nil {
		name, _, _ = strings.Cut(text, ";")
		return mediaType{name: strings.ToLower(strings.TrimSpace(name))}
	}
	return mediaType{name, params}
}

// covers reports whether a response of type t is one of m: a type without
// parameters covers it with any.
func (m *mediaType) covers(t *mediaType) bool {
	if m.name != t.name && m.name != "*/*" {
		if group, ok := strings.CutSuffix(m.name, "/*"); !ok || !strings.HasPrefix(t.name, group+"/") {
			return false
		}
	}
	for k, v := range m.params {
		if !strings.EqualFold(t.params[k], v) {
			return false
		}
	}
	return true
}

// typed reports whether the rule stores content of this type. An event stream
// has no end to wait for; a response without content has no type.
func (s *Stage) typed(resp *exchange.Response) bool {
	f := resp.Header.Find(exchange.ContentType)
	if f == nil {
		return len(s.types) == 0 || resp.Body == nil
	}
	t := parseType(f.Value)
	if t.name == "text/event-stream" {
		return false
	}
	return len(s.types) == 0 || slices.ContainsFunc(s.types, func(m mediaType) bool { return m.covers(&t) })
}
