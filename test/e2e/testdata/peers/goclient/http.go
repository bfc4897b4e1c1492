package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"time"
)

// stream is the same as newStream(1) of the tests.
func stream() io.Reader {
	return rand.NewChaCha8([32]byte{1})
}

func streamSum(n int64) string {
	s := sha256.New()
	io.CopyN(s, stream(), n)
	return hex.EncodeToString(s.Sum(nil))
}

// unsized hides everything but Read, so that net/http knows no length.
type unsized struct{ io.Reader }

func (r *report) http(base, version string) {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	switch version {
	case "HTTP/1.1":
		transport.Protocols.SetHTTP1(true)
	case "HTTP/2.0":
		transport.Protocols.SetHTTP1(true)
		transport.Protocols.SetHTTP2(true)
	case "h2c":
		transport.Protocols.SetUnencryptedHTTP2(true)
		version = "HTTP/2.0"
	}
	client := &http.Client{Transport: transport, Timeout: time.Minute}

	sum := func(n int64, body io.Reader, change func(*http.Request)) error {
		req, err := http.NewRequest("POST", base+"/sum", body)
		if err != nil {
			return err
		}
		if change != nil {
			change(req)
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.Proto != version {
			return fmt.Errorf("answered by %s", resp.Proto)
		}
		var got struct {
			SHA256, Path string
			Bytes        int64
			Trailer      map[string]string
		}
		if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
			return err
		}
		if got.Bytes != n || got.SHA256 != streamSum(n) {
			return fmt.Errorf("%+v, want %d bytes", got, n)
		}
		if req.Trailer != nil && got.Trailer["X-Checked"] != "yes" {
			return fmt.Errorf("trailer %v", got.Trailer)
		}
		return nil
	}
	for _, n := range []int64{1, 1000, 70_000, 3_000_000} {
		r.check(fmt.Sprintf("up-%d", n), func() error {
			b := make([]byte, n)
			io.ReadFull(stream(), b)
			return sum(n, bytes.NewReader(b), nil)
		})
	}
	r.check("up-unknown-length", func() error { return sum(3_000_000, unsized{io.LimitReader(stream(), 3_000_000)}, nil) })
	r.check("up-trailer", func() error {
		return sum(70_000, unsized{io.LimitReader(stream(), 70_000)}, func(q *http.Request) { q.Trailer = http.Header{"X-Checked": {"yes"}} })
	})
	r.check("up-expect", func() error {
		continued := false
		err := sum(70_000, unsized{io.LimitReader(stream(), 70_000)}, func(q *http.Request) {
			q.Header.Set("Expect", "100-continue")
			*q = *q.WithContext(httptrace.WithClientTrace(q.Context(), &httptrace.ClientTrace{Got100Continue: func() { continued = true }}))
		})
		if err == nil && !continued && transport.ExpectContinueTimeout > 0 {
			return errors.New("no 100")
		}
		return err
	})
	down := func(path string, n int64, trailer bool) error {
		resp, err := client.Get(base + path)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		s := sha256.New()
		got, err := io.Copy(s, resp.Body)
		if err != nil || got != n || hex.EncodeToString(s.Sum(nil)) != streamSum(n) {
			return fmt.Errorf("%d bytes of %d: %v", got, n, err)
		}
		if trailer && resp.Trailer.Get("X-Sum") != streamSum(n) {
			return fmt.Errorf("trailer %v", resp.Trailer)
		}
		return nil
	}
	for _, n := range []int64{0, 1, 70_000, 3_000_000} {
		r.check(fmt.Sprintf("down-%d", n), func() error { return down(fmt.Sprintf("/bytes/%d", n), n, false) })
	}
	r.check("down-chunked", func() error { return down("/bytes/70000?chunked", 70_000, true) })
	r.check("down-gzip", func() error { return down("/gzip", 300_000, false) })
	r.check("full-duplex", func() error { return fullDuplex(client, base) })
	r.check("cut", func() error {
		resp, err := client.Get(base + "/cut")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if n, err := io.Copy(io.Discard, resp.Body); err == nil {
			return fmt.Errorf("%d bytes looked whole", n)
		}
		return nil
	})
	if version == "HTTP/2.0" || strings.HasPrefix(base, "https") {
		// In the clear, HTTP/1.1 has no way to tell a client that is gone from one
		// that has said all.
		r.check("cancel", func() error { return giveUp(client, base) })
	}
	r.check("hints", func() error {
		got := 0
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error { got = code; return nil }})
		req, _ := http.NewRequestWithContext(ctx, "GET", base+"/hints", nil)
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if got != http.StatusEarlyHints || resp.StatusCode != 200 {
			return fmt.Errorf("informational %d, status %d", got, resp.StatusCode)
		}
		return nil
	})
	r.check("early", func() error {
		resp, err := client.Post(base+"/early", "text/plain", unsized{io.LimitReader(stream(), 3_000_000)})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if string(b) != "early" || err != nil {
			return fmt.Errorf("%q: %v", b, err)
		}
		return nil
	})
	r.check("concurrent", func() error { return concurrent(client, base) })
	r.check("refused", func() error {
		resp, err := client.Post(base+"/secret/x", "text/plain", unsized{io.LimitReader(stream(), 1_000_000)})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if resp.StatusCode != 403 || resp.Header.Get("X-Sallyport-Reason") != "rule_denied" || !strings.Contains(string(b), `"rule":"secrets"`) || err != nil {
			return fmt.Errorf("%d %v %q: %v", resp.StatusCode, resp.Header, b, err)
		}
		return nil
	})
}

