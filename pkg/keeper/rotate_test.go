package keeper

import (
	"os"
	"path/filepath"
	"testing"

	"sallyport/pkg/audit/file"
)

// TestRotateOnlyWhatIsFull: a worker in hostile hands asks again and again, and
// what it did stays in the last file.
func TestRotateOnlyWhatIsFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	files, err := file.Open(file.Options{Path: path, UID: -1, GID: -1, MaxFiles: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	k := &Keeper{audit: files}
	k.rotateAt.Store(10 << 20)
	if err := os.WriteFile(path, []byte("evidence\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, got, err := k.rotate(t.Context(), nil); err == nil {
			closeFiles(got)
			t.Error("a file that is not full was put aside")
		}
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "evidence\n" {
		t.Errorf("%q, %v", b, err)
	}
	if err := os.Truncate(path, 10<<20-100); err != nil {
		t.Fatal(err)
	}
	_, got, err := k.rotate(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	closeFiles(got)
	if st, err := os.Stat(path + ".1"); err != nil || st.Size() != 10<<20-100 {
		t.Errorf("the full file was not kept: %v", err)
	}
	// An empty one is never full, whatever the limit.
	k.rotateAt.Store(1)
	if _, got, err := k.rotate(t.Context(), nil); err == nil {
		closeFiles(got)
		t.Error("an empty file was put aside")
	}
}
