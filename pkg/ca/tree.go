package ca

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Bounds of what is copied from the host.
const (
	maxTreeDepth   = 6
	maxTreeEntries = 20_000
	maxTreeBytes   = 128 << 20
)

// errTreeTooLarge says that a directory that should hold certificates does not
// look like one.
var errTreeTooLarge = errors.New("more than certificates")

// A tree is the wanted content of a directory: slash-separated relative paths
// to files and links. Directories exist where something is in them.
type tree map[string]node

// A node is a file, or a link where link is not empty.
type node struct {
	data []byte
	link string
}

// copyTree reads a directory of the host such that the copy needs nothing
// outside of it: links out of the directory become copies of what they point
// to, links inside stay links. Left out are what not everybody may read, what
// is neither file nor directory, and links to nothing.
func (r hostRoot) copyTree(dir string) (tree, error) {
	out := make(tree)
	c := treeCopy{root: r, top: dir, out: out}
	if err := c.dir(dir, "", 0); err != nil {
		return nil, fmt.Errorf("copy %s: %w", dir, err)
	}
	return out, nil
}

type treeCopy struct {
	root  hostRoot
	top   string
	out   tree
	bytes int
}

// dir copies what is in from to the path to of the copy.
func (c *treeCopy) dir(from, to string, depth int) error {
	if depth > maxTreeDepth {
		return fmt.Errorf("%s: %w: deeper than %d directories", from, errTreeTooLarge, maxTreeDepth)
	}
	entries, err := os.ReadDir(c.root.real(from))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if len(c.out) >= maxTreeEntries {
			return fmt.Errorf("%w: over %d files", errTreeTooLarge, maxTreeEntries)
		}
		if err := c.entry(path.Join(from, entry.Name()), path.Join(to, entry.Name()), entry.Type(), depth); err != nil {
			// The host changes while we read: what went away is not an error.
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errLinks) {
				continue
			}
			return err
		}
	}
	return nil
}

func (c *treeCopy) entry(from, to string, kind fs.FileMode, depth int) error {
	if kind&fs.ModeSymlink != 0 {
		target, err := os.Readlink(c.root.real(from))
		if err != nil {
			return err
		}
		if c.staysInside(from, target) {
			c.out[to] = node{link: target}
			return nil
		}
	}
	at, err := c.root.resolve(from)
	if err != nil {
		return err
	}
	switch {
	case !at.public:
		return nil
	case at.info.IsDir():
		return c.dir(at.path, to, depth+1)
	case !at.info.Mode().IsRegular():
		return nil
	}
	data, err := c.root.read(at.path)
	if err != nil {
		return err
	}
	if c.bytes += len(data); c.bytes > maxTreeBytes {
		return fmt.Errorf("%w: over %d bytes", errTreeTooLarge, maxTreeBytes)
	}
	c.out[to] = node{data: data}
	return nil
}

// staysInside reports whether a link can be kept as it is: relative, and its
// next hop is in the copied directory itself (not in a directory that came in
// through another link, where ".." means something else).
func (c *treeCopy) staysInside(from, target string) bool {
	if path.IsAbs(target) {
		return false
	}
	if _, ok := within(c.top, from); !ok {
		return false
	}
	hop := path.Join(path.Dir(from), target)
	if rel, ok := within(c.top, hop); !ok || rel == "." {
		return false
	}
	_, err := os.Lstat(c.root.real(hop))
	return err == nil
}

// follow gives the path of the file that p leads to through the tree's links.
func (t tree) follow(p string) (string, bool) {
	for range 8 {
		n, ok := t[p]
		if !ok {
			return "", false
		}
		if n.link == "" {
			return p, true
		}
		p = path.Join(path.Dir(p), n.link)
	}
	return "", false
}

// prune drops links that lead to nothing: what they pointed to was left out.
func (t tree) prune() {
	for p, n := range t {
		if n.link == "" {
			continue
		}
		hop := path.Join(path.Dir(p), n.link)
		if _, ok := t.follow(p); !ok && !t.hasDir(hop) {
			delete(t, p)
		}
	}
}

