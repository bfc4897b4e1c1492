package agent

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/wire"
	"sallyport/pkg/origin"
	"sallyport/pkg/workload"
)

// TestOneQuestionForAQueue: connections of one process that wait together cost one
// question, one that ends takes nobody with it, and another process is asked for by
// itself.
func TestOneQuestionForAQueue(t *testing.T) {
	var asked atomic.Int32
	question, answer := make(chan struct{}, 200), make(chan struct{})
	i, err := newIdentities(keeperThat(t, func(_ context.Context, m *wire.Message) (any, []*os.File, error) {
		var in protocol.IdentifyArgs
		if err := m.Decode(&in); err != nil {
			return nil, nil, err
		}
		asked.Add(1)
		question <- struct{}{}
		<-answer
		return protocol.IdentifyResult{Identity: workload.Identity{Name: map[uint32]string{7: "seven", 8: "eight"}[in.PID]}}, nil, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	i.age = time.Hour
	first, end := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, _, err := i.Identify(first, &origin.Flow{Cgroup: 1, PID: 7})
		left <- err
	}()
	<-question // the others share it
	end()
	if err := <-left; err != context.Canceled {
		t.Errorf("the one that ended: %v", err)
	}
	var begun, waiting sync.WaitGroup
	for n := range 100 {
		pid, want := uint32(7), "seven"
		if n == 0 {
			pid, want = 8, "eight"
		}
		begun.Add(1)
		waiting.Go(func() {
			begun.Done()
			id, _, err := i.Identify(t.Context(), &origin.Flow{Cgroup: 1, PID: pid})
			if err != nil || id.Name != want {
				t.Errorf("process %d is %q (%v)", pid, id.Name, err)
			}
		})
	}
	begun.Wait()
	<-question // the other process's
	close(answer)
	waiting.Wait()
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times about two processes", n)
	}
}

// TestManyProcessesOfACgroup: who forks to have many questions under way has one for
// all beyond the bound, and every connection its name.
func TestManyProcessesOfACgroup(t *testing.T) {
	const processes = 1000
	var asked atomic.Int32
	answer := make(chan struct{})
	i, err := newIdentities(keeperThat(t, func(_ context.Context, m *wire.Message) (any, []*os.File, error) {
		defer m.CloseFiles()
		asked.Add(1)
		<-answer
		return protocol.IdentifyResult{Identity: workload.Identity{Name: "forks"}}, nil, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	i.age = time.Hour
	var begun, waiting sync.WaitGroup
	for pid := range processes {
		begun.Add(1)
		waiting.Go(func() {
			begun.Done()
			id, _, err := i.Identify(t.Context(), &origin.Flow{Cgroup: 1, PID: uint32(pid + 1)})
			if err != nil || id.Name != "forks" {
				t.Errorf("process %d is %q (%v)", pid+1, id.Name, err)
			}
		})
	}
	begun.Wait()
	under := func() int {
		i.mu.Lock()
		defer i.mu.Unlock()
		return i.questions[1]
	}
	for end := time.Now().Add(time.Minute); under() <= cgroupQuestions && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	time.AfterFunc(50*time.Millisecond, func() { close(answer) })
	waiting.Wait()
	// Who comes when the first have their answers may be asked for by himself again.
	if n := asked.Load(); n > processes/2 {
		t.Errorf("%d questions about %d processes of a cgroup", n, processes)
	}
	if len(i.questions) != 0 {
		t.Errorf("questions left: %v", i.questions)
	}
}

// TestForget: what was asked before a reload names nobody after it.
func TestForget(t *testing.T) {
	asked, answer := make(chan struct{}, 2), make(chan string)
	i, err := newIdentities(keeperThat(t, func(_ context.Context, m *wire.Message) (any, []*os.File, error) {
		defer m.CloseFiles()
		asked <- struct{}{}
		return protocol.IdentifyResult{Identity: workload.Identity{Name: <-answer}}, nil, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	i.age = time.Hour
	named := make(chan string, 2)
	identify := func() {
		id, _, err := i.Identify(t.Context(), &origin.Flow{Cgroup: 1, PID: 7})
		if err != nil {
			t.Error(err)
		}
		named <- id.Name
	}
	go identify()
	<-asked
	i.forget()
	go identify()
	<-asked // a question of its own, though the first is under way
	answer <- "name"
	answer <- "name"
	<-named
	<-named
	i.forget()
	go identify()
	<-asked
	answer <- "new name"
	if name := <-named; name != "new name" {
		t.Errorf("after a reload: %q", name)
	}
}

// keeperThat is the worker's end of a connection to a keeper that identifies so.
func keeperThat(t *testing.T, identifies wire.Handler) *wire.Peer {
	t.Helper()
	ours, theirs, err := wire.Pair()
	if err != nil {
		t.Fatal(err)
	}
	start := func(f *os.File, handlers map[string]wire.Handler) *wire.Peer {
		c, err := wire.NewConn(f)
		if err != nil {
			t.Fatal(err)
		}
		p := wire.NewPeer(c, handlers)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = p.Run(ctx)
		}()
		t.Cleanup(func() { cancel(); <-ended })
		return p
	}
	start(theirs, map[string]wire.Handler{protocol.Identify: identifies})
	return start(ours, nil)
}
