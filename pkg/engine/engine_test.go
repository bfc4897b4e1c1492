package engine

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport/pkg/workload"
)

const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// listen serves an engine's socket.
func listen(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return path
}

func engines(t *testing.T, sockets ...string) *Engines {
	t.Helper()
	e, err := New(sockets...)
	if err != nil {
		t.Fatal(err)
	}
	e.owner = uint32(os.Getuid())
	e.cgroup = func(pid int) (string, error) { return fmt.Sprintf("/docker/%d", pid), nil }
	// Whatever else runs on this host.
	e.timeout, e.pause = time.Minute, time.Hour
	return e
}

// answer is what Docker 27 gives for a container, shortened.
func answer(pid int) string {
	return fmt.Sprintf(`{"Id":%q,"Created":"2026-01-01T00:00:00Z","State":{"Status":"running","Running":true,"Pid":%d},
"Image":"sha256:aa","Name":"/web-1","HostConfig":{"CgroupParent":""},
"Config":{"Hostname":"x","Image":"nginx:1.27","Labels":{"tier":"front","com.example/a":""}},"Mounts":[]}`, id, pid)
}

func TestContainer(t *testing.T) {
	var asked atomic.Int32
	socket := listen(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Method != "GET" || r.URL.Path != "/containers/"+id+"/json" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		fmt.Fprint(w, answer(7))
	})
	none := listen(t, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"message":"No such container"}`, http.StatusNotFound)
	})
	e := engines(t, "/nonexistent.sock", none, socket)
	want := workload.Container{Name: "web-1", Image: "nginx:1.27", Labels: map[string]string{"tier": "front", "com.example/a": ""}, Cgroup: "/docker/7"}
	for range 3 {
		got, err := e.Container(id)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	if r := e.Resources()[0]; r.Entries != 1 || r.Capacity != remembered {
		t.Errorf("%+v", r)
	}
}

// TestStarting: a container whose first connection comes before the engine has
// written down its process is waited for.
func TestStarting(t *testing.T) {
	var asked atomic.Int32
	e := engines(t, listen(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			fmt.Fprint(w, answer(0))
			return
		}
		fmt.Fprint(w, answer(9))
	}))
	if c, err := e.Container(id); err != nil || c.Cgroup != "/docker/9" {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestUnknown: whatever an engine does, the container stays unknown, soon, and is
// not asked for again at once.
func TestUnknown(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"not there": func(w http.ResponseWriter, _ *http.Request) { http.NotFound(w, nil) },
		"no JSON":   func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"another":   func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"Id":"ffff","State":{"Pid":1}}`) },
		"too long": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"Id":"`+strings.Repeat("a", maxAnswer)+`"}`)
		},
		"never":           func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"no process":      func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer(0)) },
		"a process ended": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer(13)) },
		"elsewhere":       func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusFound) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := engines(t, listen(t, handler))
			e.timeout = timeout
			e.cgroup = func(int) (string, error) { return "", workload.ErrGone }
			start := time.Now()
			if c, err := e.Container(id); !errors.Is(err, ErrUnknown) {
				t.Errorf("%+v, %v", c, err)
			}
			if d := time.Since(start); d > 30*timeout {
				t.Errorf("took %v", d)
			}
			// Another engine: the first may still be at the last question.
			var asked atomic.Int32
			e.sockets = []string{listen(t, func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				handler(w, r)
			})}
			if _, err := e.Container(id); !errors.Is(err, ErrUnknown) || asked.Load() != 0 {
				t.Errorf("asked again at once, %v", err)
			}
			if r := e.Resources(); r[0].Entries != 0 || r[1].Entries != 1 || r[2].Entries != 0 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// TestEngineOfAUser is not believed: it could say of any id what it likes.
func TestEngineOfAUser(t *testing.T) {
	e := engines(t, listen(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer(7)) }))
	e.owner++
	if _, err := e.Container(id); !errors.Is(err, ErrUnknown) || !errors.Is(err, errNotRoot) {
		t.Errorf("%v", err)
	}
}

// TestManyQuestions: what would wait behind too many is told at once, and not
// remembered.
func TestManyQuestions(t *testing.T) {
	e := engines(t, "/nonexistent.sock")
	for range maxQuestions {
		e.asking <- struct{}{}
	}
	if _, err := e.Container(id); !errors.Is(err, errBusy) {
		t.Errorf("%v", err)
	}
	if r := e.Resources(); r[1].Entries != 0 || r[2].Entries != maxQuestions || r[2].Capacity != maxQuestions {
		t.Errorf("%+v", r)
	}
}
