package exchange

import (
	"net/http"
	"strconv"
	"strings"
)

// The status codes of gRPC that refusals use
// (https://grpc.github.io/grpc/core/md_doc_statuscodes.html).
const (
	grpcInvalidArgument   = 3
	grpcPermissionDenied  = 7
	grpcResourceExhausted = 8
	grpcUnavailable       = 14
	grpcUnauthenticated   = 16
)

// isGRPC reports whether a request is one of gRPC over HTTP/2. gRPC-Web has a
// content type of its own and reads ordinary responses.
func isGRPC(req *Request) bool {
	if req == nil || req.Version != HTTP2 || req.Method != http.MethodPost {
		return false
	}
	f := req.Header.Find(ContentType)
	if f == nil {
		return false
	}
	const prefix = "application/grpc"
	if len(f.Value) < len(prefix) || !EqualFold(f.Value[:len(prefix)], prefix) {
		return false
	}
	rest := f.Value[len(prefix):]
	return rest == "" || strings.ContainsRune("+; \t", rune(rest[0]))
}

// grpcStatus gives the gRPC status that stands for an HTTP status.
func grpcStatus(code int) int {
	switch {
	case code == http.StatusUnauthorized:
		return grpcUnauthenticated
	case code == http.StatusForbidden:
		return grpcPermissionDenied
	case code == http.StatusRequestEntityTooLarge, code == http.StatusTooManyRequests:
		return grpcResourceExhausted
	case code >= 500:
		return grpcUnavailable
	default:
		return grpcInvalidArgument
	}
}

// answerGRPC fills resp with a response that consists of its trailers only
// (gRPC over HTTP2, "Responses"): clients of gRPC read nothing else of a
// refusal.
func (r *Refusal) answerGRPC(resp *Response) {
	resp.Status, resp.Phrase = http.StatusOK, ""
	resp.Header.Append(Field{Name: "content-type", Value: "application/grpc", ID: ContentType, Checked: true})
	resp.Header.Append(Field{Name: "grpc-status", Value: strconv.Itoa(grpcStatus(r.Code())), Checked: true})
	resp.Header.Append(Field{Name: "grpc-message", Value: percentEncode(r.Message), Checked: true})
	r.appendCommon(resp)
	resp.Length = NoBody
}

// percentEncode writes a grpc-message: what is not printable ASCII, and the
// percent sign, by its bytes.
func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}
