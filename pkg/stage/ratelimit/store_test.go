package ratelimit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/stage/keyed"
)

var exported = cmp.AllowUnexported(snapshot{}, savedTable{}, savedCounter{}, tableKey{}, count{})

func TestSnapshot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s snapshot
		for range rapid.IntRange(0, 3).Draw(t, "tables") {
			table := savedTable{key: tableKey{
				rule:  rapid.String().Draw(t, "rule"),
				place: rapid.SampledFrom([]config.CounterPlace{config.LocalCounters, config.RedisCounters}).Draw(t, "place"),
				by:    config.CounterKey{By: config.ByHeader, Header: rapid.StringMatching(`[A-Z][a-z]*`).Draw(t, "header")},
			}}
			for range rapid.IntRange(0, 3).Draw(t, "counters") {
				c := savedCounter{key: rapid.String().Draw(t, "key"), owner: rapid.String().Draw(t, "owner"), life: rapid.Int64Min(0).Draw(t, "life") >> 1}
				for w := range windows {
					if rapid.Bool().Draw(t, "present") {
						c.counts[w] = count{rapid.Int64Range(0, 1<<32).Draw(t, "start") * lengths[w], rapid.Int64Range(1, 1<<50).Draw(t, "n")}
						c.extra[w] = rapid.Int64Range(0, 1<<50).Draw(t, "extra")
					}
				}
				table.counters = append(table.counters, c)
			}
			s.tables = append(s.tables, table)
		}
		got, err := decode(s.encode(nil))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&s, got, exported); diff != "" {
			t.Fatal(diff)
		}
		counters := NewCounters(NewShared(zap.NewNop(), func(string) {}))
		counters.restore(got, noon.Unix())
		counters.save(noon.Unix())
	})
}

// openStore opens the file as a new process does.
func openStore(t *testing.T, name string, now time.Time) (*Counters, *Store, error) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	c := newCounters(t)
	s, err := OpenStore(c, f, zap.NewNop(), now)
	return c, s, err
}

// end closes the store at another time than the present.
func end(t *testing.T, s *Store, at time.Time) {
	t.Helper()
	s.write(at)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestStore: counters go on in the next process, as far as their windows do.
func TestStore(t *testing.T) {
	name := filepath.Join(t.TempDir(), "counters")
	limits := []config.RateLimit{local(0, 5, 7, 0), {Day: 100, By: config.CounterKey{By: config.ByRule}, Policy: config.LocalCounters}}
	counters, store, err := openStore(t, name, noon)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		admitted(t, New("r", limits, counters), newExchange("w", noon))
	}
	end(t, store, noon)
	at := noon.Add(time.Second)
	counters, store, err = openStore(t, name, at)
	if err != nil {
		t.Fatal(err)
	}
	s := New("r", limits, counters)
	if !admitted(t, s, newExchange("w", at)) || admitted(t, s, newExchange("w", at)) || !admitted(t, s, newExchange("v", at)) {
		t.Error("the minute has room for one")
	}
	end(t, store, at)
	at = noon.Add(time.Minute)
	counters, store, err = openStore(t, name, at)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	s = New("r", limits, counters)
	for i := range 4 {
		if got := admitted(t, s, newExchange("w", at)); got != (i < 2) {
			t.Errorf("request %d in the next minute: %v; the hour has room for two", i, got)
		}
	}
}

// TestKilled: a process that is killed loses what it counted in the last moment.
func TestKilled(t *testing.T) {
	sameDay(t)
	name := filepath.Join(t.TempDir(), "counters")
	counters, store, err := openStore(t, name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- store.Run(ctx) }()
	limits := []config.RateLimit{local(0, 0, 0, 5)}
	for range 5 {
		admitted(t, New("r", limits, counters), newExchange("w", time.Now()))
	}
	for deadline := time.Now().Add(30 * time.Second); written(t, name) != 5; time.Sleep(snapshotInterval / 10) {
		if time.Now().After(deadline) {
			t.Fatal("no snapshot is written")
		}
	}
	cancel()
	<-done
	store.file.Close() // without the last snapshot
	counters, store, err = openStore(t, name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if admitted(t, New("r", limits, counters), newExchange("w", time.Now())) {
		t.Error("the count was lost")
	}
}

// written gives what the newest whole snapshot has counted in the day.
func written(t *testing.T, name string) (n int64) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	s, _, _ := load(bytes.NewReader(b))
	if s == nil {
		return 0
	}
	for _, table := range s.tables {
		for _, c := range table.counters {
			n += c.counts[day].n
		}
	}
	return n
}

