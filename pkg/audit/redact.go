package audit

import "strings"

// Redacted stands in the place of a credential.
const Redacted = "[redacted]"

// SecretHeader reports whether the value of a header of that name is a
// credential, by its name in any case.
func SecretHeader(name string) bool { return secretHeader(name) }

// secretHeader reports whether the value of a header is a credential and
// therefore never reaches a sink: Authorization, Proxy-Authorization, Cookie,
// Set-Cookie, X-Api-Key, and every name that says of itself that it carries a
// token, key, secret, password, credential or signature.
func secretHeader(name string) bool {
	var folded [64]byte
	key := fold(&folded, name)
	switch string(key) {
	case "cookie", "set-cookie", "cookie2", "set-cookie2",
		"x-auth", "x-auth-key", "x-functions-key", "ocp-apim-subscription-key", "dpop":
		return true
	}
	// What is left of a quota is counted in tokens by some APIs and is no secret.
	return tellsSecret(key) && !contains(key, "ratelimit")
}

// SecretQuery reports whether a query parameter or a field of a form carries a
// credential, by its decoded name in any case.
func SecretQuery(name string) bool { return secretQuery(name) }

// secretQuery reports whether a query parameter carries a credential, by its
// decoded name in any case: key, sig, auth, jwt, code_verifier, assertion and
// every name that contains token, apikey, secret, passw, credential, signature
// or authorization (so access_token, client_secret, X-Amz-Signature,
// X-Goog-Credential …).
func secretQuery(name string) bool {
	var folded [64]byte
	key := fold(&folded, name)
	switch string(key) {
	case "key", "sig", "auth", "jwt", "pwd", "pass", "bearer", "code-verifier",
		"assertion", "client-assertion", "samlresponse", "sessionid", "session-id", "sid":
		return true
	}
	return tellsSecret(key)
}

// tellsSecret looks at a folded name.
func tellsSecret(key []byte) bool {
	for _, word := range [...]string{
		"token", "api-key", "apikey", "secret", "passw", "credential", "signature",
		"authorization", "access-key", "accesskey", "private-key",
	} {
		if contains(key, word) {
			return true
		}
	}
	return false
}

func contains(key []byte, word string) bool {
	for i := 0; i+len(word) <= len(key); i++ {
		if string(key[i:i+len(word)]) == word {
			return true
		}
	}
	return false
}

// fold brings a name into the form in which it is compared: percent-decoded, in
// lower case, "_" and "." as "-". Of a name longer than the buffer only the
// beginning counts.
func fold(buf *[64]byte, name string) []byte {
	n := 0
	for i := 0; i < len(name) && n < len(buf); i++ {
		c := name[i]
		if c == '%' && i+2 < len(name) {
			if hi, ok := unhex(name[i+1]); ok {
				if lo, ok := unhex(name[i+2]); ok {
					c = hi<<4 | lo
					i += 2
				}
			}
		}
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c == '_' || c == '.':
			c = '-'
		}
		buf[n] = c
		n++
	}
	return buf[:n]
}

func unhex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// appendQuery appends a query with the values of credentials replaced. Both "&"
// and ";" separate, since upstreams differ.
func appendQuery(b []byte, query string) []byte {
	room := MaxText
	for query != "" && room > 0 {
		end := strings.IndexAny(query, "&;")
		part := query
		if end >= 0 {
			part = query[:end]
		}
		name, value, valued := strings.Cut(part, "=")
		if valued && value != "" && secretQuery(name) {
			b = appendText(b, name, room)
			b = append(b, '=')
			b = append(b, Redacted...)
		} else {
			b = appendText(b, part, room)
		}
		room -= len(part)
		if end < 0 {
			return b
		}
		if room <= 1 {
			return append(b, cut...)
		}
		b = append(b, query[end])
		room--
		query = query[end+1:]
	}
	return b
}

// withoutUserinfo drops the user and password that an absolute-form target can
// carry before its host (RFC 3986 §3.2.1).
func withoutUserinfo(host string) string {
	if at := strings.LastIndexByte(host, '@'); at >= 0 {
		return host[at+1:]
	}
	return host
}
