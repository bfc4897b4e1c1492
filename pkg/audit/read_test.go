package audit

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestFilesAreReadInOrder(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	line := func(message string) string {
		return encode(&Event{Time: at, ID: message, Kind: Lifecycle, Message: message}) + "\n"
	}
	for name, text := range map[string]string{
		"":   line("5") + `{"time":"torn`,
		".1": line("3") + "not json\n" + line("4"),
		".2": line("1") + line("2"),
		".4": line("0"), // beyond a gap
		// Not rotated files of this one:
		".04": line("x"), ".1.gz": line("x"), ".99999999": line("x"),
	} {
		if err := os.WriteFile(path+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(since time.Time) (messages, bad []string) {
		f, err := OpenFiles(path, since)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		err = f.Each(func(_ []byte, e *Event) bool {
			messages = append(messages, e.Message)
			return e.Message != "stop"
		}, func(file string, err *LineError) {
			bad = append(bad, filepath.Base(file)+":"+strconv.Itoa(err.Line))
		})
		if err != nil {
			t.Fatal(err)
		}
		return messages, bad
	}
	messages, bad := read(time.Time{})
	if got := strings.Join(messages, " "); got != "0 1 2 3 4 5" {
		t.Errorf("events %s", got)
	}
	if got := strings.Join(bad, " "); got != "audit.jsonl.1:2 audit.jsonl:2" {
		t.Errorf("bad lines %s", got)
	}
	old := time.Now().Add(-time.Hour)
	os.Chtimes(path+".2", old, old)
	os.Chtimes(path+".4", old, old)
	if messages, _ := read(time.Now().Add(-time.Minute)); strings.Join(messages, " ") != "3 4 5" {
		t.Errorf("since a minute: %s", messages)
	}
	if _, err := OpenFiles(filepath.Join(dir, "none"), time.Time{}); !errors.Is(err, os.ErrNotExist) || strings.Contains(err.Error(), "none.1") {
		t.Errorf("no file: %v", err)
	}
}

func TestReaderPassesOverLongLines(t *testing.T) {
	good := encode(&Event{Time: at, ID: "x", Kind: Lifecycle}) + "\n"
	r := NewReader(strings.NewReader(strings.Repeat("x", MaxLine+100000) + "\n" + good))
	var e Event
	if _, err := r.Next(&e); !errors.Is(err, ErrLongLine) {
		t.Errorf("the long line: %v", err)
	}
	if _, err := r.Next(&e); err != nil || e.ID != "x" {
		t.Errorf("after it: %v", err)
	}
	if _, err := r.Next(&e); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}
