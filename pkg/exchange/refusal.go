package exchange

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"sallyport/pkg/policy"
)

// A Refusal is why a request is not forwarded, or its response not delivered,
// with all that the workload is told about it.
type Refusal struct {
	Reason policy.Reason
	// Status overrides the status that belongs to the reason; 0 does not.
	Status int
	// Rule is the rule that decided, "" without one.
	Rule string
	// Message says what was refused and how to allow it.
	Message string
	// Event is the id of the audit event.
	Event string
	// RetryAfter, when positive, is told in whole seconds, rounded up.
	RetryAfter time.Duration
	// Blind says that Answer does not read the request's body.
	Blind bool
	// Fields are further response fields, such as rate limits.
	Fields []Field
}

// Error makes a refusal an error, for codecs that find one while reading.
func (r *Refusal) Error() string { return fmt.Sprintf("%s: %s", r.Reason, r.Message) }

// Code gives the HTTP status of the refusal, whatever the form of the answer.
func (r *Refusal) Code() int {
	if r.Status != 0 {
		return r.Status
	}
	return r.Reason.Status()
}

// ReasonField is the response field that carries the reason of a refusal.
const ReasonField = "X-Sallyport-Reason"

// Answer fills resp with the answer to a refused request: an object in JSON,
// for JSON-RPC over POST the error objects that its clients wait for, for gRPC
// its status. The ids are taken from the request's body if it is still readable
// from its start: at most maxRPCBody bytes of it are read. req may be nil or
// incomplete where its head could not be parsed.
func (r *Refusal) Answer(req *Request, resp *Response) {
	resp.Reset()
	resp.Version = HTTP11
	resp.Local = true
	if isGRPC(req) {
		r.answerGRPC(resp)
		return
	}
	resp.Status = r.Code()
	body := r.rpcBody(req)
	if body != nil {
		resp.Status = http.StatusOK
	} else {
		body = r.appendObject(make([]byte, 0, 256))
	}
	resp.Phrase = http.StatusText(resp.Status)
	resp.Header.Append(Field{Name: "Content-Type", Value: "application/json", ID: ContentType, Checked: true})
	r.appendCommon(resp)
	resp.Length = int64(len(body))
	resp.Header.Append(Field{Name: "Content-Length", Value: strconv.Itoa(len(body)), ID: ContentLength, Checked: true})
	resp.Body = NewBytes(body)
}

// appendCommon appends the fields that every form of the answer has.
func (r *Refusal) appendCommon(resp *Response) {
	resp.Header.Append(Field{Name: ReasonField, Value: r.Reason.String(), Checked: true})
	if r.RetryAfter > 0 {
		seconds := int64((r.RetryAfter + time.Second - 1) / time.Second)
		resp.Header.Append(Field{Name: "Retry-After", Value: strconv.FormatInt(seconds, 10), ID: RetryAfter, Checked: true})
	}
	for _, f := range r.Fields {
		resp.Header.Append(f)
	}
}

// appendObject appends the object of a refused HTTP request.
func (r *Refusal) appendObject(b []byte) []byte {
	b = append(b, `{"error":`...)
	b = appendString(b, r.Message)
	b = append(b, `,"reason":`...)
	b = appendString(b, r.Reason.String())
	b = append(b, `,"rule":`...)
	b = appendString(b, r.Rule)
	b = append(b, `,"event":`...)
	b = appendString(b, r.Event)
	return append(b, '}', '\n')
}
