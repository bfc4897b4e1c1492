package ca

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"sallyport/pkg/wholefile"
)

// A hostRoot is the file system whose certificates are copied: "/" in
// production, a directory that looks like another distribution in tests.
// Absolute links in it are taken relative to it.
type hostRoot string

// A resolved path has no link in it.
type resolved struct {
	path string // absolute, as seen inside the root
	info fs.FileInfo
	// public is set where everybody may reach and read it. What is not public
	// must not become so by a copy (a key beside the certificates).
	public bool
}

// errLinks is a path with more links than Linux follows (MAXSYMLINKS, 40).
var errLinks = errors.New("too many levels of symbolic links")

func (r hostRoot) real(p string) string { return filepath.Join(string(r), p) }

// resolve follows every link of the absolute path p.
func (r hostRoot) resolve(p string) (resolved, error) {
	pending := strings.Split(path.Clean("/"+p), "/")[1:]
	cur := "/"
	out := resolved{public: true}
	for links := 0; len(pending) > 0; {
		name := pending[0]
		pending = pending[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			cur = path.Dir(cur)
			continue
		}
		next := path.Join(cur, name)
		info, err := os.Lstat(r.real(next))
		if err != nil {
			return resolved{}, err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			if info.IsDir() && info.Mode().Perm()&0o001 == 0 {
				out.public = false
			}
			cur = next
			continue
		}
		if links++; links > 40 {
			return resolved{}, fmt.Errorf("%s: %w", p, errLinks)
		}
		target, err := os.Readlink(r.real(next))
		if err != nil {
			return resolved{}, err
		}
		if path.IsAbs(target) {
			cur = "/"
		}
		pending = append(strings.Split(target, "/"), pending...)
	}
	// The last step may have been ".." or a link: ask for what cur is.
	info, err := os.Lstat(r.real(cur))
	if err != nil {
		return resolved{}, err
	}
	if info.Mode().Perm()&0o004 == 0 {
		out.public = false
	}
	out.path, out.info = cur, info
	return out, nil
}

// read gives the content of a regular file without links in its path. It never
// blocks on what is no regular file.
func (r hostRoot) read(p string) ([]byte, error) {
	f, _, err := wholefile.Open(r.real(p), unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return wholefile.ReadAll(f, maxFile)
}

// within gives the path of p relative to dir if p lies in it.
func within(dir, p string) (string, bool) {
	if p == dir {
		return ".", true
	}
	return strings.CutPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}