func (t tree) hasDir(dir string) bool {
	for p := range t {
		if strings.HasPrefix(p, dir+"/") {
			return true
		}
	}
	return false
}

// write makes the directory at dest hold exactly t. An existing directory keeps
// its inode, and so does each directory in it: a mount of it shows the new
// content. Files are put in place by rename, before anything is removed, so
// that a reader finds the old one or the new one. What is named in except stays
// as it is.
func (t tree) write(dest string, except ...string) error {
	if err := makeDir(dest); err != nil {
		return err
	}
	dirs := map[string]bool{".": true}
	for p := range t {
		for d := path.Dir(p); !dirs[d]; d = path.Dir(d) {
			dirs[d] = true
		}
	}
	ordered := make([]string, 0, len(dirs))
	for d := range dirs {
		ordered = append(ordered, d)
	}
	slices.Sort(ordered) // parents before children
	for _, d := range ordered {
		if err := makeDir(filepath.Join(dest, d)); err != nil {
			return err
		}
	}
	// Files before the links to them.
	for _, links := range []bool{false, true} {
		for p, n := range t {
			if (n.link != "") != links {
				continue
			}
			if err := n.write(filepath.Join(dest, p)); err != nil {
				return err
			}
		}
	}
	return t.removeOthers(dest, ".", dirs, except)
}

func (t tree) removeOthers(dest, dir string, dirs map[string]bool, except []string) error {
	entries, err := os.ReadDir(filepath.Join(dest, dir))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		p := path.Join(dir, entry.Name())
		_, wanted := t[p]
		switch {
		case wanted, slices.Contains(except, p):
		case dirs[p]:
			err = t.removeOthers(dest, p, dirs, except)
		default:
			err = os.RemoveAll(filepath.Join(dest, p))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// makeDir makes sure that dir is a directory that everybody may read, whatever
// the umask. Missing parents are made the same way; those that exist are not
// ours to change.
func makeDir(dir string) error {
	st, err := os.Lstat(dir)
	switch {
	case err == nil && st.IsDir():
		if mode := st.Mode().Perm(); mode&0o755 != 0o755 {
			return os.Chmod(dir, mode|0o755)
		}
		return nil
	case err == nil: // something else took the name
		if err := os.Remove(dir); err != nil {
			return err
		}
	}
	if parent := filepath.Dir(dir); parent != dir {
		if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
			if err := makeDir(parent); err != nil {
				return err
			}
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// write puts one node in place unless it is there already.
func (n node) write(dest string) error {
	st, err := os.Lstat(dest)
	exists := err == nil
	if exists && n.same(dest, st) {
		return nil
	}
	if exists && st.IsDir() {
		if err := os.RemoveAll(dest); err != nil {
			return err
		}
		exists = false
	}
	at := dest
	if exists {
		at = filepath.Join(filepath.Dir(dest), ".new-"+filepath.Base(dest))
		if err := os.RemoveAll(at); err != nil {
			return err
		}
	}
	if n.link != "" {
		err = os.Symlink(n.link, at)
	} else {
		err = writePublic(at, n.data)
	}
	if err == nil && exists {
		err = os.Rename(at, dest)
	}
	if err != nil && exists {
		os.Remove(at)
	}
	return err
}

func (n node) same(dest string, st fs.FileInfo) bool {
	if n.link != "" {
		target, err := os.Readlink(dest)
		return err == nil && target == n.link
	}
	if !st.Mode().IsRegular() || st.Size() != int64(len(n.data)) || st.Mode().Perm() != 0o644 {
		return false
	}
	data, err := os.ReadFile(dest)
	return err == nil && bytes.Equal(data, n.data)
}

// writePublic writes a new file that everybody may read, whatever the umask.
func writePublic(p string, data []byte) error {
	f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(0o644), f.Close())
}
