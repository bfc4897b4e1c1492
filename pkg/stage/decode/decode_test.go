package decode

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"sallyport/pkg/exchange"
)

// flusher is an encoder that can give what it has.
type flusher interface {
	io.WriteCloser
	Flush() error
}

func encoder(t testing.TB, c Coding, w io.Writer, raw bool) flusher {
	t.Helper()
	switch c {
	case Gzip:
		return gzip.NewWriter(w)
	case Deflate:
		if raw {
			z, err := flate.NewWriter(w, 6)
			if err != nil {
				t.Fatal(err)
			}
			return z
		}
		return zlib.NewWriter(w)
	case Brotli:
		return brotli.NewWriter(w)
	default:
		z, err := zstd.NewWriter(w)
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
}

func encode(t testing.TB, p []byte, raw bool, codings ...Coding) []byte {
	t.Helper()
	for _, c := range codings {
		var b bytes.Buffer
		z := encoder(t, c, &b, raw)
		if _, err := z.Write(p); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		p = b.Bytes()
	}
	return p
}

var stacks = [][]Coding{nil, {Gzip}, {Deflate}, {Brotli}, {Zstd}, {Gzip, Brotli}, {Zstd, Deflate, Gzip}, {Gzip, Gzip, Gzip, Gzip}}

func TestDecode(t *testing.T) {
	text := []byte(strings.Repeat("what is sent on is what was judged. ", 3000))
	for _, codings := range stacks {
		for _, raw := range []bool{false, true} {
			coded := encode(t, text, raw, codings...)
			for _, src := range []io.Reader{bytes.NewReader(coded), iotest.OneByteReader(bytes.NewReader(coded)), iotest.DataErrReader(bytes.NewReader(coded))} {
				got, err := io.ReadAll(NewReader(src, codings, Max))
				if err != nil || !bytes.Equal(got, text) {
					t.Errorf("%v: %d bytes of %d, %v", codings, len(got), len(text), err)
				}
			}
			if len(codings) == 0 {
				continue
			}
			// Cut, or followed by what no client would look at.
			for _, bad := range [][]byte{coded[:len(coded)-1], coded[:len(coded)/2], append(slices.Clone(coded), 'x'), []byte("no coding at all")} {
				if _, err := io.ReadAll(NewReader(bytes.NewReader(bad), codings, Max)); !errors.Is(err, ErrCorrupt) {
					t.Errorf("%v of %d bytes: %v, want ErrCorrupt", codings, len(bad), err)
				}
			}
			if got, err := io.ReadAll(NewReader(bytes.NewReader(nil), codings, Max)); err != nil || len(got) > 0 {
				t.Errorf("%v of an empty body: %q %v", codings, got, err)
			}
			cut := errors.New("cut")
			src := io.MultiReader(bytes.NewReader(coded[:len(coded)/2]), iotest.ErrReader(cut))
			if _, err := io.ReadAll(NewReader(src, codings, Max)); !errors.Is(err, cut) {
				t.Errorf("%v of a body that was cut: %v", codings, err)
			}
		}
	}
}

// TestFlush: a piece that its sender flushed is given without waiting for the
// next one.
func TestFlush(t *testing.T) {
	for _, codings := range stacks[1:5] {
		from, to := io.Pipe()
		z := encoder(t, codings[0], to, false)
		next := make(chan string)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for s := range next {
				_, err := z.Write([]byte(s))
				if err == nil {
					err = z.Flush()
				}
				if err != nil {
					t.Error(err)
				}
			}
			_ = to.CloseWithError(z.Close())
		}()
		r := NewReader(from, codings, 0)
		p := make([]byte, 100)
		for _, s := range []string{"one ", "two ", "three"} {
			next <- s
			if n, err := io.ReadFull(r, p[:len(s)]); err != nil || string(p[:n]) != s {
				t.Errorf("%v: %q %v, want %q", codings, p[:n], err, s)
			}
		}
		close(next)
		// The encoder's end is read too.
		if n, err := r.Read(p); n != 0 || err != nil && err != io.EOF {
			t.Errorf("%v: %d %v", codings, n, err)
		}
		_, _ = io.Copy(io.Discard, from)
		<-done
	}
}

func TestBomb(t *testing.T) {
	zeros := make([]byte, 64<<20)
	for _, codings := range stacks[1:6] {
		coded := encode(t, zeros, false, codings...)
		n, err := io.Copy(io.Discard, NewReader(bytes.NewReader(coded), codings, 0))
		if !errors.Is(err, ErrBomb) || n > RatioFree+1<<20 {
			t.Errorf("%v: %d bytes became %d, then %v", codings, len(coded), n, err)
		}
		if got, err := All(nil, coded, codings, 1<<20); !errors.Is(err, ErrBomb) || len(got) > 2<<20 {
			t.Errorf("%v: %d bytes, %v", codings, len(got), err)
		}
	}
}

func TestCodings(t *testing.T) {
	for value, want := range map[string][]Coding{
		"gzip": {Gzip}, "GZip": {Gzip}, "x-gzip, br": {Gzip, Brotli}, "identity": nil, "": nil, " zstd ,deflate": {Zstd, Deflate}, "gzip,identity": {Gzip},
	} {
		var h exchange.Header
		h.Add("content-encoding", value)
		if got, err := Codings(&h); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v %v, want %v", value, got, err, want)
		}
	}
	for _, value := range []string{"compress", "gzip, aes128gcm", "gzip,gzip,gzip,gzip,gzip", "dcb", "*"} {
		var h exchange.Header
		h.Add("Content-Encoding", value)
		if _, err := Codings(&h); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: %v, want ErrUnknown", value, err)
		}
	}
	for value, want := range map[string]string{
		"gzip, deflate, br, zstd": "gzip, deflate, br, zstd", "gzip;q=0.5, dcb, *;q=0.1": "gzip;q=0.5", "compress": "identity", "*": "identity", "br;q=1.0,identity;q=0": "br;q=1.0, identity;q=0",
	} {
		if got := Accept(value); got != want {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for i, codings := range stacks {
		f.Add(encode(f, []byte("seed text, seed text"), i%2 == 1, codings...), byte(i))
	}
	f.Fuzz(func(t *testing.T, p []byte, stack byte) {
		codings := stacks[int(stack)%len(stacks)]
		n, err := io.Copy(io.Discard, NewReader(bytes.NewReader(p), codings, 1<<20))
		if n > 1<<20 {
			t.Errorf("%d bytes, beyond the bound, %v", n, err)
		}
	})
}
