package journald

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

// A journal reads the native protocol as systemd-journald does.
type journal struct {
	t    *testing.T
	conn *net.UnixConn
}

func listen(t *testing.T, path string) *journal {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &journal{t, conn}
}

// next gives the fields of the next entry, and whether it came as a file.
func (j *journal) next() (fields map[string]string, file bool) {
	j.t.Helper()
	buf, oob := make([]byte, 1<<20), make([]byte, 1<<10)
	j.conn.SetReadDeadline(time.Now().Add(time.Minute))
	n, oobn, _, _, err := j.conn.ReadMsgUnix(buf, oob)
	if err != nil {
		j.t.Fatal(err)
	}
	entry := buf[:n]
	if oobn > 0 {
		if n != 0 {
			j.t.Fatal("a descriptor with content beside it")
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) != 1 {
			j.t.Fatal(messages, err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			j.t.Fatal(fds, err)
		}
		f := os.NewFile(uintptr(fds[0]), "entry")
		defer f.Close()
		seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
		if want := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL; err != nil || seals != want {
			j.t.Fatalf("seals %#x, %v", seals, err)
		}
		info, err := f.Stat()
		if err != nil {
			j.t.Fatal(err)
		}
		entry = make([]byte, info.Size())
		if _, err := f.ReadAt(entry, 0); err != nil {
			j.t.Fatal(err)
		}
		file = true
	}
	fields = map[string]string{}
	for len(entry) > 0 {
		end := bytes.IndexByte(entry, '\n')
		name, value, text := strings.Cut(string(entry[:end]), "=")
		entry = entry[end+1:]
		if !text {
			n := binary.LittleEndian.Uint64(entry)
			value = string(entry[8 : 8+n])
			if entry[8+n] != '\n' {
				j.t.Fatalf("field %s is not ended", name)
			}
			entry = entry[8+n+1:]
		}
		if _, twice := fields[name]; twice {
			j.t.Fatalf("field %s is there twice", name)
		}
		fields[name] = value
	}
	return fields, file
}

func record(t *testing.T, sink audit.Sink, events ...*audit.Event) (*audit.Log, func()) {
	t.Helper()
	l, err := audit.New(audit.Options{Sink: sink})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		l.Record(e)
	}
	done := make(chan error, 1)
	ctx, cancel := contextFor(t)
	go func() { done <- l.Run(ctx) }()
	stop := func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return l, stop
}

func TestEntries(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	j := listen(t, path)
	s := New(path)
	defer s.Close()
	large := strings.Repeat("é", audit.MaxBody/2)
	l, stop := record(t, s,
		&audit.Event{Kind: audit.Exchange, ID: "a", Verdict: "deny", Reason: "no_rule", Rule: "r", Workload: audit.Workload{Name: "w"}, HTTP: audit.HTTP{Method: "GET"}},
		&audit.Event{Kind: audit.Exchange, ID: "b", Verdict: "allow", Workload: audit.Workload{Name: "evil\nPRIORITY=0\nSALLYPORT_EVENT=c"}},
		&audit.Event{Kind: audit.Exchange, ID: "c", Verdict: "would_deny", HTTP: audit.HTTP{Method: "POST", RequestBody: large}},
		&audit.Event{Kind: audit.Lifecycle, ID: "d", Message: "m"},
	)
	want := []map[string]string{
		{"PRIORITY": "4", "SALLYPORT_KIND": "exchange", "SALLYPORT_EVENT": "a", "SALLYPORT_VERDICT": "deny", "SALLYPORT_REASON": "no_rule", "SALLYPORT_RULE": "r", "SALLYPORT_WORKLOAD": "w"},
		{"PRIORITY": "6", "SALLYPORT_EVENT": "b", "SALLYPORT_WORKLOAD": "evil\nPRIORITY=0\nSALLYPORT_EVENT=c"},
		{"PRIORITY": "5", "SALLYPORT_EVENT": "c"},
		{"PRIORITY": "5", "SALLYPORT_EVENT": "d", "SALLYPORT_KIND": "lifecycle"},
	}
	prev := ""
	for i, w := range want {
		fields, file := j.next()
		if err := l.Fault(); err != nil {
			t.Fatal(i, err)
		}
		if file != (i == 2) {
			t.Errorf("%d: came as a file: %v", i, file)
		}
		w["SYSLOG_IDENTIFIER"] = "sallyport"
		for name, value := range w {
			if fields[name] != value {
				t.Errorf("%d: %s is %q, want %q", i, name, fields[name], value)
			}
		}
		var e audit.Event
		if err := audit.Decode([]byte(fields["MESSAGE"]), &e); err != nil || !json.Valid([]byte(fields["MESSAGE"])) {
			t.Fatalf("%d: %v: %.200s", i, err, fields["MESSAGE"])
		}
		if e.Prev != prev {
			t.Errorf("%d: the chain is broken", i)
		}
		prev = e.Hash
		if i == 2 && e.HTTP.RequestBody != large {
			t.Error("the large body is not whole")
		}
	}
	stop()
}

// A journal that is restarted gets what was recorded meanwhile.
func TestJournalAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	s := New(path)
	l, stop := record(t, s, &audit.Event{Kind: audit.Exchange, ID: "a"})
	wait(t, func() bool { return errors.Is(l.Healthy(), os.ErrNotExist) })
	j := listen(t, path)
	if f, _ := j.next(); f["SALLYPORT_EVENT"] != "a" {
		t.Errorf("%v", f)
	}
	wait(t, func() bool { return l.Healthy() == nil })
	if f, _ := j.next(); f["SALLYPORT_KIND"] != "lifecycle" || !strings.Contains(f["MESSAGE"], "written to journald for") {
		t.Errorf("%v", f)
	}
	j.conn.Close()
	os.Remove(path)
	l.Record(&audit.Event{Kind: audit.Exchange, ID: "b"})
	wait(t, func() bool { return l.Healthy() != nil })
	j = listen(t, path)
	if f, _ := j.next(); f["SALLYPORT_EVENT"] != "b" {
		t.Errorf("%v", f)
	}
	stop()
	if n := l.Stats().Sinks[0].Failures; n < 2 {
		t.Errorf("%d failures", n)
	}
}

// A journal that hangs fills the queue and nothing else.
func TestJournalHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	j := listen(t, path)
	s := New(path)
	l, stop := record(t, s)
	text := strings.Repeat("x", 4000)
	began := time.Now()
	for range 2000 {
		l.Record(&audit.Event{Kind: audit.Exchange, Message: text})
	}
	// Nobody reads the socket yet: who waited for it would wait for good.
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("recording waited for %s", d)
	}
	wait(t, func() bool { return errors.Is(l.Fault(), os.ErrDeadlineExceeded) })
	go func() {
		buf := make([]byte, 1<<20)
		for {
			if _, err := j.conn.Read(buf); err != nil {
				return
			}
		}
	}()
	wait(t, func() bool { return l.Healthy() == nil && l.Stats().Sinks[0].QueueEvents == 0 })
	stop()
	if n := l.Stats().Sinks[0].Lost; n != 0 {
		t.Errorf("%d events are lost", n)
	}
}
