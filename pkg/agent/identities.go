package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/wire"
	"sallyport/pkg/metrics"
	"sallyport/pkg/origin"
	"sallyport/pkg/workload"
)

const (
	// identityEntries bounds the processes that are remembered. When full, the
	// one unused for longest is asked for again.
	identityEntries = 8192
	// identityAge is how long a process is remembered. It may call execve
	// meanwhile: the executable only informs. The workload cannot change: a cgroup
	// id is never used twice.
	identityAge = time.Second
	// answerTime bounds a question to the keeper, and how long a connection waits,
	// which is lost without an answer: on a starved host that comes late. A keeper
	// that has gone is noticed at once.
	answerTime = 30 * time.Second
	// lookTime is how long others wait for an answer. A client of DNS asks again
	// after 5 s (resolv.conf(5), timeout).
	lookTime = 5 * time.Second
	// cgroupQuestions bounds the processes of one cgroup that are asked for at a
	// time. The next one's executable stays unknown, and one question about the
	// cgroup is enough for all of those.
	cgroupQuestions = 64
)

// identities ask the keeper who a cgroup is.
type identities struct {
	keeper *wire.Peer
	// age is identityAge but in tests, where a busy host's second proves nothing.
	age   time.Duration
	known *lru.Cache[identityKey, identity]
	// asking has one question about a process go out, however many connections of
	// it wait: a worker that starts finds a queue of them.
	asking singleflight.Group

	mu sync.Mutex
	// generation counts the reloads: an answer to what was asked before names the
	// workload as it was called then.
	generation uint64
	// questions are how many each cgroup has under way, that about itself included.
	questions map[uint64]int
}

type identityKey struct {
	cgroup uint64
	pid    uint32
}

type identity struct {
	protocol.IdentifyResult
	asked time.Time
}

func newIdentities(keeper *wire.Peer) (*identities, error) {
	known, err := lru.New[identityKey, identity](identityEntries)
	if err != nil {
		return nil, err
	}
	return &identities{keeper: keeper, age: identityAge, known: known, questions: make(map[uint64]int)}, nil
}

// Identify names the workload of a flow. Without an answer the flow must be
// closed: nobody would know whose it was.
func (i *identities) Identify(ctx context.Context, flow *origin.Flow) (workload.Identity, string, error) {
	r, err := i.wait(ctx, identityKey{flow.Cgroup, flow.PID})
	return r.Identity, r.Exe, err
}

// look names the workload of a process for who has no connection to lose.
func (i *identities) look(ctx context.Context, cgroup uint64, pid uint32) (protocol.IdentifyResult, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	return i.wait(ctx, identityKey{cgroup, pid})
}

func (i *identities) wait(ctx context.Context, key identityKey) (protocol.IdentifyResult, error) {
	if r, ok := i.remembered(key); ok {
		return r, nil
	}
	// The question ends with the connection to the keeper, not with whoever was the
	// first to ask: others go on waiting.
	answer := i.asking.DoChan(i.question(key), func() (any, error) { return i.ask(key) })
	select {
	case a := <-answer:
		return a.Val.(protocol.IdentifyResult), a.Err
	case <-ctx.Done():
		return protocol.IdentifyResult{}, ctx.Err()
	}
}

// question is the same for all who may share an answer.
func (i *identities) question(key identityKey) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return fmt.Sprint(i.generation, "/", key.cgroup, "/", key.pid)
}

func (i *identities) remembered(key identityKey) (protocol.IdentifyResult, bool) {
	k, ok := i.known.Get(key)
	return k.IdentifyResult, ok && time.Since(k.asked) < i.age
}

// ask asks the keeper about a process, or about its cgroup alone where too many of
// that are asked for, and remembers the answer if no reload came meanwhile.
func (i *identities) ask(key identityKey) (r protocol.IdentifyResult, err error) {
	// Somebody's answer may have come since.
	if r, ok := i.remembered(key); ok {
		return r, nil
	}
	generation, ok := i.begin(key)
	if !ok {
		key.pid = 0
		all, err, _ := i.asking.Do(i.question(key), func() (any, error) { return i.ask(key) })
		return all.(protocol.IdentifyResult), err
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	asked := time.Now()
	_, err = i.keeper.Call(ctx, protocol.Identify, protocol.IdentifyArgs{Cgroup: key.cgroup, PID: key.pid, Exe: key.pid != 0}, nil, &r)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.questions[key.cgroup]--; i.questions[key.cgroup] == 0 {
		delete(i.questions, key.cgroup)
	}
	if err == nil && generation == i.generation {
		i.known.Add(key, identity{r, asked})
	}
	return r, err
}

// begin counts a question; one about a cgroup alone is never too many.
func (i *identities) begin(key identityKey) (generation uint64, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if key.pid != 0 && i.questions[key.cgroup] >= cgroupQuestions {
		return 0, false
	}
	i.questions[key.cgroup]++
	return i.generation, true
}

// forget makes names be asked for again, after a reload.
func (i *identities) forget() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.generation++
	i.known.Purge()
}

func (i *identities) resources() []metrics.Resource {
	return []metrics.Resource{{Name: "identities", Entries: uint64(i.known.Len()), Capacity: identityEntries}}
}
