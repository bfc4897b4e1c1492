package main

import (
	"fmt"
	"os"
	"strings"
)

// latestRun is the chapter that a run replaces.
const latestRun = "## Latest run\n"

// updateChapter writes a run into the chapter of a Markdown file and leaves the
// rest as it is.
func updateChapter(path, run string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	replaced, err := replaceChapter(string(text), run)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(replaced), 0o644)
}

// replaceChapter replaces what stands between the chapter's heading and the
// next one of its level.
func replaceChapter(text, run string) (string, error) {
	before, rest, found := strings.Cut(text, latestRun)
	if !found || (before != "" && !strings.HasSuffix(before, "\n")) {
		return "", fmt.Errorf("no chapter %q", strings.TrimSpace(latestRun))
	}
	after := ""
	if i := strings.Index(rest, "\n## "); i >= 0 {
		after = rest[i:]
	}
	return before + latestRun + "\n" + strings.TrimSpace(run) + "\n" + after, nil
}
