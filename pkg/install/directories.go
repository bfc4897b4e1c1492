package install

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"sallyport/pkg/wholefile"
)

// directoriesFile is the file below State that lists the directories which were not
// there before the first installation, one a line: a completion's shell may never
// have been on this host.
const directoriesFile = "installed-directories"

// rememberDirectories adds the directories that the steps are going to make to
// those of earlier times.
func (t *Target) rememberDirectories(steps []Step) error {
	made := t.madeDirectories()
	before := len(made)
	for _, s := range steps {
		for dir := path.Dir(s.File.Path); dir != "/"; dir = path.Dir(dir) {
			if _, err := os.Lstat(t.path(dir)); err == nil {
				break
			}
			if !slices.Contains(made, dir) {
				made = append(made, dir)
			}
		}
	}
	if len(made) == before {
		return nil
	}
	at := t.path(filepath.Join(t.State, directoriesFile))
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	return wholefile.Write(at, []byte(strings.Join(made, "\n")+"\n"), 0o644)
}

// madeDirectories gives the directories that installations have made, what is below
// another one first. A line that is no path is passed over.
func (t *Target) madeDirectories() []string {
	data, err := os.ReadFile(t.path(filepath.Join(t.State, directoriesFile)))
	if err != nil {
		return nil
	}
	var made []string
	for line := range strings.Lines(string(data)) {
		if dir := strings.TrimSuffix(line, "\n"); path.IsAbs(dir) && path.Clean(dir) == dir && dir != "/" {
			made = append(made, dir)
		}
	}
	slices.SortFunc(made, func(a, b string) int { return len(b) - len(a) })
	return made
}
