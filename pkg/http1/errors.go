package http1

import (
	"errors"
	"fmt"

	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
)

// A MalformedError is a message that RFC 9112 forbids, or that two parsers
// could read differently. What was read of the connection afterwards is
// meaningless: it must be closed.
type MalformedError struct {
	// Text says what is wrong and never quotes the message.
	Text string
	// Status is 400, or 501 for a transfer coding that is not built.
	Status int
}

func (e *MalformedError) Error() string { return "malformed message: " + e.Text }

// Refusal gives the refusal for a malformed request.
func (e *MalformedError) Refusal() *exchange.Refusal {
	return &exchange.Refusal{
		Reason:  policy.MalformedRequest,
		Status:  e.Status,
		Message: "malformed request: " + e.Text + "; the client must send what RFC 9112 allows, no rule can permit this",
	}
}

func malformed(text string) error { return &MalformedError{Text: text, Status: 400} }

func unsupportedCoding() error {
	return &MalformedError{Text: "transfer coding other than chunked", Status: 501}
}

// A RoundTripError is a request that got no response.
type RoundTripError struct {
	// Op is what failed: "write request", "read response" or, where the client
	// cut or broke its body, "read request body".
	Op string
	// Err is the cause: a *MalformedError where the upstream's response is not
	// HTTP.
	Err error
	// Replayable says that no byte of a response came and that the request can
	// be sent again as it is. Whether it may be is for the caller: a request
	// that is not idempotent may have had its effect.
	Replayable bool
}

func (e *RoundTripError) Error() string { return fmt.Sprintf("%s: %v", e.Op, e.Err) }

// Unwrap gives the cause.
func (e *RoundTripError) Unwrap() error { return e.Err }

var (
	// ErrInvalidField is a field, method, target or phrase that would not stay
	// in its place on the wire; nothing of the message was written.
	ErrInvalidField = errors.New("field cannot be written")
	// ErrInterrupted is a body whose reader was told to stop.
	ErrInterrupted = errors.New("body was interrupted")
	// ErrUnsolicited is an upstream that sent bytes before it was asked.
	ErrUnsolicited = errors.New("upstream sent bytes before a request")
	// ErrBodyLength is a body that is longer or shorter than declared.
	ErrBodyLength = errors.New("body differs from its declared length")
)
