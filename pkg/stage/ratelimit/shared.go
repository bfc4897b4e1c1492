package ratelimit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valkey-io/valkey-go"
	"go.uber.org/zap"

	"sallyport/pkg/config"
)

//go:embed take.lua
var takeScript string

//go:embed giveback.lua
var giveBackScript string

// scripts are sent by their hash, and whole where the server has forgotten them.
type scripts struct{ take, giveBack *valkey.Lua }

func newScripts() scripts {
	return scripts{take: valkey.NewLuaScript(takeScript), giveBack: valkey.NewLuaScriptNoSha(giveBackScript)}
}

const (
	// probeInterval is how often a Redis that is away is asked whether it is back.
	// Only one asks: requests do not wait for it meanwhile.
	probeInterval = 200 * time.Millisecond
	// connectTimeout bounds what a start and a reload wait for a Redis that does not
	// answer, whatever redis.timeout is.
	connectTimeout = time.Second
	// MaxGivenBack bounds the requests that are to be taken back in Redis. One more
	// stays counted.
	MaxGivenBack = 4096
	// givenBackAtOnce go to Redis together.
	givenBackAtOnce = 64
)

// errAway says that Redis was away already and was not asked.
var errAway = errors.New("redis is away")

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
}

// Shared is where counters are that several daemons share: a Redis or Valkey. A
// constructor connects nothing; Run keeps the connection.
type Shared struct {
	scripts scripts

	log  *zap.Logger
	note func(string)
	link atomic.Pointer[link]
	// wake tells Run that Redis is away, or another one.
	wake chan struct{}
	back chan givenBack

	mu sync.Mutex
	// retired are links of earlier configurations, closed by Run.
	retired []*link
}

// NewShared gives a Shared without a server. note is told in a sentence, for
// the audit, when the server goes away and when it is back.
func NewShared(log *zap.Logger, note func(string)) *Shared {
	return &Shared{scripts: newScripts(), log: log, note: note, wake: make(chan struct{}, 1), back: make(chan givenBack, MaxGivenBack)}
}

// A Server says which Redis it is, with the contents of its files.
type Server struct {
	config.Redis
	Password string
	// CA are certificates in PEM, trusted besides those of the host.
	CA string
}

// A link is a server, through any number of connections.
type link struct {
	scripts scripts
	server  Server
	option  valkey.ClientOption
	client  atomic.Pointer[valkey.Client]
	away    atomic.Bool
	// outages counts how often it went away.
	outages atomic.Uint64
	// ahead is how far its clock is ahead of ours, in µs.
	ahead atomic.Int64
}

// Use makes it the server, if it is not already. It waits for the first
// connection and its answer, two seconds at most; without them the server is away.
func (s *Shared) Use(server Server) error {
	old := s.link.Load()
	if old != nil && old.server == server {
		return nil
	}
	l := &link{scripts: s.scripts, server: server}
	// Every instance that begins here is one that may have other counts.
	if old != nil {
		l.outages.Store(old.outages.Load() + 1)
	}
	if err := l.options(); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	if err := l.probe(); err != nil {
		s.lost(l, l.outages.Load(), err)
	}
	s.link.Store(l)
	if old != nil {
		s.mu.Lock()
		s.retired = append(s.retired, old)
		s.mu.Unlock()
	}
	s.prod()
	return nil
}

func (l *link) options() error {
	r := &l.server
	l.option = valkey.ClientOption{
		InitAddress: []string{r.Address}, Username: r.Username, Password: r.Password, SelectDB: r.DB,
		ClientName: "sallyport", ClientSetInfo: valkey.DisableClientSetInfo,
		Dialer: net.Dialer{Timeout: min(r.Timeout, connectTimeout)},
		// A whole answer is a few hundred bytes.
		ReadBufferEachConn: 32 << 10, WriteBufferEachConn: 32 << 10, RingScaleEachConn: 10,
		PipelineMultiplex: -1,
		ConnWriteTimeout:  max(r.Timeout, time.Second),
		// A request that may have been counted must not be counted again.
		DisableRetry: true,
		// Without it Redis 5 and proxies are refused.
		DisableCache: true,
	}
	if !r.TLS {
		return nil
	}
	host, _, err := net.SplitHostPort(r.Address)
	if err != nil {
		return err
	}
	l.option.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if r.CA == "" {
		return nil
	}
	pool, err := x509.SystemCertPool() // a copy
	if err != nil {
		return err
	}
	if !pool.AppendCertsFromPEM([]byte(r.CA)) {
		return fmt.Errorf("ca_file %s holds no certificate", r.CAFile)
	}
	l.option.TLSConfig.RootCAs = pool
	return nil
}

