package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// ErrRestart is what a Sink returns from Write, with n = 0, when it had taken
// only a part of a line and has exchanged what it writes to: the caller goes back
// to the start of that line.
var ErrRestart = errors.New("the file was exchanged in the middle of a line")

// A Sink takes lines in order. Write may be given several whole lines and may
// take only a part of them together with an error; the next call then goes on
// exactly where it stopped. Only Log.Run calls it, one call at a time. It must
// not wait much longer than a second.
type Sink interface {
	// Name is the value of the label `sink` in audit_failures_total.
	Name() string
	io.Writer
}

// A LimitedSink takes no line longer than MaxLine bytes; 0 is no limit. Longer ones lose bodies
// and headers, then the rest of the section http, and say so by `truncated`.
type LimitedSink interface {
	Sink
	MaxLine() int
}

// A Rotator gives descriptors of the audit file; the privileged process is
// behind it. A call that cannot succeed in a few seconds must fail: nothing is
// written meanwhile.
type Rotator interface {
	// Rotate puts the present file aside and gives an empty one.
	Rotate(ctx context.Context) (*os.File, error)
	// Reopen gives the file that has the audit's name now, made if there is
	// none: after somebody else has moved or removed the one that we write to.
	Reopen(ctx context.Context) (*os.File, error)
}

// FileSinkOptions says how a FileSink works.
type FileSinkOptions struct {
	// File is open for appending (O_APPEND); the sink owns it. Required.
	File *os.File
	// Torn: the file ends in the middle of a line (a crash); the first write
	// ends that line, so that it is one unreadable line and not two.
	Torn bool
	// MaxSize is the size in bytes from which on the file is rotated, between
	// two lines; 0 = never.
	MaxSize int64
	// Rotator is required with MaxSize, else optional.
	Rotator Rotator
}

// FileSink appends to a file that the privileged process has opened. A rotation
// that fails is tried again every 5 s and the old file is used meanwhile:
// growing beyond max_size is better than losing events.
type FileSink struct {
	file    *os.File
	size    int64
	torn    bool // the file ends in the middle of somebody's line
	midLine bool // and this, of ours
	maxSize int64
	rotator Rotator

	reopen    atomic.Bool
	checked   time.Time // when the file was last seen to have a name
	noAttempt time.Time // no rotation before
	trouble   atomic.Pointer[error]
}

// The intervals of FileSink.
const (
	nameCheckEvery = time.Second
	rotateRetry    = 5 * time.Second
	rotateTimeout  = 5 * time.Second
)

// NewFileSink makes a sink of an open file.
func NewFileSink(o FileSinkOptions) (*FileSink, error) {
	switch {
	case o.File == nil:
		return nil, errors.New("audit: no file")
	case o.MaxSize > 0 && o.Rotator == nil:
		return nil, errors.New("audit: a maximum size without somebody who rotates")
	}
	info, err := o.File.Stat()
	if err != nil {
		return nil, fmt.Errorf("audit file: %w", err)
	}
	return &FileSink{file: o.File, size: info.Size(), torn: o.Torn, maxSize: o.MaxSize, rotator: o.Rotator}, nil
}

var _ Sink = (*FileSink)(nil)

// Name is "file".
func (s *FileSink) Name() string { return "file" }

// Reopen asks for the file to be opened anew before the next write, for a
// logrotate that moves files by itself and then sends SIGHUP. Any goroutine may
// call it.
func (s *FileSink) Reopen() { s.reopen.Store(true) }

// Trouble is why the last rotation or reopening failed, nil when all is well.
// Any goroutine may call it.
func (s *FileSink) Trouble() error {
	if err := s.trouble.Load(); err != nil {
		return *err
	}
	return nil
}

// Write appends p. Errors are those of write(2), as ENOSPC, EDQUOT, EIO, EFBIG,
// and ErrRestart.
func (s *FileSink) Write(p []byte) (int, error) {
	if s.renew(int64(len(p))) && s.midLine {
		s.midLine = false
		return 0, ErrRestart
	}
	if s.torn {
		if _, err := s.file.Write([]byte{'\n'}); err != nil {
			return 0, err
		}
		s.torn = false
		s.size++
	}
	n, err := s.file.Write(p)
	s.size += int64(n)
	if n > 0 {
		s.midLine = p[n-1] != '\n'
	}
	return n, err
}

// renew exchanges the file where it is full, or has lost its name: lines
// written to a removed file would vanish without an error, and while it is held
// its space is not free either. It reports whether there is another file now.
func (s *FileSink) renew(more int64) bool {
	if s.rotator == nil {
		return false
	}
	now := time.Now()
	if now.Before(s.noAttempt) {
		return false
	}
	moved := s.reopen.Swap(false)
	if !moved && now.Sub(s.checked) >= nameCheckEvery {
		s.checked = now
		moved = nameless(s.file)
	}
	var take func(context.Context) (*os.File, error)
	switch {
	case moved:
		take = s.rotator.Reopen
	case s.maxSize > 0 && s.size > 0 && s.size+more > s.maxSize:
		take = s.rotator.Rotate
	default:
		return false
	}
	old := s.file
	if err := s.exchange(take); err != nil {
		s.noAttempt = now.Add(rotateRetry)
		s.reopen.Store(moved)
		s.setTrouble(err)
		return false
	}
	// The kernel may report a delayed write error only here (NFS, quota).
	s.setTrouble(old.Close())
	return true
}

func (s *FileSink) exchange(take func(context.Context) (*os.File, error)) error {
	ctx, cancel := context.WithTimeout(context.Background(), rotateTimeout)
	defer cancel()
	file, err := take(ctx)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	s.file, s.size, s.torn = file, info.Size(), false
	return nil
}

func (s *FileSink) setTrouble(err error) {
	if err == nil {
		s.trouble.Store(nil)
		return
	}
	err = fmt.Errorf("audit file cannot be renewed: %w", err)
	s.trouble.Store(&err)
}

// Close closes the file; after Log.Run has returned.
func (s *FileSink) Close() error { return s.file.Close() }

// nameless reports whether no directory entry leads to the file any more.
func nameless(f *os.File) bool {
	info, err := f.Stat()
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink == 0
}
