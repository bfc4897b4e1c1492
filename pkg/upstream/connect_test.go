package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// ahead looks ahead on a reader as a socket does: at most a few bytes at once.
type ahead struct {
	*bytes.Reader
	step int
}

func (a *ahead) peek(p []byte) (int, error) {
	n, err := a.Read(p[:min(len(p), a.step)])
	if err == nil {
		_, err = a.Seek(-int64(n), io.SeekCurrent)
	}
	return n, err
}

// TestConnectAnswer reads each answer in every way in which it can come, and
// leaves what follows it alone.
func TestConnectAnswer(t *testing.T) {
	const rest = "220 mail.example ESMTP\r\n\r\n"
	for _, tt := range []struct {
		name, head string
		want       connectAnswer
		bad        string
	}{
		{name: "plain", head: "HTTP/1.1 200 Connection established\r\n\r\n", want: connectAnswer{status: 200, phrase: "Connection established"}},
		{name: "no phrase", head: "HTTP/1.0 200\r\n\r\n", want: connectAnswer{status: 200}},
		{name: "bare LF", head: "HTTP/1.1 204 x\n\n", want: connectAnswer{status: 204, phrase: "x"}},
		{name: "mixed ends", head: "HTTP/1.1 200 x\r\nA: b\n\r\n", want: connectAnswer{status: 200, phrase: "x"}},
		// RFC 9110 section 9.3.6: a 2xx has no body, whatever it says.
		{name: "length", head: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", want: connectAnswer{status: 200, phrase: "OK"}},
		{name: "interim", head: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", want: connectAnswer{status: 200, phrase: "OK"}},
		{name: "challenges", head: "HTTP/1.1 407 Auth\r\nProxy-Authenticate: Basic realm=\"a, b\"\r\nproxy-authenticate:NTLM\r\n\r\n", want: connectAnswer{status: 407, phrase: "Auth", schemes: []string{"Basic", "NTLM"}}},
		{name: "phrase of control characters", head: "HTTP/1.1 403 a\x1b[31mb\x00\xff\r\n\r\n", want: connectAnswer{status: 403, phrase: "a[31mb"}},
		{name: "long phrase", head: "HTTP/1.1 403 " + strings.Repeat("x", 500) + "\r\n\r\n", want: connectAnswer{status: 403, phrase: strings.Repeat("x", maxPhrase)}},
		{name: "switching", head: "HTTP/1.1 101 Switching\r\n\r\n", want: connectAnswer{status: 101, phrase: "Switching"}},
		{name: "other protocol", head: "SSH-2.0-OpenSSH\r\n\r\n", bad: `begins with "S`},
		{name: "TLS", head: "\x15\x03\x01\x00\x02\x02\x46", bad: `\x15`},
		{name: "version", head: "HTTP/2.0 200 OK\r\n\r\n", bad: "begins with"},
		{name: "short version", head: "HTTP/1. 200 OK\r\n\r\n", bad: "status line"},
		{name: "status", head: "HTTP/1.1 2000 OK\r\n\r\n", bad: "the status"},
		{name: "status sign", head: "HTTP/1.1 +20 OK\r\n\r\n", bad: "the status"},
		{name: "status zero", head: "HTTP/1.1 000 OK\r\n\r\n", bad: "the status"},
		{name: "header", head: "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", bad: "the header line"},
		{name: "header name", head: "HTTP/1.1 200 OK\r\nA : b\r\n\r\n", bad: "the header line"},
		{name: "large", head: "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", maxAnswer) + "\r\n\r\n", bad: "more than"},
		{name: "endless interim", head: strings.Repeat("HTTP/1.1 100 C\r\n\r\n", 20), bad: "interim"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for step := range 5 {
				src := &ahead{bytes.NewReader([]byte(tt.head + rest)), 3*step*step + step}
				var a connectAnswer
				var err error
				if step == 0 {
					a, err = readConnectAnswer(iotest.OneByteReader(src), nil)
				} else {
					a, err = readConnectAnswer(src, src.peek)
				}
				if tt.bad != "" {
					if !errors.Is(err, errNoAnswer) || !strings.Contains(err.Error(), tt.bad) {
						t.Errorf("step %d: %+v, %v; want %s", step, a, err, tt.bad)
					}
					continue
				}
				left, _ := io.ReadAll(src)
				if err != nil || fmt.Sprint(a) != fmt.Sprint(tt.want) || string(left) != rest {
					t.Errorf("step %d: %+v, %v, left %q", step, a, err, left)
				}
			}
		})
	}
	for _, cut := range []string{"", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\n\r"} {
		src := &ahead{bytes.NewReader([]byte(cut)), 100}
		_, err := readConnectAnswer(src, src.peek)
		if want := map[bool]error{true: io.EOF, false: io.ErrUnexpectedEOF}[cut == ""]; err != want {
			t.Errorf("%q: %v, want %v", cut, err, want)
		}
	}
}

// FuzzConnectAnswer: whatever a proxy sends, nothing beyond the head is taken,
// and looking ahead gives what reading byte by byte does.
func FuzzConnectAnswer(f *testing.F) {
	for _, s := range []string{"HTTP/1.1 200 OK\r\n\r\nrest", "HTTP/1.1 100 C\r\n\r\nHTTP/1.0 407 A\nProxy-Authenticate: Basic\n\n", "SSH-2.0", "HTTP/1.1 200 OK\r\nA\r\n\r\n", ""} {
		f.Add([]byte(s), 7)
	}
	f.Fuzz(func(t *testing.T, data []byte, step int) {
		one := bytes.NewReader(data)
		a, err := readConnectAnswer(one, nil)
		many := &ahead{bytes.NewReader(data), max(1, step%2048)}
		b, berr := readConnectAnswer(many, many.peek)
		if fmt.Sprint(a) != fmt.Sprint(b) || (err == nil) != (berr == nil) || err == nil && one.Len() != many.Len() {
			t.Errorf("%+v, %v, %d left; %+v, %v, %d left", a, err, one.Len(), b, berr, many.Len())
		}
		if err == nil && (a.status < 100 || a.status > 599 || len(a.phrase) > maxPhrase || len(a.schemes) > maxSchemes) {
			t.Errorf("%+v", a)
		}
	})
}

func BenchmarkConnectAnswer(b *testing.B) {
	head := []byte("HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n")
	b.ReportAllocs()
	for b.Loop() {
		src := &ahead{bytes.NewReader(head), len(head)}
		if _, err := readConnectAnswer(src, src.peek); err != nil {
			b.Fatal(err)
		}
	}
}
