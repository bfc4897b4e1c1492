package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// branched gives an audit in which a line that began no worker stands beside the one
// after the same: as if somebody had gone on from there.
func branched(lines [][]byte) []byte {
	for n := len(lines) - 2; n > 0; n-- {
		prev := func(line []byte) string { return field(line, `"prev":"`) }
		if prev(lines[n]) != field(lines[n-1], `"hash":"`) || prev(lines[n+1]) != field(lines[n], `"hash":"`) || bytes.Contains(lines[n], []byte("worker started")) {
			continue
		}
		line := lines[n][:bytes.LastIndex(lines[n], []byte(`,"hash":"`))]
		line = bytes.Replace(line, []byte(`"time":"2`), []byte(`"time":"3`), 1)
		forged := append(bytes.Clone(line), fmt.Sprintf(`,"hash":"%x"}`+"\n", sha256.Sum256(line))...)
		return bytes.Join(append(append(append([][]byte{}, lines[:n+1]...), forged), lines[n+1:]...), nil)
	}
	return nil
}

// field gives the 64 digits after a name.
func field(line []byte, name string) string {
	_, rest, found := bytes.Cut(line, []byte(name))
	if !found || len(rest) < 64 {
		return ""
	}
	return string(rest[:64])
}

// checkRecipe runs what docs/service.md tells people to verify an audit with: it
// holds for what was written, and for nothing that was made of it.
func checkRecipe(t *testing.T, audit []byte) {
	t.Helper()
	doc, err := os.ReadFile("../../docs/service.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "```python\n")
	recipe, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("docs/service.md has no recipe")
	}
	verify := func(audit []byte) (string, error) {
		cmd := exec.Command("python3", "-c", recipe)
		cmd.Stdin = bytes.NewReader(audit)
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	if said, err := verify(audit); err != nil || said != "whole" {
		t.Errorf("the audit as it was written: %v: %s", err, said)
	}
	lines := bytes.SplitAfter(bytes.TrimSuffix(audit, []byte("\n")), []byte("\n"))
	if len(lines) < 8 {
		t.Fatalf("only %d lines", len(lines))
	}
	middle := len(lines) / 2
	changed := bytes.Clone(audit)
	changed[bytes.Index(changed, []byte(`"kind":"`))+len(`"kind":"`)] ^= 1
	without := bytes.Join(append(append([][]byte{}, lines[:middle]...), lines[middle+1:]...), nil)
	twice := bytes.Join(append(append(append([][]byte{}, lines[:middle+1]...), lines[middle]), lines[middle+1:]...), nil)
	for what, c := range map[string]struct {
		audit []byte
		want  string
	}{
		"changed": {changed, "line 1 is not as it was written"},
		"cut out": {without, "follows a line that is not there"},
		"twice":   {twice, "is there twice"},
		"of two":  {branched(lines), "follows a line that another one follows"},
	} {
		if said, err := verify(c.audit); err == nil || !strings.Contains(said, c.want) {
			t.Errorf("%s: %v: %q, want %q", what, err, said, c.want)
		}
	}
}
