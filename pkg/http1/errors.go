package http1

import (
	"errors"

	"sallyport/pkg/exchange"
)

// ErrUnsolicited is an upstream that sent bytes before it was asked.
var ErrUnsolicited = errors.New("upstream sent bytes before a request")

// source is the specification that malformed messages break.
const source = "RFC 9112"

// malformed gives an *exchange.MalformedError. What was read of the connection
// afterwards is meaningless: it must be closed.
func malformed(text string) error {
	return &exchange.MalformedError{Text: text, Status: 400, Source: source}
}

func unsupportedCoding() error {
	return &exchange.MalformedError{Text: "transfer coding other than chunked", Status: 501, Source: source}
}
