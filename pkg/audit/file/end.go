package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// An End is how the audit ended so far.
type End struct {
	// Line is the end (at most EndBytes) of the last whole line of the newest
	// file that has one, with its newline; empty where there is none. The worker
	// continues the chain from it.
	Line []byte
	// Torn: the present file ends in the middle of a line.
	Torn bool
}

const (
	// EndBytes is how much of the last line End gives.
	EndBytes = 128
	// searchBytes bounds how far back End looks for a newline: no audit line is
	// longer.
	searchBytes = 3 << 20
)

// End looks at the end of the present file and, where that holds no whole line,
// of path.1.
func (f *Files) End() (End, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	end, err := f.endOf(f.base)
	if err != nil || len(end.Line) > 0 {
		return end, err
	}
	before, err := f.endOf(f.numbered(1))
	if err != nil {
		// The chain begins anew then; what was written stays readable.
		return end, nil
	}
	end.Line = before.Line
	return end, nil
}

func (f *Files) endOf(name string) (End, error) {
	fd, err := unix.Openat(f.fd(), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return End{}, nil
	}
	if err != nil {
		return End{}, fmt.Errorf("open audit file %s: %w", f.path(name), err)
	}
	file := os.NewFile(uintptr(fd), f.path(name))
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return End{}, fmt.Errorf("open audit file %s: %w", f.path(name), err)
	}
	size := info.Size()
	if !info.Mode().IsRegular() || size == 0 {
		return End{}, nil
	}
	from := max(0, size-EndBytes)
	tail, err := readAt(file, from, size)
	if err != nil {
		return End{}, err
	}
	if tail[len(tail)-1] == '\n' {
		return End{Line: tail}, nil
	}
	from = max(0, size-searchBytes-EndBytes)
	if tail, err = readAt(file, from, size); err != nil {
		return End{}, err
	}
	whole := tail[:bytes.LastIndexByte(tail, '\n')+1]
	return End{Line: bytes.Clone(whole[max(0, len(whole)-EndBytes):]), Torn: true}, nil
}

func readAt(file *os.File, from, to int64) ([]byte, error) {
	b := make([]byte, to-from)
	n, err := file.ReadAt(b, from)
	if err != nil && !errors.Is(err, io.EOF) || n == 0 {
		return nil, fmt.Errorf("read audit file %s: %w", file.Name(), errors.Join(err, io.ErrUnexpectedEOF))
	}
	return b[:n], nil
}
