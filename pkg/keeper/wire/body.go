package wire

import "github.com/go-json-experiment/json/jsontext"

// jsonBody is the still encoded argument or result of a method.
type jsonBody = jsontext.Value
