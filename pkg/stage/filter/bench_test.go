package filter

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
)

// BenchmarkFilter is a request of 20 fields and a body of 4 KiB with its
// response, clean, by what looks at them.
func BenchmarkFilter(b *testing.B) {
	body := bytes.Repeat([]byte(`{"name":"value","list":[1,2,3],"text":"nothing to see here"}`), 70)
	for _, c := range []struct {
		name  string
		stage *Stage
	}{
		{"report", newStage(b, "", bad(config.InBoth, config.FilterReport))},
		{"block", newStage(b, "", bad(config.InBoth, config.FilterBlock))},
		{"redact", newStage(b, "", bad(config.InBoth, config.FilterRedact))},
		{"secrets", newStage(b, config.FilterBlock)},
		{"all", newStage(b, config.FilterBlock, bad(config.InBoth, config.FilterBlock), bad(config.InBoth, config.FilterRedact))},
	} {
		b.Run(c.name, func(b *testing.B) {
			p := exchange.NewPipeline(c.stage)
			x := &exchange.Exchange{}
			var names [20]string
			for i := range names {
				names[i] = fmt.Sprintf("X-Field-%d", i)
			}
			b.ReportAllocs()
			b.SetBytes(int64(2 * len(body)))
			for b.Loop() {
				x.Reset()
				x.Request.Path = "/some/path"
				for _, name := range names {
					x.Request.Header.Append(exchange.Field{Name: name, Value: "a value of usual length"})
				}
				x.Request.Body, x.Request.Length = exchange.NewBytes(body), int64(len(body))
				if p.Request(b.Context(), x) != nil {
					b.Fatal("refused")
				}
				if _, err := io.Copy(io.Discard, x.Request.Body); err != nil {
					b.Fatal(err)
				}
				x.Response.Status = 200
				x.Response.Body, x.Response.Length = exchange.NewBytes(body), int64(len(body))
				if p.Response(b.Context(), x) != nil {
					b.Fatal("refused")
				}
				if _, err := io.Copy(io.Discard, x.Response.Body); err != nil {
					b.Fatal(err)
				}
				p.End(x)
			}
		})
	}
}
