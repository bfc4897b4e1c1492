package audit

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Reader gives the events of one stream of lines.
type Reader struct {
	lines *bufio.Reader
	line  []byte
	n     int
}

// NewReader reads lines from r.
func NewReader(r io.Reader) *Reader { return &Reader{lines: bufio.NewReaderSize(r, 64<<10)} }

// A LineError is a line that is no event: torn by a crash, or foreign. The
// Reader can go on after it.
type LineError struct {
	// Line counts from 1.
	Line int
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap gives the cause.
func (e *LineError) Unwrap() error { return e.Err }

// ErrLongLine: a line is longer than MaxLine, so no Log wrote it.
var ErrLongLine = errors.New("the line is longer than any audit event")

// Next reads the next event into e and gives its line without newline, valid
// until the next call. Errors: io.EOF at the end, *LineError for a line that can
// be passed over, else the stream's own.
func (r *Reader) Next(e *Event) ([]byte, error) {
	line, err := r.read()
	if err != nil {
		return nil, err
	}
	r.n++
	if line == nil {
		return nil, &LineError{Line: r.n, Err: ErrLongLine}
	}
	if err := Decode(line, e); err != nil {
		return nil, &LineError{Line: r.n, Err: err}
	}
	return line, nil
}

// read gives a line, nil for one that is too long.
func (r *Reader) read() ([]byte, error) {
	r.line = r.line[:0]
	long := false
	for {
		part, err := r.lines.ReadSlice('\n')
		if !long {
			r.line = append(r.line, part...)
			long = len(r.line) > MaxLine
		}
		switch {
		case err == nil:
			if long {
				return nil, nil
			}
			return r.line[:len(r.line)-1], nil
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(r.line) > 0:
			if long {
				return nil, nil
			}
			return r.line, nil // torn, or still being written
		default:
			return nil, err
		}
	}
}

// Files is an audit file with its rotated predecessors, opened so that a
// rotation in between loses and repeats nothing.
type Files struct {
	files []*os.File // oldest first
}

// OpenFiles opens path and its rotated files path.1, path.2 … (a crash can leave
// a number free), leaving out those whose last line is older than since (by
// their modification time; zero: none). It fails where there is no file.
func OpenFiles(path string, since time.Time) (*Files, error) {
	highest, err := highestNumber(path)
	if err != nil {
		return nil, err
	}
	f := &Files{}
	var (
		seen    []fs.FileInfo
		missing error
	)
	// Upwards, as a rotation meanwhile moves a file to the number that is asked
	// next: what has moved is met twice and taken once.
	for n := 0; n <= highest+1; n++ {
		file, info, err := openNumbered(path, n)
		if errors.Is(err, fs.ErrNotExist) {
			missing = cmp.Or(missing, err)
			continue
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if n > 0 && info.ModTime().Before(since) || slices.ContainsFunc(seen, func(s fs.FileInfo) bool { return os.SameFile(s, info) }) {
			file.Close()
			continue
		}
		seen = append(seen, info)
		f.files = append(f.files, file)
	}
	if len(f.files) == 0 {
		return nil, missing
	}
	slices.Reverse(f.files)
	return f, nil
}

func openNumbered(path string, n int) (*os.File, fs.FileInfo, error) {
	if n > 0 {
		path = RotatedName(path, n)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return file, info, nil
}

// highestNumber looks for rotated files in the directory of path.
func highestNumber(path string) (int, error) {
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(cmp.Or(dir, "."))
	if err != nil {
		return 0, err
	}
	highest := 0
	for _, e := range entries {
		text, found := strings.CutPrefix(e.Name(), base+".")
		if n, err := strconv.Atoi(text); found && err == nil && n > highest && n < maxNumber && RotatedName(base, n) == e.Name() {
			highest = n
		}
	}
	return highest, nil
}

// maxNumber bounds the numbers that are tried: more files than that nobody keeps.
const maxNumber = 1 << 16

// RotatedName is the name of the n-th newest rotated file of path.
func RotatedName(path string, n int) string { return path + "." + strconv.Itoa(n) }

// Each calls visit for each event, oldest first, until it returns false. Lines
// that are no event go to bad with the name of their file; nil passes over them
// silently.
func (f *Files) Each(visit func(line []byte, e *Event) bool, bad func(file string, err *LineError)) error {
	for _, file := range f.files {
		r := NewReader(file)
		for {
			var e Event
			line, err := r.Next(&e)
			var wrong *LineError
			switch {
			case errors.As(err, &wrong):
				if bad != nil {
					bad(file.Name(), wrong)
				}
				continue
			case errors.Is(err, io.EOF):
			case err != nil:
				return fmt.Errorf("%s: %w", file.Name(), err)
			case !visit(line, &e):
				return nil
			}
			if err != nil {
				break
			}
		}
	}
	return nil
}

// Close closes the files.
func (f *Files) Close() error {
	var errs []error
	for _, file := range f.files {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}
