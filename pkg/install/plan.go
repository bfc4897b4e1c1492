package install

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"sallyport/pkg/wholefile"
	"sallyport/systemd"
)

// An Action is what is to be done with one file.
type Action string

const (
	// Create puts down a file that is not there.
	Create Action = "create"
	// Replace puts another content in its place.
	Replace Action = "replace"
	// Keep leaves a configuration that somebody has edited.
	Keep Action = "keep"
	// Same leaves what is as it must be.
	Same Action = "same"
)

// A Step is one file and what is to be done with it.
type Step struct {
	File   File
	Action Action
}

// ErrPackaged says that the files belong to a package manager.
var ErrPackaged = errors.New("a package has installed sallyport here")

// A Target is a file system to install on.
type Target struct {
	// Root is the directory that stands for "/"; empty means "/".
	Root string
	// Binary is the file that becomes Binary on the host.
	Binary string
	// State is where it is remembered what the configuration was when it was put
	// down, so that one which nobody edited follows a newer version.
	State string
}

func (t *Target) path(p string) string { return filepath.Join("/", t.Root, p) }

// maxFile bounds a file that is put down or replaced, in bytes: the largest is the
// binary, of some 30 MB.
const maxFile = 256 << 20

// checksumFile is the file below State that holds the checksum of the
// configuration that was put down.
const checksumFile = "installed-config.sha256"

// Packaged returns ErrPackaged where a package manager put the files there.
func (t *Target) Packaged() error {
	if _, err := os.Lstat(t.path(PackageMark)); err == nil {
		return fmt.Errorf("%w (%s): use its package manager", ErrPackaged, PackageMark)
	}
	return nil
}

// Plan compares the host with Files and changes nothing. It returns ErrPackaged
// where a package manager put them there.
func (t *Target) Plan() ([]Step, error) {
	if err := t.Packaged(); err != nil {
		return nil, err
	}
	var steps []Step
	for _, f := range Files() {
		want, err := t.content(f)
		if err != nil {
			return nil, err
		}
		s := Step{f, Create}
		have, err := wholefile.Read(t.path(f.Path), maxFile)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case bytes.Equal(have, want):
			s.Action = Same
		case f.Config && t.remembered() != sum(have):
			s.Action = Keep
		default:
			s.Action = Replace
		}
		steps = append(steps, s)
	}
	return steps, nil
}

// Apply does what the plan says. Each file appears whole, by a rename; what runs
// from a replaced one goes on.
func (t *Target) Apply(steps []Step) error {
	if err := t.rememberDirectories(steps); err != nil {
		return err
	}
	for _, s := range steps {
		if s.Action == Keep {
			continue
		}
		content, err := t.content(s.File)
		if err != nil {
			return err
		}
		// The mode of a file with the right content may be wrong.
		if err := put(t.path(s.File.Path), content, s.File.Mode, s.Action == Same); err != nil {
			return fmt.Errorf("install %s: %w", s.File.Path, err)
		}
		if s.File.Config {
			if err := put(t.path(filepath.Join(t.State, checksumFile)), []byte(sum(content)+"\n"), 0o644, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// Remove deletes the files, and the directories that are ours alone and empty by
// then. The configuration stays unless purge is set; so does what a package
// manager put there.
func (t *Target) Remove(purge bool) error {
	if err := t.Packaged(); err != nil {
		return err
	}
	files := Files()
	var errs []error
	// The binary is the first of the list and goes last: a removal that failed can
	// be tried again.
	for i := len(files) - 1; i >= 0; i-- {
		f := files[i]
		if f.Config && !purge {
			continue
		}
		errs = append(errs, removeFile(t.path(f.Path)))
	}
	if purge {
		errs = append(errs, os.RemoveAll(t.path(filepath.Dir(Config))))
	}
	made := t.madeDirectories()
	for _, name := range []string{checksumFile, directoriesFile} {
		errs = append(errs, removeFile(t.path(filepath.Join(t.State, name))))
	}
	for _, dir := range append(append(made, directories()...), t.State) {
		if err := os.Remove(t.path(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// content is what a file is to hold.
func (t *Target) content(f File) ([]byte, error) {
	if f.Source == "" {
		return wholefile.Read(t.Binary, maxFile)
	}
	return systemd.Files.ReadFile(f.Source)
}

// remembered is the checksum of the configuration that was put down last; empty
// where there was none.
func (t *Target) remembered() string {
	data, err := os.ReadFile(t.path(filepath.Join(t.State, checksumFile)))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// put writes a file; with same the content is right already.
func put(path string, content []byte, mode fs.FileMode, same bool) error {
	if same {
		st, err := os.Stat(path)
		if err != nil || st.Mode().Perm() == mode {
			return err
		}
		return os.Chmod(path, mode)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return wholefile.Write(path, content, mode)
}
