package http2

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// TestEncoder has the decoder of x/net read what our encoder writes, over many
// blocks with tables of many sizes.
func TestEncoder(t *testing.T) {
	names := []string{":method", ":path", ":status", ":scheme", ":authority", "accept-encoding", "x-a", "x-bb", "cookie", "date", "via", strings.Repeat("n", 300)}
	values := []string{"", "GET", "POST", "PUT", "/", "/index.html", "/x", "http", "https", "200", "206", "299", "gzip, deflate", strings.Repeat("v", 40), strings.Repeat("\"", 500), strings.Repeat("w", 5000)}
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var e encoder
		e.begin()
		var got []hpack.HeaderField
		dec := hpack.NewDecoder(tableSize, func(f hpack.HeaderField) { got = append(got, f) })
		for block := range 30 {
			for range r.IntN(3) {
				// The peer allows its own decoder at most what it said last.
				limit := []int{0, 33, 100, 500, 4096, 65536}[r.IntN(6)]
				e.setLimit(limit)
			}
			var want []hpack.HeaderField
			b := e.appendUpdate(nil)
			for range r.IntN(12) {
				f := hpack.HeaderField{Name: names[r.IntN(len(names))], Value: values[r.IntN(len(values))], Sensitive: r.IntN(10) == 0}
				if r.IntN(3) == 0 {
					f.Value = fmt.Sprint(r.IntN(100))
				}
				b = e.appendField(b, f.Name, f.Value, f.Sensitive)
				if index, whole := staticIndex(f.Name, f.Value); whole && index > 0 {
					// An index says nothing of it.
					f.Sensitive = false
				}
				want = append(want, f)
			}
			got = nil
			if _, err := dec.Write(b); err != nil {
				t.Fatalf("seed %d block %d: %v", seed, block, err)
			}
			if err := dec.Close(); err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("seed %d block %d:\n%v\nwant\n%v", seed, block, got, want)
			}
			if e.size > min(e.limit, tableSize) || len(e.entries) > tableSize/32 {
				t.Fatalf("%d bytes, %d entries", e.size, e.n)
			}
		}
	}
}

// TestStaticTable compares with the table of x/net, by having it decode each
// index.
func TestStaticTable(t *testing.T) {
	for i := 1; i <= staticEntries; i++ {
		var f hpack.HeaderField
		dec := hpack.NewDecoder(tableSize, func(g hpack.HeaderField) { f = g })
		dec.Write(appendInteger(nil, 0x80, 7, i))
		if index, whole := staticIndex(f.Name, f.Value); index != i || !whole {
			t.Errorf("%v is at %d, found at %d, %v", f, i, index, whole)
		}
	}
	if index, whole := staticIndex("x", ""); index != 0 || whole {
		t.Error(index, whole)
	}
}

func BenchmarkEncode(b *testing.B) {
	fields := [][2]string{
		{":method", "POST"}, {":scheme", "https"}, {":authority", "api.example.com"}, {":path", "/v1/search?q=sallyport&page=1"},
		{"user-agent", "python-requests/2.34.0"}, {"accept-encoding", "gzip, deflate"}, {"accept", "*/*"},
		{"authorization", "Bearer 0123456789abcdef0123456789abcdef"}, {"content-type", "application/json"}, {"content-length", "64"},
	}
	b.Run("ours", func(b *testing.B) {
		var e encoder
		e.begin()
		out := make([]byte, 0, 1024)
		b.ReportAllocs()
		for b.Loop() {
			out = out[:0]
			for _, f := range fields {
				out = e.appendField(out, f[0], f[1], f[0] == "authorization")
			}
		}
	})
	b.Run("x-net", func(b *testing.B) {
		var sink countWriter
		e := hpack.NewEncoder(&sink)
		b.ReportAllocs()
		for b.Loop() {
			for _, f := range fields {
				e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: f[0] == "authorization"})
			}
		}
	})
}

type countWriter int

func (w *countWriter) Write(p []byte) (int, error) {
	*w += countWriter(len(p))
	return len(p), nil
}
