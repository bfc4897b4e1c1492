package file_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/pkg/audit/file"
)

// rotator asks the keeper's half directly.
type rotator struct{ files *file.Files }

func (r rotator) Rotate(context.Context) (*os.File, error) { return r.files.Rotate() }
func (r rotator) Reopen(context.Context) (*os.File, error) { return r.files.Descriptor() }

// A pair is both halves of one audit file.
type pair struct {
	path  string
	files *file.Files
	sink  *audit.FileSink
	log   *audit.Log
	stop  func() error
}

func begin(t *testing.T, path string, maxSize int64, maxFiles int, o audit.Options) *pair {
	t.Helper()
	p := &pair{path: path}
	var err error
	if p.files, err = file.Open(file.Options{Path: path, UID: -1, GID: -1, MaxFiles: maxFiles}); err != nil {
		t.Fatal(err)
	}
	end, err := p.files.End()
	if err != nil {
		t.Fatal(err)
	}
	descriptor, err := p.files.Descriptor()
	if err != nil {
		t.Fatal(err)
	}
	if p.sink, err = audit.NewFileSink(audit.FileSinkOptions{File: descriptor, Torn: end.Torn, MaxSize: maxSize, Rotator: rotator{p.files}}); err != nil {
		t.Fatal(err)
	}
	o.Sink, o.End = p.sink, end.Line
	if p.log, err = audit.New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.log.Run(ctx) }()
	p.stop = sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-done, p.sink.Close(), p.files.Close())
	})
	t.Cleanup(func() { p.stop() })
	return p
}

// read gives all events of path and its rotated files and checks the chain
// across them; bad counts lines that are no event.
func read(t *testing.T, path string) (list []audit.Event, bad int) {
	t.Helper()
	files, err := audit.OpenFiles(path, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	prev := ""
	err = files.Each(func(line []byte, e *audit.Event) bool {
		if e.Prev != prev {
			t.Fatalf("event %d: prev is %q, the event before has %q", len(list), e.Prev, prev)
		}
		covered, _, _ := strings.Cut(string(line), `,"hash":`)
		if sum := sha256.Sum256([]byte(covered)); hex.EncodeToString(sum[:]) != e.Hash {
			t.Fatalf("event %d: wrong hash", len(list))
		}
		prev = e.Hash
		list = append(list, *e)
		return true
	}, func(string, *audit.LineError) { bad++ })
	if err != nil {
		t.Fatal(err)
	}
	return list, bad
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestRecordWhileRotating: many writers, a file that is rotated all the time;
// every event is there once, and the chain is whole across all files.
func TestRecordWhileRotating(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	p := begin(t, path, 4096, 10000, audit.Options{})
	const writers, each = 4, 1000
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				p.log.Record(&audit.Event{Kind: audit.Exchange, Message: fmt.Sprintf("%d/%d", w, i)})
				// Several batches, so several rotations, however seldom the host lets
				// the writer run.
				for i%50 == 0 && p.log.Stats().Sinks[0].QueueEvents > 0 {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	list, bad := read(t, path)
	seen := map[string]int{}
	for _, e := range list {
		seen[e.Message]++
	}
	if len(list) != writers*each || len(seen) != writers*each || bad != 0 {
		t.Errorf("%d events, %d different, %d bad lines; want %d", len(list), len(seen), bad, writers*each)
	}
	rotated, err := filepath.Glob(path + ".*")
	if err != nil || len(rotated) < 5 {
		t.Errorf("%d rotated files, %v", len(rotated), err)
	}
	// A file exceeds the size by a batch that is larger than it at most.
	if p.sink.Trouble() != nil {
		t.Error(p.sink.Trouble())
	}
}

func TestMaxSizeAndMaxFilesHold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	p := begin(t, path, 8192, 3, audit.Options{})
	for i := range 200 {
		p.log.Record(&audit.Event{Kind: audit.Exchange, Message: strings.Repeat("x", 300)})
		want := uint64(i + 1)
		eventually(t, "the queue is empty", func() bool {
			s := p.log.Stats()
			return s.Sinks[0].QueueEvents == 0 && s.Events[audit.Exchange] == want
		})
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob(path + "*")
	if err != nil || len(all) != 4 {
		t.Errorf("%d files, %v", len(all), err)
	}
	for _, name := range all {
		info, err := os.Stat(name)
		if err != nil || info.Size() > 8192 {
			t.Errorf("%s: %d bytes, %v", name, info.Size(), err)
		}
	}
}

func TestChainSurvivesRestartAndTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	record := func(message string) {
		p := begin(t, path, 2048, 100, audit.Options{})
		for i := range 10 {
			p.log.Record(&audit.Event{Kind: audit.Exchange, Message: message + strconv.Itoa(i)})
		}
		if err := p.stop(); err != nil {
			t.Fatal(err)
		}
	}
	record("a")
	record("b")
	// A crash in the middle of a line.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"time":"2026`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	record("c")
	list, bad := read(t, path)
	if len(list) != 30 || bad != 1 {
		t.Errorf("%d events, %d bad lines", len(list), bad)
	}
}

// TestFullDisk uses a real file system of 64 KiB.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a tmpfs needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	path := filepath.Join(dir, "audit.jsonl")
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 40<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	p := begin(t, path, 0, 0, audit.Options{OnFailure: audit.Block})
	const n = 60 // some 36 KiB, of which 24 fit
	for i := range n {
		p.log.Record(&audit.Event{Kind: audit.Exchange, Message: strings.Repeat("x", 400) + strconv.Itoa(i)})
	}
	eventually(t, "the full disk is noticed", func() bool { return p.log.Healthy() != nil })
	if err := p.log.Healthy(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("healthy: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the space is noticed", func() bool { return p.log.Healthy() == nil })
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	list, bad := read(t, path)
	if bad != 0 || len(list) != n+1 {
		t.Errorf("%d events, %d bad lines; want %d and 0", len(list), bad, n+1)
	}
	for i := range min(n, len(list)) {
		if !strings.HasSuffix(list[i].Message, "x"+strconv.Itoa(i)) {
			t.Errorf("event %d is %s", i, list[i].Message)
		}
	}
	if s := p.log.Stats().Sinks[0]; s.Failures == 0 || s.Lost != 0 {
		t.Errorf("%+v", s)
	}
}

// TestRemovedFile: an audit that somebody removes goes on under its name, also
// when the disk is full because we hold the removed one.
func TestRemovedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	p := begin(t, path, 0, 0, audit.Options{})
	p.log.Record(&audit.Event{Kind: audit.Exchange, Message: "first"})
	eventually(t, "written", func() bool { b, _ := os.ReadFile(path); return len(b) > 0 })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file is there again", func() bool {
		p.log.Record(&audit.Event{Kind: audit.Exchange, Message: "later"})
		_, err := os.Stat(path)
		return err == nil
	})
	if p.sink.Trouble() != nil {
		t.Error(p.sink.Trouble())
	}
}

