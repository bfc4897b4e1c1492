package exchange

import (
	"errors"
	"fmt"
	"time"

	"sallyport/pkg/policy"
)

// A MalformedError is a message that its protocol forbids, or that two parsers
// could read differently.
type MalformedError struct {
	// Text says what is wrong and never quotes the message.
	Text string
	// Status is 400, or 501 for a transfer coding that is not built.
	Status int
	// Source names the specification, such as "RFC 9112".
	Source string
}

func (e *MalformedError) Error() string { return "malformed message: " + e.Text }

// Refusal gives the refusal for a malformed request.
func (e *MalformedError) Refusal() *Refusal {
	return &Refusal{
		Reason:  policy.MalformedRequest,
		Status:  e.Status,
		Message: "malformed request: " + e.Text + "; the client must send what " + e.Source + " allows, no rule can permit this",
	}
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
	// Unprocessed says that the upstream has certainly not acted on the
	// request: it was not sent, or refused by its stream (RFC 9113 section 8.7).
	Unprocessed bool
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
	// ErrBodyLength is a body that is longer or shorter than declared.
	ErrBodyLength = errors.New("body differs from its declared length")
)

// Options of carrying one exchange.
type Options struct {
	// HeaderTimeout bounds the wait from the end of the request to the head of
	// the final response; 0 is no bound.
	HeaderTimeout time.Duration
	// Informational is given each interim response (1xx but not 101); nil drops
	// them. An error from it ends the exchange.
	Informational func(*Response) error
}