// probe does what a request does, on a key of its own, and connects first where
// that has not succeeded yet.
func (l *link) probe() error {
	if l.client.Load() == nil {
		c, err := valkey.NewClient(l.option)
		if err != nil {
			return err
		}
		l.client.Store(&c)
	}
	limits := [windows]int64{1 << 40}
	_, _, err := l.take([]sharedTake{{key: l.server.Prefix + "{probe}", limits: &limits}}, min(l.server.Timeout, connectTimeout))
	return err
}

// lost remembers that the server did not answer as it must a request that was
// sent after so many outages: of those that fail together the first one counts.
func (s *Shared) lost(l *link, outages uint64, err error) {
	if !l.outages.CompareAndSwap(outages, outages+1) {
		return
	}
	l.away.Store(true)
	s.log.Warn("redis is away", zap.String("address", l.server.Address), zap.Error(err))
	s.note(fmt.Sprintf("redis %s is away (%v): rate limits go on with what was last seen, or refuse where fault_tolerant is false", l.server.Address, err))
	s.prod()
}

// prod wakes Run.
func (s *Shared) prod() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run connects again and takes back until ctx ends.
func (s *Shared) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { s.giveBack(ctx) })
	defer wg.Wait()
	defer s.closeAll()
	for {
		var again <-chan time.Time
		if l := s.link.Load(); l != nil && l.away.Load() {
			again = time.After(probeInterval)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
			s.retire()
			continue
		case <-again:
		}
		l := s.link.Load()
		if err := l.probe(); err != nil {
			s.log.Debug("redis is still away", zap.Error(err))
			continue
		}
		l.away.Store(false)
		s.log.Info("redis is back", zap.String("address", l.server.Address))
		s.note(fmt.Sprintf("redis %s is back", l.server.Address))
	}
}

// retire closes what earlier configurations used. A request that is just asking
// one gets an error and goes on as if it were away.
func (s *Shared) retire() {
	s.mu.Lock()
	old := s.retired
	s.retired = nil
	s.mu.Unlock()
	for _, l := range old {
		l.close()
	}
}

func (s *Shared) closeAll() {
	s.retire()
	if l := s.link.Load(); l != nil {
		l.close()
	}
}

func (l *link) close() {
	if c := l.client.Load(); c != nil {
		(*c).Close()
	}
}

// Connected reports whether the server answers; false also without one.
func (s *Shared) Connected() bool {
	l := s.link.Load()
	return l != nil && !l.away.Load()
}

// GivenBack gives how many requests wait to be taken back, of MaxGivenBack.
func (s *Shared) GivenBack() int { return len(s.back) }

// A sharedTake is one counter of a request.
type sharedTake struct {
	key    string
	limits *[windows]int64
	// counter is what this daemon knows of it, nil for the probe.
	counter *counter
	// extra is what was told to Redis with this request.
	extra [windows]int64
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
		for i := range takes {
			takes[i].settle(false)
		}
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

// appendArgs appends what the script is told of the counter.
func (t *sharedTake) appendArgs(args []string, outages uint64) []string {
	var m memory
	var counts [windows]count
	if t.counter != nil && t.counter.Lock() {
		c := &t.counter.Value
		m, counts = c.memory, c.counts
		for w, n := range m.extra {
			c.memory.told[w] += n
		}
		c.memory.extra = [windows]int64{}
		t.counter.Unlock()
		t.extra = m.extra
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

// settle ends the telling of what was let through while the server was away: it
// heard, or may not have heard and is told again.
func (t *sharedTake) settle(heard bool) {
	if t.counter == nil || t.extra == [windows]int64{} || !t.counter.Lock() {
		return
	}
	defer t.counter.Unlock()
	c := &t.counter.Value
	for w := range windows {
		if c.counts[w].start != t.starts[w] {
			continue
		}
		c.memory.told[w] -= t.extra[w]
		if !heard {
			c.memory.extra[w] += t.extra[w]
		}
	}
	t.extra = [windows]int64{}
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

// now gives the server's time, as far as it is known, in seconds since 1970.
func (l *link) now(t time.Time) int64 { return (t.UnixMicro() + l.ahead.Load()) / 1_000_000 }

// A givenBack is a request that is to be taken back.
type givenBack struct {
	link *link
	keys []string
	args []string
}

// giveBack takes back in the order of what comes.
func (s *Shared) giveBack(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case first := <-s.back:
			s.giveBackAll(first)
		}
	}
}

func (s *Shared) giveBackAll(first givenBack) {
	l := first.link
	client := l.client.Load()
	if l.away.Load() || client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.server.Timeout)
	defer cancel()
	more := []valkey.LuaExec{{Keys: first.keys, Args: first.args}}
	for len(more) < givenBackAtOnce {
		select {
		case next := <-s.back:
			if next.link == l {
				more = append(more, valkey.LuaExec{Keys: next.keys, Args: next.args})
			}
			continue
		default:
		}
		break
	}
	for _, r := range l.scripts.giveBack.ExecMulti(ctx, *client, more...) {
		if err := r.Error(); err != nil {
			s.log.Debug("take back", zap.Error(err))
			return
		}
	}
}
