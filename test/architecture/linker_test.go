package architecture

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLinkerPrunes: one reachable reflect.MethodByName or Type.Method keeps
// every method of every type in the binary, about 14 MB more to load and to
// attack (golang/go#72895).
func TestLinkerPrunes(t *testing.T) {
	cmd := exec.Command("go", "build", "-o", filepath.Join(t.TempDir(), "sallyport"), "-ldflags=-dumpdep", "sallyport/cmd/sallyport")
	cmd.Dir = "../.."
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out[max(0, len(out)-2000):])
	}
	if len(out) < 10_000 {
		t.Fatalf("-dumpdep printed %d bytes; the check does not see the dependencies", len(out))
	}
	var found []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "ReflectMethod") {
			found = append(found, strings.TrimSpace(line))
		}
	}
	if len(found) > 0 {
		t.Errorf("the linker keeps all methods because of:\n%s", strings.Join(found[:min(len(found), 10)], "\n"))
	}
}
