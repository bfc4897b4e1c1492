package systemd

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
)

func TestUnitName(t *testing.T) {
	for name, want := range map[string]string{
		"mcp-github":              "mcp-github.service",
		"mcp-github.service":      "mcp-github.service",
		"mcp@a.b":                 "mcp@a.b.service",
		"mcp@a.service":           "mcp@a.service",
		"mcp.slice":               "mcp.slice",
		`run\x2d1.scope`:          `run\x2d1.scope`,
		"a/b":                     "",
		"../../x":                 "",
		"":                        "",
		"@x":                      "",
		"a b":                     "",
		"ünit":                    "",
		string(make([]byte, 300)): "",
	} {
		got, err := UnitName(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("UnitName(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
}

// TestDropIn: it is written once, and its removal leaves others' drop-ins.
func TestDropIn(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		changed, err := WriteDropIn(dir, "a.service", []byte("x"))
		if err != nil || !changed {
			t.Fatalf("changed %v, %v", changed, err)
		}
		if changed, err = WriteDropIn(dir, "a.service", []byte("x")); err != nil || changed {
			t.Fatalf("second time: changed %v, %v", changed, err)
		}
		info, err := os.Stat(DropInPath(dir, "a.service"))
		if err != nil || info.Mode() != 0o644 {
			t.Fatalf("%v, %v", info, err)
		}
		units, err := DropIns(dir)
		if err != nil || !maps.Equal(units, map[string]string{"a.service": DropInPath(dir, "a.service")}) {
			t.Fatalf("%v, %v", units, err)
		}
		if had, err := RemoveDropIn(dir, "a.service"); err != nil || !had {
			t.Fatalf("removed %v, %v", had, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "a.service.d")); err == nil {
			t.Fatal("the directory stayed")
		}
	}
	if _, err := WriteDropIn(dir, "a.service", []byte("x")); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "a.service.d", "10-own.conf")
	if err := os.WriteFile(other, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if had, err := RemoveDropIn(dir, "a.service"); err != nil || !had {
		t.Fatal(had, err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
	if had, err := RemoveDropIn(dir, "a.service"); err != nil || had {
		t.Error(had, err)
	}
}
