package exchange

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	// maxRPCBody bounds how much of a refused request is read to find its ids.
	maxRPCBody = 1 << 20
	// maxRPCBatch bounds the members of a batch that are answered one by one:
	// each member costs the answer several times its own size.
	maxRPCBatch = 256
	// maxRPCID bounds one id, which is sent back as it came.
	maxRPCID = 1024
	// rpcCode is the code of every refusal, in the range that JSON-RPC 2.0
	// leaves to implementations.
	rpcCode = -32001
)

var errNotRPC = errors.New("not a JSON-RPC request")

// Reads gives how many bytes Answer may hold of the request's body, 0 where it
// does not read it.
func (r *Refusal) Reads(req *Request) int64 {
	if req == nil || r.Blind || req.Method != http.MethodPost || req.Body == nil || req.ExpectContinue || !isJSON(&req.Header) {
		return 0
	}
	switch {
	case req.Length > maxRPCBody:
		return 0
	case req.Length == UnknownLength:
		return maxRPCBody
	default:
		return max(req.Length, 512)
	}
}

// rpcBody gives the answer to a refused JSON-RPC request, nil where the
// request is none, waits for no answer, or cannot be read strictly: then the
// client gets the plain refusal, which is never less closed.
func (r *Refusal) rpcBody(req *Request) []byte {
	if r.Reads(req) == 0 {
		return nil
	}
	if req.Body.Transferred() != 0 && !req.Body.Rewind() {
		return nil
	}
	data, err := ReadAll(req.Body, maxRPCBody)
	if err != nil {
		return nil
	}
	ids, batch, err := rpcIDs(data)
	if err != nil || len(ids) == 0 {
		return nil
	}
	var out []byte
	if batch {
		out = append(out, '[')
	}
	for i, id := range ids {
		if i > 0 {
			out = append(out, ',')
		}
		out = r.appendRPCError(out, id)
	}
	if batch {
		out = append(out, ']')
	}
	return append(out, '\n')
}

func (r *Refusal) appendRPCError(b []byte, id jsontext.Value) []byte {
	b = append(b, `{"jsonrpc":"2.0","id":`...)
	b = append(b, id...)
	b = append(b, `,"error":{"code":`...)
	b = strconv.AppendInt(b, rpcCode, 10)
	b = append(b, `,"message":`...)
	b = appendString(b, r.Message)
	b = append(b, `,"data":{"status":`...)
	b = strconv.AppendInt(b, int64(r.Code()), 10)
	b = append(b, `,"reason":`...)
	b = appendString(b, r.Reason.String())
	b = append(b, `,"rule":`...)
	b = appendString(b, r.Rule)
	b = append(b, `,"event":`...)
	b = appendString(b, r.Event)
	return append(b, `}}}`...)
}

// rpcIDs gives the ids, byte for byte, of the members that wait for an answer,
// and whether they came as a batch. A member that has no method is itself an
// answer: one to an answer would be taken for the answer to another request.
func rpcIDs(data []byte) (ids []jsontext.Value, batch bool, err error) {
	dec := jsontext.NewDecoder(bytes.NewReader(data))
	switch dec.PeekKind() {
	case '{':
		id, err := rpcMember(dec)
		if err != nil {
			return nil, false, err
		}
		if id != nil {
			ids = append(ids, id)
		}
	case '[':
		batch = true
		if _, err := dec.ReadToken(); err != nil {
			return nil, true, err
		}
		for members := 0; dec.PeekKind() == '{'; members++ {
			if members == maxRPCBatch {
				return nil, true, errNotRPC
			}
			id, err := rpcMember(dec)
			if err != nil {
				return nil, true, err
			}
			if id != nil {
				ids = append(ids, id)
			}
		}
		if tok, err := dec.ReadToken(); err != nil || tok.Kind() != ']' {
			return nil, true, errNotRPC
		}
	default:
		return nil, false, errNotRPC
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return nil, batch, errNotRPC
	}
	return ids, batch, nil
}

// rpcMember reads one object; id is nil for a notification and for an answer.
func rpcMember(dec *jsontext.Decoder) (id jsontext.Value, err error) {
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	var isRPC, hasMethod bool
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		// The token's text is good only until the next read.
		key := name.String()
		value, err := dec.ReadValue()
		if err != nil {
			return nil, err
		}
		switch key {
		case "jsonrpc":
			isRPC = true
		case "method":
			hasMethod = value.Kind() == '"'
		case "id":
			switch value.Kind() {
			case '"', '0', 'n':
			default:
				return nil, errNotRPC
			}
			if len(value) > maxRPCID {
				return nil, errNotRPC
			}
			id = value.Clone()
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	if !isRPC {
		return nil, errNotRPC
	}
	if !hasMethod {
		return nil, nil
	}
	return id, nil
}

// isJSON reports whether the one Content-Type is application/json, whatever
// its parameters. Media types have no case (RFC 9110 section 8.3.1).
func isJSON(h *Header) bool {
	f := h.Find(ContentType)
	if f == nil {
		return false
	}
	media, _, _ := strings.Cut(f.Value, ";")
	return EqualFold(strings.Trim(media, " \t"), "application/json")
}

// appendString appends s as a JSON string. What is not UTF-8, such as a path
// quoted in a message, is replaced: the answer must stay readable.
func appendString(b []byte, s string) []byte {
	out, err := jsontext.AppendQuote(b, s)
	if err != nil {
		out, _ = jsontext.AppendQuote(b, strings.ToValidUTF8(s, "\uFFFD"))
	}
	return out
}
