package architecture

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestHouseRules: what no file of the product may have. Nothing happens before
// main, the kernel is asked by system calls and not by other people's programs,
// and a package is named after what it owns.
func TestHouseRules(t *testing.T) {
	vague := []string{"util", "utils", "common", "manager", "helper", "helpers", "misc"}
	tools := []string{"nft", "ip", "iptables", "bpftool", "tc", "ss"}
	set := token.NewFileSet()
	files := 0
	for _, root := range []string{"../../pkg", "../../cmd", "../../bpf"} {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if entry.IsDir() && entry.Name() == "testdata" {
				return filepath.SkipDir
			}
			name := strings.TrimSuffix(entry.Name(), ".go")
			if slices.Contains(vague, name) {
				t.Errorf("%s: a name that says nothing of what it owns", path)
			}
			if entry.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			files++
			f, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					if n.Recv == nil && n.Name.Name == "init" {
						t.Errorf("%s: init: nothing may happen before main", set.Position(n.Pos()))
					}
				case *ast.CallExpr:
					if tool := started(n); slices.Contains(tools, tool) {
						t.Errorf("%s: starts %s: the kernel is asked directly", set.Position(n.Pos()), tool)
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 100 {
		t.Fatalf("looked at %d files; the test looks at the wrong place", files)
	}
}

// started gives the name of the program that a call of os/exec starts, "" for
// any other call and where the name is not written there.
func started(call *ast.CallExpr) string {
	fun, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	pkg, ok := fun.X.(*ast.Ident)
	if !ok || pkg.Name != "exec" || !strings.HasPrefix(fun.Sel.Name, "Command") {
		return ""
	}
	for _, arg := range call.Args[:min(len(call.Args), 2)] {
		if lit, ok := arg.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			name, err := strconv.Unquote(lit.Value)
			if err == nil {
				return filepath.Base(name)
			}
		}
	}
	return ""
}