// TestDamaged: a write that was cut leaves the snapshot before it, and a file
// of something else is as good as none.
func TestDamaged(t *testing.T) {
	name := filepath.Join(t.TempDir(), "counters")
	limits := []config.RateLimit{local(0, 0, 0, 100)}
	left := func() (int, error) {
		counters, store, err := openStore(t, name, noon)
		store.Close()
		s := New("r", limits, counters)
		n := 0
		for admitted(t, s, newExchange("w", noon)) {
			n++
		}
		return n, err
	}
	counters, store, _ := openStore(t, name, noon)
	s := New("r", limits, counters)
	for range 3 {
		admitted(t, s, newExchange("w", noon))
		store.write(noon)
	}
	store.Close()
	if n, err := left(); n != 97 || err != nil {
		t.Errorf("%d left: %v", n, err)
	}
	damage := func(at int64, b []byte) {
		f, _ := os.OpenFile(name, os.O_RDWR, 0)
		defer f.Close()
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	damage(slotSize+headerSize+3, []byte{0xff}) // serial 3
	if n, err := left(); n != 98 || !errors.Is(err, errDamaged) {
		t.Errorf("one slot damaged: %d left: %v", n, err)
	}
	damage(0, []byte("no snapshot at all, of any kind"))
	if n, err := left(); n != 100 || !errors.Is(err, errDamaged) {
		t.Errorf("both damaged: %d left: %v", n, err)
	}
	os.Truncate(name, 5)
	if n, err := left(); n != 100 || !errors.Is(err, errDamaged) {
		t.Errorf("cut: %d left: %v", n, err)
	}
	os.Truncate(name, 0)
	if n, err := left(); n != 100 || err != nil {
		t.Errorf("empty: %d left: %v", n, err)
	}
}

// TestLarge: a table that does not fit leaves the others in.
func TestLarge(t *testing.T) {
	name := filepath.Join(t.TempDir(), "counters")
	counters, store, _ := openStore(t, name, noon)
	day := func(rule string, by config.CounterKey) *Stage {
		return New(rule, []config.RateLimit{{Day: 1, By: by, Policy: config.LocalCounters}}, counters)
	}
	small := day("small", byWorkload)
	admitted(t, small, newExchange("w", noon))
	for r := range 10 {
		s := day(fmt.Sprint("large", r), config.CounterKey{By: config.ByHost})
		for i := range keyed.MaxShare {
			x := newExchange("w", noon)
			x.Subject.Host = fmt.Sprintf("%0240d", i)
			admitted(t, s, x)
		}
	}
	store.write(noon)
	if len(store.buffer) > slotSize {
		t.Errorf("%d bytes in a slot", len(store.buffer))
	}
	store.file.Close()
	counters, store, err := openStore(t, name, noon)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if admitted(t, day("small", byWorkload), newExchange("w", noon)) {
		t.Error("the small table was lost")
	}
	if admitted(t, day("large0", config.CounterKey{By: config.ByHost}), func() *exchange.Exchange {
		x := newExchange("w", noon)
		x.Subject.Host = fmt.Sprintf("%0240d", 3)
		return x
	}()) {
		t.Error("no large table was kept")
	}
}

func FuzzState(f *testing.F) {
	c := savedCounter{key: "w", owner: "w", life: 7, extra: [windows]int64{1, 0, 0, 2}}
	c.counts[second], c.counts[day] = count{noon.Unix(), 3}, count{noon.Unix() / 86400 * 86400, 9}
	s := snapshot{tables: []savedTable{{key: tableKey{"r", config.LocalCounters, byWorkload}, counters: []savedCounter{c, c}}}}
	whole := seal(s.encode(make([]byte, headerSize)), 5)
	f.Add(whole, true)
	f.Add(whole[:len(whole)-1], false)
	f.Add([]byte{}, false)
	f.Add(append(bytes.Clone(whole), 1, 2, 3), true)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed && len(b) >= headerSize {
			b = seal(bytes.Clone(b), 5) // past the checksum
		}
		s, _, err := load(bytes.NewReader(b))
		if s == nil {
			if err == nil && len(bytes.Trim(b[:min(len(b), headerSize)], "\x00")) > 0 {
				t.Fatal("neither read nor damaged")
			}
			return
		}
		if _, err := decode(s.encode(nil)); err != nil {
			t.Fatalf("what was read is not readable again: %v", err)
		}
	})
}
