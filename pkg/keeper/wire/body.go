package wire

import (
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// jsonBody is the still encoded argument or result of a method.
type jsonBody = jsontext.Value

// Durations travel as nanoseconds; the library wants to be told. Strings travel
// as they are, also those that are no UTF-8: paths, arguments and environments
// of Linux need not be, and somebody else chooses them.
var (
	encoding = json.WithMarshalers(json.JoinMarshalers(
		json.MarshalFunc(func(d time.Duration) ([]byte, error) {
			return strconv.AppendInt(nil, int64(d), 10), nil
		}),
		json.MarshalToFunc(func(e *jsontext.Encoder, s string) error {
			if utf8.ValidString(s) && !strings.HasPrefix(s, bytesMark) {
				return errors.ErrUnsupported // as any string
			}
			return e.WriteToken(jsontext.String(bytesMark + base64.StdEncoding.EncodeToString([]byte(s))))
		}),
	))
	decoding = json.WithUnmarshalers(json.JoinUnmarshalers(
		json.UnmarshalFunc(func(b []byte, d *time.Duration) error {
			n, err := strconv.ParseInt(string(b), 10, 64)
			*d = time.Duration(n)
			return err
		}),
		json.UnmarshalFromFunc(func(d *jsontext.Decoder, s *string) error {
			if d.PeekKind() != '"' {
				return errors.ErrUnsupported
			}
			token, err := d.ReadToken()
			if err != nil {
				return err
			}
			*s = token.String()
			encoded, ok := strings.CutPrefix(*s, bytesMark)
			if !ok {
				return nil
			}
			raw, err := base64.StdEncoding.DecodeString(encoded)
			*s = string(raw)
			return err
		}),
	))
)

// bytesMark begins a string that is the base64 of the one meant.
const bytesMark = "\x00"
