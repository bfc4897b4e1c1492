package supervisor

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/wire"
)

// TestMain is the worker where it is started as one: what it does is its argument.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && strings.HasPrefix(os.Args[1], "worker-") {
		worker(os.Args[1])
		return
	}
	os.Exit(m.Run())
}

func worker(how string) {
	if how == "worker-fails" {
		os.Exit(3)
	}
	conn, err := wire.NewConn(os.NewFile(3, "wire"))
	if err != nil {
		os.Exit(4)
	}
	drained := make(chan os.Signal, 1)
	signal.Notify(drained, unix.SIGUSR1)
	pings := 0
	var reloading atomic.Bool
	peer := wire.NewPeer(conn, map[string]wire.Handler{
		protocol.Ping: func(context.Context, *wire.Message) (any, []*os.File, error) {
			pings++
			status := how
			if reloading.Load() {
				status = reloads
			}
			return protocol.PingResult{Ready: pings > 1, Left: how == "worker-leaves" && pings > 3, Status: status}, nil, nil
		},
		protocol.Reload: func(ctx context.Context, _ *wire.Message) (any, []*os.File, error) {
			reloading.Store(true)
			<-ctx.Done() // longer than anybody waits
			return nil, nil, nil
		},
		protocol.Yield: func(context.Context, *wire.Message) (any, []*os.File, error) { return nil, nil, nil },
	})
	peer.Run(context.Background())
	if how == "worker-drains" {
		select {
		case <-drained:
		case <-time.After(time.Minute):
			os.Exit(5)
		}
	}
}

// reloads is the status of a worker that has begun to reload.
const reloads = "it reloads"

// TestRun: the service manager hears what the worker says, and the end of the main
// process is what became of the worker.
func TestRun(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it gives capabilities up")
	}
	for _, test := range []struct {
		how, want string
		stop      bool
		says      []string
	}{
		{how: "worker-fails", want: "exit status 3"},
		{how: "worker-leaves", says: []string{"READY=1", "STATUS=worker-leaves", "WATCHDOG=1"}},
		{how: "worker-drains", stop: true, says: []string{"READY=1", "STOPPING=1"}},
	} {
		t.Run(test.how, func(t *testing.T) {
			var mu sync.Mutex
			var said strings.Builder
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			s := New(Options{
				Argv: []string{test.how}, Watchdog: 30 * time.Millisecond, Log: zap.NewNop(),
				Notify: func(state string) {
					mu.Lock()
					defer mu.Unlock()
					said.WriteString(state + "\n")
					if test.stop && strings.Contains(state, "READY=1") {
						cancel()
					}
				},
			})
			err := s.Run(ctx)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, want %q", err, test.want)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, w := range test.says {
				if !strings.Contains(said.String(), w) {
					t.Errorf("said %q, want %s in it", said.String(), w)
				}
			}
			if test.want != "" && strings.Contains(said.String(), "READY=1") {
				t.Error("a worker that failed was ready")
			}
			if !test.stop {
				return
			}
			// It was not waited for: a pid that is nobody's would be an error.
			pid := s.cmd.Process.Pid
			var info unix.Siginfo
			if err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil || info.Signo != 0 {
				t.Errorf("the worker ended with its main process: signal %d, %v", info.Signo, err)
			}
			if err := s.cmd.Process.Signal(unix.SIGUSR1); err != nil {
				t.Error(err)
			}
			if err := s.cmd.Wait(); err != nil {
				t.Errorf("the worker that drained: %v", err)
			}
		})
	}
}

// TestReloadTakesItsTime: while the worker reloads, the service manager hears that
// it lives, and it can be stopped.
func TestReloadTakesItsTime(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it gives capabilities up")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	reload := make(chan os.Signal, 1)
	core, ended := observer.New(zap.ErrorLevel) // what a reload that is over leaves
	begun, beats := false, 0
	s := New(Options{
		Argv: []string{"worker-reloads"}, Watchdog: time.Millisecond, Log: zap.New(core), Reload: reload,
		Notify: func(state string) {
			if strings.Contains(state, "READY=1") {
				reload <- unix.SIGHUP
			}
			begun = begun || strings.Contains(state, reloads)
			if begun && strings.Contains(state, "WATCHDOG=1") {
				if beats++; beats == 5 {
					if ended.Len() > 0 {
						t.Error("the signs of life waited for the reload")
					}
					cancel()
				}
			}
		},
	})
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
	if beats < 5 {
		t.Errorf("%d signs of life while the worker reloads", beats)
	}
	// To be stopped ended it, and not its own time.
	if all := ended.All(); len(all) != 1 || all[0].ContextMap()["error"] != context.Canceled.Error() {
		t.Errorf("how the reload ended: %v", all)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the worker: %v", err)
	}
}
