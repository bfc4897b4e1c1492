package outside

import (
	"os"
	"path/filepath"
	"testing"
)

// Binary gives the path of the sallyport that is tested: SALLYPORT_BINARY, or what
// make has built, seen from a folder of test.
func Binary(t testing.TB) string {
	t.Helper()
	path := os.Getenv("SALLYPORT_BINARY")
	if path == "" {
		path = "../../bin/sallyport"
	}
	path, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v: make builds it", err)
	}
	return path
}