// fullDuplex sends a line, waits for its echo, and so on, in one exchange.
func fullDuplex(client *http.Client, base string) error {
	pr, pw := io.Pipe()
	req, err := http.NewRequest("POST", base+"/echo", pr)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for i := range 50 {
		line := fmt.Sprintf("line %04d\n", i)
		if _, err := io.WriteString(pw, line); err != nil {
			return fmt.Errorf("write %d: %w", i, err)
		}
		got := make([]byte, len(line))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != line {
			return fmt.Errorf("echo %d: %q: %w", i, got, err)
		}
	}
	pw.Close()
	rest, err := io.ReadAll(resp.Body)
	if len(rest) != 0 || err != nil || len(resp.Trailer.Get("X-Sum")) != 64 {
		return fmt.Errorf("end: %q, trailer %v: %v", rest, resp.Trailer, err)
	}
	return nil
}

// giveUp ends a request before its answer; the origin must learn that.
func giveUp(client *http.Client, base string) error {
	count := func() (n int, err error) {
		resp, err := client.Get(base + "/cancelled")
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		_, err = fmt.Fscan(resp.Body, &n)
		return n, err
	}
	before, err := count()
	if err != nil {
		return err
	}
	// On a busy machine one may not have come to the origin before it is given up.
	for _, after := range []time.Duration{200 * time.Millisecond, time.Second, 5 * time.Second} {
		ctx, cancel := context.WithTimeout(context.Background(), after)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", base+"/wait", nil)
		if _, err := client.Do(req); !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("the request that was given up: %v", err)
		}
		for range 100 {
			now, err := count()
			if err != nil {
				return err
			}
			if now > before {
				return nil
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return errors.New("the origin still works for a client that has gone")
}

func concurrent(client *http.Client, base string) error {
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for i := range 64 {
		wg.Go(func() {
			n := []int64{100, 20_000, 100_000, 700_000}[i%4]
			resp, err := client.Get(fmt.Sprintf("%s/bytes/%d", base, n))
			if err != nil {
				errs <- err
				return
			}
			defer resp.Body.Close()
			s := sha256.New()
			if got, err := io.Copy(s, resp.Body); err != nil || got != n || hex.EncodeToString(s.Sum(nil)) != streamSum(n) {
				errs <- fmt.Errorf("%d of %d bytes: %w", got, n, err)
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}
