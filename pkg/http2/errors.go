package http2

import (
	"errors"
	"fmt"
	"os"

	"sallyport/pkg/exchange"
)

// A Code is an error code of RFC 9113 section 7.
type Code uint32

// The codes.
const (
	NoError Code = iota
	ProtocolFault
	InternalError
	FlowControlError
	SettingsTimeout
	StreamClosed
	FrameSizeError
	RefusedStream
	Cancel
	CompressionError
	ConnectError
	EnhanceYourCalm
	InadequateSecurity
	HTTP11Required
)

var codeNames = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
	"FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
	"INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

// String gives the name of RFC 9113, or the number of an unknown code.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("code %d", uint32(c))
}

// A ConnError ends a connection: the peer did what RFC 9113 forbids, or what
// our protections do. GOAWAY with the code has been sent where that was
// possible.
type ConnError struct {
	Code  Code
	Cause Cause
	// Text says what was wrong and never quotes the peer.
	Text string
}

func (e *ConnError) Error() string { return fmt.Sprintf("HTTP/2 connection: %s (%v)", e.Text, e.Code) }

// A GoAwayError ends a connection, or refuses a stream, because the peer said
// GOAWAY.
type GoAwayError struct{ Code Code }

func (e *GoAwayError) Error() string { return fmt.Sprintf("GOAWAY from the peer (%v)", e.Code) }

// A ResetError is a stream that ended by RST_STREAM.
type ResetError struct {
	Code Code
	// Local says that we reset it, because of what the peer sent.
	Local bool
	// Text says why, where it was us.
	Text string
}

func (e *ResetError) Error() string {
	if e.Local {
		return fmt.Sprintf("stream was reset: %s (%v)", e.Text, e.Code)
	}
	return fmt.Sprintf("stream was reset by the peer (%v)", e.Code)
}

var (
	// ErrStreamsExhausted is a server that allows no further stream at present;
	// nothing was sent.
	ErrStreamsExhausted = errors.New("the server allows no further stream")
	// ErrGoingAway is a connection that takes no new stream; nothing was sent.
	ErrGoingAway = errors.New("the connection takes no new stream")
	// ErrStalled is a peer that took nothing for too long.
	ErrStalled = errors.New("the peer took nothing for too long")
	// ErrHeaderTimeout is a server that sent no response in time.
	ErrHeaderTimeout = fmt.Errorf("no response in time: %w", os.ErrDeadlineExceeded)
	// ErrClosed is a connection that we ended ourselves.
	ErrClosed = errors.New("the connection was ended")
)

func malformed(text string) error {
	return &exchange.MalformedError{Text: text, Status: 400, Source: "RFC 9113"}
}
