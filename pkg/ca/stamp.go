package ca

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stampFormat changes when the content of a trust directory changes for the
// same host files, so that a newer sallyport makes its directory anew.
const stampFormat = "1"

// stampSuffix names the file that remembers, beside the shared directory, what
// it was made from. With it a further process needs no more than a look at the host's directories: to
// read and write hundreds of files takes most of the time that `exec` may need.
const stampSuffix = ".stamp"

// A stamp is what a directory was made from, and what is not seen in it.
type stamp struct {
	signature string
	java      bool
}

func (s stamp) String() string { return fmt.Sprintf("%s %t\n", s.signature, s.java) }

// write puts the stamp where there is none.
func (s stamp) write(p string) error {
	fresh := p + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := writePublic(fresh, []byte(s.String())); err != nil {
		return err
	}
	return os.Rename(fresh, p)
}

// readStamp gives the empty stamp, which fits nothing, for what is not one.
func readStamp(p string) stamp {
	data, err := os.ReadFile(p)
	if err != nil {
		return stamp{}
	}
	signature, java, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
	s := stamp{signature: signature, java: java == "true"}
	if s.String() != string(data) {
		return stamp{}
	}
	return s
}

// signature sums up the host's certificate files without reading them: inode,
// size and times of change of each, through the links. The boot is part of it:
// nothing is synced, so that after a crash the files may not be what was
// written.
func (r hostRoot) signature(ours authority) string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		boot = fmt.Append(nil, time.Now()) // never the same
	}
	s := signer{root: r, hash: sha256.New(), left: maxTreeEntries}
	fmt.Fprintf(s.hash, "%s %s %x\n", stampFormat, boot, sha256.Sum256(ours.pem))
	for _, dir := range r.places() {
		fmt.Fprintf(s.hash, "place %q\n", dir)
		s.dir(dir, 0)
	}
	for _, p := range wellKnownBundles() {
		s.file(p, true)
	}
	return hex.EncodeToString(s.hash.Sum(nil))
}

type signer struct {
	root    hostRoot
	hash    hash.Hash
	left    int // entries that may still be looked at
	scratch []byte
}

func (s *signer) dir(dir string, depth int) {
	entries, err := os.ReadDir(s.root.real(dir))
	if err != nil || depth > maxTreeDepth {
		fmt.Fprintf(s.hash, "unreadable %q\n", dir)
		return
	}
	for _, entry := range entries {
		if s.left--; s.left < 0 {
			return
		}
		p := path.Join(dir, entry.Name())
		s.file(p, entry.Type()&fs.ModeSymlink != 0)
		if entry.IsDir() {
			s.dir(p, depth+1)
		}
	}
}

// file adds a file, and for a link also what it leads to: a directory by its
// entries, whose links are not followed further.
func (s *signer) file(p string, link bool) {
	s.stat(p, unix.AT_SYMLINK_NOFOLLOW)
	if !link {
		return
	}
	target := p
	if s.root != "/" {
		// Absolute links are relative to the root, which the kernel does not know.
		at, err := s.root.resolve(p)
		if err != nil {
			return
		}
		target = at.path
	}
	if mode := s.stat(target, 0); mode&unix.S_IFMT != unix.S_IFDIR {
		return
	}
	entries, err := os.ReadDir(s.root.real(target))
	if err != nil {
		return
	}
	for _, entry := range entries {
		if s.left--; s.left < 0 {
			return
		}
		s.stat(path.Join(target, entry.Name()), unix.AT_SYMLINK_NOFOLLOW)
	}
}

// stat adds what changes whenever a file does, and gives its mode; 0 for none.
func (s *signer) stat(p string, flags int) uint32 {
	var st unix.Stat_t
	if err := unix.Fstatat(unix.AT_FDCWD, s.root.real(p), &st, flags); err != nil {
		st = unix.Stat_t{}
	}
	b := append(s.scratch[:0], p...)
	for _, v := range []uint64{0, st.Dev, st.Ino, uint64(st.Mode), uint64(st.Size), uint64(st.Ctim.Sec), uint64(st.Ctim.Nsec)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	s.hash.Write(b)
	s.scratch = b
	return st.Mode
}
