package filter

import (
	"cmp"
	"mime"
	"slices"
	"strings"

	"sallyport/pkg/exchange"
	"sallyport/pkg/stage/decode"
	"sallyport/pkg/stage/scan"
)

// A kind is how a body is to be read.
type kind struct {
	// events and messages are streams of pieces that are judged one by one;
	// stream is one that nobody may hold back.
	events, messages, stream bool
	view                     scan.View
	codings                  []decode.Coding
	// message is the coding of compressed messages.
	message decode.Coding
	known   bool
	// unreadable says why it cannot be judged.
	unreadable string
}

// kindOf looks at a header.
func kindOf(h *exchange.Header) kind {
	k := kind{view: scan.JSON}
	value, types := "", 0
	for v := range h.Values("Content-Type") {
		value = strings.ToLower(v)
		types++
	}
	media, parameters, _ := strings.Cut(value, ";")
	switch media = strings.Trim(media, " \t"); {
	case types > 1:
		k.unreadable = "it has more than one Content-Type"
	case strings.HasPrefix(media, "application/grpc-web-text"):
		k.unreadable = "its messages of gRPC are in base64"
	case media == "text/event-stream":
		k.events, k.stream = true, true
	case media == "application/grpc", strings.HasPrefix(media, "application/grpc+"),
		strings.HasPrefix(media, "application/grpc-web"):
		k.messages, k.stream = true, true
		k.message, k.known = decode.Named(h.Get("grpc-encoding"))
		k.known = k.known && k.message != 0
	case media == "application/x-www-form-urlencoded":
		k.view = form
	case media == "application/x-ndjson", media == "application/ndjson", media == "application/jsonl", media == "application/json-seq",
		media == "application/stream+json", media == "application/connect+json", media == "application/connect+proto",
		media == "multipart/x-mixed-replace":
		k.stream = true
	}
	if !readable(value, parameters) {
		k.unreadable = "its charset is not read"
	}
	var err error
	if k.codings, err = decode.Codings(h); err != nil {
		k.unreadable = "it has " + err.Error()
	}
	return k
}

// readable reports whether ASCII stands for itself in the charset that a
// Content-Type, in lower case, names (the labels of the Encoding Standard and
// their usual misspellings). What nobody can read for certain is not readable.
func readable(contentType, parameters string) bool {
	if !strings.Contains(parameters, "charset") {
		return true
	}
	_, all, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	charset := strings.NewReplacer("_", "-", " ", "").Replace(all["charset"])
	for _, name := range [...]string{
		"", "utf-8", "utf8", "us-ascii", "ascii", "latin1", "latin-1", "l1", "gbk", "gb2312", "gb18030", "big5", "big5-hkscs", "euc-jp", "euc-kr",
		"shift-jis", "shiftjis", "sjis", "ms932", "windows-31j", "ks-c-5601-1987", "tis-620", "macintosh", "binary",
	} {
		if charset == name {
			return true
		}
	}
	for _, prefix := range [...]string{"iso-8859-", "iso8859-", "windows-125", "windows-874", "cp125", "koi8-"} {
		if strings.HasPrefix(charset, prefix) {
			return true
		}
	}
	return false
}

// form reads a form, and JSON that is sent as one, which many servers take.
func form(units []scan.Unit, p []byte, last bool) ([]scan.Unit, int) {
	known := len(units)
	units, n := scan.Form(units, p, last)
	units, m := scan.JSON(units, p, last)
	n = min(n, m)
	fresh := units[known:]
	slices.SortFunc(fresh, func(a, b scan.Unit) int { return cmp.Compare(a.Pos, b.Pos) })
	// In the escape of an escape the outer one counts; what is not settled is read
	// again.
	end := int64(0)
	fresh = slices.DeleteFunc(fresh, func(u scan.Unit) bool {
		if u.Pos < end || u.Pos >= int64(n) {
			return true
		}
		end = u.Pos + int64(u.Len)
		return false
	})
	units = units[:known+len(fresh)]
	return units, n
}

// judge makes the judge for a body of the kind.
func (k *kind) judge(r *run) judge {
	r.place = "body"
	switch {
	case k.events:
		return &events{r: r}
	case k.messages:
		r.sized = true
		return &messages{r: r, coding: k.message, known: k.known}
	default:
		return newPlain(r, k.view)
	}
}
