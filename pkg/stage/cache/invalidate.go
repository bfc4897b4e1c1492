package cache

import (
	"context"
	"net/url"
	"strconv"

	"sallyport/pkg/exchange"
)

// An Invalidator stands in the rules that have no cache of their own, where
// others have: a request by which a resource may have changed need not pass the
// same rule as those that read it.
type Invalidator struct{ store *Store }

var _ exchange.ResponseStage = (*Invalidator)(nil)

// NewInvalidator makes one over a store.
func NewInvalidator(store *Store) *Invalidator { return &Invalidator{store} }

// Name implements exchange.Stage.
func (v *Invalidator) Name() string { return "cache" }

// Response implements exchange.ResponseStage.
func (v *Invalidator) Response(_ context.Context, x *exchange.Exchange) *exchange.Refusal {
	invalidate(v.store, x)
	return nil
}

// safe methods change nothing (RFC 9110 section 9.2.1).
func safe(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "CONNECT":
		return true
	default:
		return false
	}
}

// invalidate drops what a successful request by an unsafe method may have
// changed: its target, and what Location and Content-Location name of the same
// origin (RFC 9111 section 4.4). What another origin names stays: it would be a
// way to empty caches.
func invalidate(store *Store, x *exchange.Exchange) {
	status := x.Response.Status
	if safe(x.Request.Method) || status < 200 || status >= 400 || x.Request.Form == exchange.AuthorityForm {
		return
	}
	var room [256]byte
	store.invalidate(appendKey(room[:0], x))
	for i := range x.Response.Header.Len() {
		f := x.Response.Header.At(i)
		if f.ID == exchange.Location || f.ID == exchange.OtherName && exchange.EqualFold(f.Name, "Content-Location") {
			if key := sameOrigin(room[:0], x, f.Value); key != nil {
				store.invalidate(key)
			}
		}
	}
}

// sameOrigin appends the key of what a reference names; nil where that is of
// another origin, or nothing.
func sameOrigin(b []byte, x *exchange.Exchange, reference string) []byte {
	s := &x.Subject
	ref, err := url.Parse(reference)
	if err != nil {
		return nil
	}
	base := url.URL{Scheme: s.Scheme, Host: s.Host, Path: "/"}
	if at, err := url.Parse(x.Request.Path); err == nil {
		base.Path, base.RawPath = at.Path, at.RawPath
	}
	u := base.ResolveReference(ref)
	port := u.Port()
	switch {
	case ref.Host == "":
	case u.Scheme != s.Scheme || !exchange.EqualFold(u.Hostname(), trimBrackets(s.Host)):
		return nil
	case port == "" && s.Scheme == "https" && s.Port != 443, port == "" && s.Scheme == "http" && s.Port != 80:
		return nil
	case port != "" && port != strconv.Itoa(int(s.Port)):
		return nil
	}
	b = appendOrigin(b, s)
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	b = append(b, path...)
	if u.RawQuery != "" || u.ForceQuery {
		b = append(b, '?')
		b = append(b, u.RawQuery...)
	}
	return b
}

func trimBrackets(host string) string {
	if len(host) > 1 && host[0] == '[' {
		return host[1 : len(host)-1]
	}
	return host
}
