package architecture

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// TestOwnCodecs: the data path has its own codecs. Of net/http it may use the
// names of methods and the phrases of statuses, nothing that reads or writes; of
// x/net's HTTP/2 only HPACK.
func TestOwnCodecs(t *testing.T) {
	files := 0
	for _, pkg := range []string{"exchange", "http1", "http2", "websocket", "proxy", "upstream", "sniff", "tcpconn"} {
		names, err := filepath.Glob("../../pkg/" + pkg + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			files++
			set := token.NewFileSet()
			f, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, imp := range f.Imports {
				if imp.Path.Value == `"golang.org/x/net/http2"` {
					t.Errorf("%s: the data path has its own codecs", set.Position(imp.Pos()))
				}
			}
			ast.Inspect(f, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				x, ok := sel.X.(*ast.Ident)
				if ok && x.Name == "http" && !strings.HasPrefix(sel.Sel.Name, "Status") && !strings.HasPrefix(sel.Sel.Name, "Method") {
					t.Errorf("%s: http.%s: the data path has its own codecs", set.Position(sel.Pos()), sel.Sel.Name)
				}
				return true
			})
		}
	}
	if files < 80 {
		t.Fatalf("looked at %d files; the test looks at the wrong place", files)
	}
}
