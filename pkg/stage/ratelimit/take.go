package ratelimit

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// A memory is what a daemon knows of a counter in Redis besides its counts.
type memory struct {
	// life is the g of the key, 0 where it was never seen.
	life int64
	// outage is that of the link after which it was seen last.
	outage uint64
	// at is when it was seen last, by Redis, in µs.
	at int64
	// extra were let through while Redis was away and it does not know of; told
	// are those of which it is being told.
	extra, told [windows]int64
	// telling is not nil while Redis is being told, and closed afterwards.
	telling chan struct{}
	// asking are the requests that ask Redis now, each of which may be admitted
	// there while others, for which it is away already, are counted here.
	asking int64
}

// A sharedTake is one counter of a request.
type sharedTake struct {
	key    string
	limits *[windows]int64
	// counter is what this daemon knows of it, nil for the probe.
	counter *counter
	locked  bool
	// asking says that the counter knows of this request.
	asking bool
	// extra is what was told to Redis with this request, which others wait for
	// until telling is closed.
	extra   [windows]int64
	telling chan struct{}
	// starts are the windows in which the request was counted.
	starts [windows]int64
}

// A sharedAnswer is what the server said.
type sharedAnswer struct {
	admitted bool
	// now is the server's time in µs.
	now    int64
	states []sharedState
}

type sharedState struct {
	life   int64
	counts [windows]count
}

// take asks the server once; it gives also how many outages there were before.
// Where it fails the takes are to be settled.
func (l *link) take(takes []sharedTake, timeout time.Duration) (*sharedAnswer, uint64, error) {
	outages := l.outages.Load()
	client := l.client.Load()
	if client == nil {
		return nil, outages, errAway
	}
	keys := make([]string, len(takes))
	args := make([]string, 0, 15*len(takes))
	for i := range takes {
		keys[i] = takes[i].key
		if !takes[i].lock(l) {
			return nil, outages, errAway
		}
		args = takes[i].appendArgs(args, outages)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	const head, each = 3, 1 + 2*int(windows)
	values, err := l.scripts.take.Exec(ctx, *client, keys, args).AsIntSlice()
	if err == nil && len(values) != head+each*len(takes) {
		err = fmt.Errorf("the script answered %d values", len(values))
	}
	if err != nil {
		return nil, outages, err
	}
	a := &sharedAnswer{admitted: values[0] == 1, now: values[1]*1_000_000 + values[2], states: make([]sharedState, len(takes))}
	l.ahead.Store(a.now - time.Now().UnixMicro())
	for i := range a.states {
		v := values[head+i*each:]
		a.states[i].life = v[0]
		for w := range windows {
			a.states[i].counts[w] = count{start: v[1+2*w], n: v[2+2*w]}
		}
		if c := takes[i].counter; c != nil {
			saw(c, &a.states[i], a.now, outages)
			takes[i].settle(true)
		}
	}
	return a, outages, nil
}

// appendArgs appends what the script is told of the counter, which is locked, and
// unlocks it.
func (t *sharedTake) appendArgs(args []string, outages uint64) []string {
	var m memory
	var counts [windows]count
	if t.locked {
		c := &t.counter.Value
		m, counts = c.memory, c.counts
		if m.extra != [windows]int64{} {
			t.telling = make(chan struct{})
			c.memory.telling = t.telling
		}
		for w, n := range m.extra {
			c.memory.told[w] += n
		}
		c.memory.extra = [windows]int64{}
		c.memory.asking++
		t.extra, t.locked, t.asking = m.extra, false, true
		t.counter.Unlock()
		for w := range windows {
			t.starts[w] = counts[w].start
		}
	}
	life, forgot := "", "0"
	if m.life != 0 {
		life = strconv.FormatInt(m.life, 10)
	}
	if m.outage != outages {
		forgot = "1"
	}
	args = append(args, life, forgot)
	for _, l := range t.limits {
		args = append(args, strconv.FormatInt(l, 10))
	}
	at, known := len(args), 0
	args = append(args, "")
	for w := range windows {
		if t.limits[w] == 0 || counts[w].n == 0 && m.extra[w] == 0 {
			continue
		}
		known++
		args = append(args, strconv.Itoa(int(w)+1), strconv.FormatInt(counts[w].start, 10), strconv.FormatInt(counts[w].n, 10), strconv.FormatInt(m.extra[w], 10))
	}
	args[at] = strconv.Itoa(known)
	return args
}

// lock locks the counter, unless it was swept away, when nobody is telling Redis
// of it: a request that overtook what is being told would be admitted in the place
// of one that was let through before. False is that Redis turned out to be away.
func (t *sharedTake) lock(l *link) bool {
	for t.counter != nil && t.counter.Lock() {
		telling := t.counter.Value.memory.telling
		if telling == nil {
			t.locked = true
			break
		}
		t.counter.Unlock()
		<-telling // at most redis.timeout, for which whoever tells waits
		if l.away.Load() {
			return false
		}
	}
	return true
}

// settle ends the asking and, where it told of what was let through while the
// server was away, the telling: it heard, or may not have heard and is told again.
func (t *sharedTake) settle(heard bool) {
	if !t.asking {
		return
	}
	t.asking = false
	if t.telling != nil {
		defer close(t.telling)
	}
	if !t.counter.Lock() {
		return
	}
	defer t.counter.Unlock()
	c := &t.counter.Value
	c.memory.asking--
	if t.telling == nil {
		return
	}
	c.memory.telling = nil
	for w := range windows {
		if c.counts[w].start != t.starts[w] {
			continue
		}
		c.memory.told[w] -= t.extra[w]
		if !heard {
			c.memory.extra[w] += t.extra[w]
		}
	}
}

// saw remembers what the server said. Answers may overtake each other here.
func saw(counter *counter, s *sharedState, now int64, outages uint64) {
	if !counter.Lock() {
		return
	}
	defer counter.Unlock()
	c := &counter.Value
	if now < c.memory.at && c.memory.outage == outages {
		return
	}
	if s.life != 0 {
		c.memory.life = s.life
	}
	c.memory.at, c.memory.outage = now, outages
	for w := range windows {
		switch ours, theirs := c.counts[w].start, s.counts[w].start; {
		case ours == theirs:
			c.counts[w].n = s.counts[w].n
		case theirs > ours || ours-theirs > lengths[w]:
			c.counts[w] = s.counts[w]
			c.memory.extra[w], c.memory.told[w] = 0, 0
		}
	}
}