func TestReopenAfterLogrotate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	p := begin(t, path, 0, 0, audit.Options{})
	p.log.Record(&audit.Event{Kind: audit.Exchange, Message: "first"})
	eventually(t, "written", func() bool { b, _ := os.ReadFile(path); return len(b) > 0 })
	if err := os.Rename(path, path+"-20260101"); err != nil {
		t.Fatal(err)
	}
	p.sink.Reopen()
	p.log.Record(&audit.Event{Kind: audit.Exchange, Message: "second"})
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || strings.Count(string(b), "\n") != 1 || !strings.Contains(string(b), "second") {
		t.Errorf("%s, %v", b, err)
	}
}

// broken is a keeper that does not answer.
type broken struct{}

func (broken) Rotate(context.Context) (*os.File, error) { return nil, errors.New("no keeper") }
func (broken) Reopen(context.Context) (*os.File, error) { return nil, errors.New("no keeper") }

func TestRotationThatFailsKeepsWriting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := audit.NewFileSink(audit.FileSinkOptions{File: f, MaxSize: 10, Rotator: broken{}})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	for range 3 {
		if n, err := sink.Write([]byte("0123456789\n")); n != 11 || err != nil {
			t.Fatal(n, err)
		}
	}
	if sink.Trouble() == nil || !strings.Contains(sink.Trouble().Error(), "no keeper") {
		t.Errorf("trouble: %v", sink.Trouble())
	}
	if b, _ := os.ReadFile(path); len(b) != 33 {
		t.Errorf("%d bytes", len(b))
	}
}

const crashEnv = "SALLYPORT_TEST_CRASH"

// TestMain is also the process that TestKilledWhileRotating kills.
func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		if err := writeNumbers(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writeNumbers appends numbered lines and rotates after every third, until it is
// killed. It goes on from the last number on disk.
func writeNumbers(path string) error {
	files, err := file.Open(file.Options{Path: path, UID: -1, GID: -1, MaxFiles: 1 << 20})
	if err != nil {
		return err
	}
	d, err := files.Descriptor()
	if err != nil {
		return err
	}
	end, err := files.End()
	if err != nil {
		return err
	}
	n := 0
	if text := strings.TrimSpace(string(end.Line)); text != "" {
		last := text[strings.LastIndexByte(text, '\n')+1:]
		if n, err = strconv.Atoi(last); err != nil {
			return err
		}
	}
	for {
		n++
		if _, err := d.WriteString(strconv.Itoa(n) + "\n"); err != nil {
			return err
		}
		if n%3 == 0 {
			next, err := files.Rotate()
			if err != nil {
				return err
			}
			d.Close()
			d = next
		}
	}
}

// TestKilledWhileRotating: whatever the moment of kill -9, every line is on disk
// once and in order, and the next process goes on.
func TestKilledWhileRotating(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log", "a")
	for round := range 15 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+path)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		before := numbersOn(t, path)
		eventually(t, "it writes", func() bool { return numbersOn(t, path) > before+10 })
		time.Sleep(time.Duration(round) * 173 * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if !cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
			t.Fatal("it ended by itself")
		}
	}
	// Oldest first. A number may be free, where a process was killed between two
	// renames.
	var names []string
	for n := range 1 << 15 { // more than it makes while the host lets us wait
		if _, err := os.Stat(audit.RotatedName(path, n+1)); err == nil {
			names = append([]string{audit.RotatedName(path, n+1)}, names...)
		}
	}
	names = append(names, path)
	want := 0
	for _, name := range names {
		f, err := os.Open(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // killed between the two renames
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			want++
			if lines.Text() != strconv.Itoa(want) {
				t.Fatalf("%s: line %q, want %d", name, lines.Text(), want)
			}
		}
		f.Close()
	}
	if want < 100 {
		t.Errorf("only %d lines", want)
	}
}

// numbersOn gives roughly how far the writer is: 3 lines in each rotated file.
func numbersOn(t *testing.T, path string) int {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return 0
	}
	return 3 * len(entries)
}
