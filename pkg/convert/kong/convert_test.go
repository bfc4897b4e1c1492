package kong

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/pkg/config"
	"sallyport/pkg/convert"
)

func FuzzConvert(f *testing.F) {
	sources, err := filepath.Glob("../testdata/kong/*.yml")
	if err != nil || len(sources) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range sources {
		data, err := os.ReadFile(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, notes, err := Convert("fuzz.yml", []byte(text))
		if err != nil {
			return
		}
		notes.List()
		var b strings.Builder
		if err := convert.WriteYAML(&b, d); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Parse([]config.File{{Name: "fuzz.yaml", Data: []byte(b.String())}}); err != nil {
			t.Errorf("%v\n%s", err, b.String())
		}
	})
}
