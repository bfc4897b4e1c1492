package bodylog

import (
	"bytes"
	"mime"
	"net/url"
	"strings"
	"unicode/utf8"

	"sallyport/pkg/audit"
)

// A format is how a body is read for its redaction.
type format uint8

const (
	plainText format = iota
	jsonText
	eventStream
	form
	multipart
)

// formatOf looks at how the body begins and else at its content type: JSON is
// often sent as something else.
func formatOf(contentType string, body []byte) format {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		kind, _, _ = strings.Cut(strings.ToLower(contentType), ";")
		kind = strings.TrimSpace(kind)
	}
	begin := bytes.TrimLeft(bytes.TrimPrefix(body, []byte("\ufeff")), " \t\r\n\x1e")
	switch {
	case strings.HasPrefix(kind, "multipart/"):
		return multipart
	case len(begin) > 0 && (begin[0] == '{' || begin[0] == '['):
		return jsonText
	case kind == "application/json", strings.HasSuffix(kind, "+json"), kind == "text/json",
		kind == "application/x-ndjson", kind == "application/ndjson", kind == "application/jsonl",
		kind == "application/json-seq", kind == "application/x-json", kind == "application/json-lines":
		return jsonText
	case kind == "text/event-stream":
		return eventStream
	case kind == "application/x-www-form-urlencoded":
		return form
	default:
		return plainText
	}
}

// isText reports whether a body can be shown: no NUL, and UTF-8 unless its type
// says that it is text of another kind. UTF-16 has NULs, and could hide from
// redaction what it says.
func isText(contentType string, body []byte) bool {
	if bytes.IndexByte(body, 0) >= 0 {
		return false
	}
	return utf8.Valid(body) || len(contentType) >= 5 && strings.EqualFold(contentType[:5], "text/")
}

// cutTail shortens a redacted text that is not whole by what could be the first
// half of a secret, which no detector knows: the word in which it ends, and a
// private key that has begun. A secret of several words (a card number in groups
// of four) is shorter than sureTail.
func cutTail(body []byte) []byte {
	if at := bytes.LastIndex(body, []byte("-----BEGIN")); at >= 0 && !bytes.Contains(body[at:], []byte("-----END")) {
		body = body[:at]
	}
	body = body[:max(0, len(body)-sureTail)]
	end := bytes.LastIndexAny(body, " \t\r\n\"'<>,;&{}[]()")
	return body[:end+1]
}

// sureTail is in bytes.
const sureTail = 64

// redactEvents redacts the data of server-sent events one by one
// (https://html.spec.whatwg.org/multipage/server-sent-events.html); each line of
// data ends in a newline afterwards.
func (j *jsonRedactor) redactEvents(dst, src []byte) (out []byte, whole bool) {
	whole = true
	var data []byte
	flush := func() {
		if data == nil {
			return
		}
		// Separated by newlines that are put between, not after.
		data = data[:len(data)-1]
		out := data
		if text := bytes.TrimSpace(data); len(text) > 0 && (text[0] == '{' || text[0] == '[' && !bytes.Equal(text, []byte("[DONE]"))) {
			var ok bool
			if out, ok = j.redact(nil, data); !ok {
				out = append(out, cut...)
				whole = false
			}
		}
		for line := range bytes.SplitSeq(out, []byte("\n")) {
			dst = append(dst, "data: "...)
			dst = append(dst, line...)
			dst = append(dst, '\n')
		}
		data = nil
	}
	src = bytes.TrimPrefix(src, []byte("\ufeff"))
	for len(src) > 0 {
		end := bytes.IndexAny(src, "\r\n")
		line, rest := src, []byte(nil)
		if end >= 0 {
			line, rest = src[:end], src[end+1:]
			if src[end] == '\r' && len(rest) > 0 && rest[0] == '\n' {
				rest = rest[1:]
			}
		}
		src = rest
		name, value, _ := bytes.Cut(line, []byte(":"))
		if string(name) == "data" && len(line) > 0 {
			data = append(data, bytes.TrimPrefix(value, []byte(" "))...)
			data = append(data, '\n')
			continue
		}
		if len(line) == 0 {
			flush()
		}
		// Another field may stand between the data of one event: it goes first.
		dst = append(dst, line...)
		dst = append(dst, '\n')
	}
	flush()
	return dst, whole
}

// cut ends what is not whole, as in every text of the audit.
const cut = "…"

// redactForm replaces the values of fields that the last step of a path names,
// and of those that say of themselves that they are credentials.
func (j *jsonRedactor) redactForm(dst, src []byte) []byte {
	for len(src) > 0 {
		end := bytes.IndexAny(src, "&;")
		pair, rest := src, []byte(nil)
		if end >= 0 {
			pair, rest = src[:end], src[end+1:]
		}
		name, value, valued := bytes.Cut(pair, []byte("="))
		if valued && len(value) > 0 && j.namesField(string(name)) {
			dst = append(append(append(dst, name...), '='), audit.Redacted...)
		} else {
			dst = append(dst, pair...)
		}
		if end >= 0 {
			dst = append(dst, src[end])
		}
		src = rest
	}
	return dst
}

// namesField compares the parts of a name like user[password] or user.password.
func (j *jsonRedactor) namesField(name string) bool {
	plain, err := url.QueryUnescape(name)
	if err != nil {
		return true // nobody knows what it is called
	}
	if audit.SecretQuery(plain) {
		return true
	}
	for _, p := range j.paths {
		if len(p) == 0 || p[len(p)-1].Any || p[len(p)-1].Element {
			return true
		}
		last := p[len(p)-1].Name
		if strings.EqualFold(plain, last) {
			return true
		}
		for part := range strings.FieldsFuncSeq(plain, func(r rune) bool { return r == '[' || r == ']' || r == '.' }) {
			if strings.EqualFold(part, last) {
				return true
			}
		}
	}
	return false
}
