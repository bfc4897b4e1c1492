package guard

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Options say where the table is.
type Options struct {
	// Table is the name of the table in the family inet: at most 128 bytes of
	// letters, digits and underscores, beginning with a letter.
	Table string
	// Netns is the network namespace; nil is the process's own. It must stay
	// open as long as the Guard is used.
	Netns *os.File
	// Held keeps the table twice, once in a form that nobody else can flush while
	// this process lives (see Hold).
	Held bool
	// Idle keeps the table empty whatever is applied: BPF is to be the only lock.
	Idle bool
}

// A Guard owns one nftables table in one network namespace. Its methods may be
// called from several goroutines. It needs CAP_NET_ADMIN in that namespace.
//
// A Guard keeps no state in files: whoever opens the same table again calls
// Apply, which adopts what is already right and never leaves a gap.
type Guard struct {
	table string
	netns *os.File

	mu       sync.Mutex
	conn     *connection // for reading; opened when first needed
	want     *expected   // nil before the first Apply
	verified uint32      // the generation that was last compared and found right; 0 for none
	totals   totals

	twin  *Guard // nil for none
	owned bool   // this one is somebody's twin
	owner *netlink.Conn
	idle  bool
}

// New gives the owner of a table. It changes nothing in the kernel.
func New(o Options) (*Guard, error) {
	if !validName(o.Table) {
		return nil, fmt.Errorf("guard: table name %q: want letters, digits and underscores", o.Table)
	}
	g := &Guard{table: o.Table, netns: o.Netns, idle: o.Idle, totals: newTotals()}
	if o.Held {
		return g, g.Hold()
	}
	return g, nil
}

// validName keeps to names that need no quoting in nft(8). The kernel's limit is
// NFT_NAME_MAXLEN, 256.
func validName(name string) bool {
	const longest = 128
	if name == "" || len(name) > longest {
		return false
	}
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return true
}

// Apply makes the table what state says and reads it back: nil means that the
// kernel has it. It sends one batch, which nf_tables applies as a whole; where
// nothing differs it sends none. What others changed in the table is undone.
//
// A state that cannot be enforced as written (a level outside 1 to 255, a direct
// rule of a cgroup that is not tagged, more elements than fit) is an error and
// changes nothing.
func (g *Guard) Apply(state State) error { return g.apply(state, false) }

func (g *Guard) apply(state State, adopt bool) error {
	if g.idle {
		state, adopt = State{}, false
	}
	var got snapshot
	if adopt {
		g.mu.Lock()
		var err error
		got, err = g.read()
		g.mu.Unlock()
		if err != nil {
			return fmt.Errorf("guard: read table %s: %w", g.table, err)
		}
		state = state.with(got)
	}
	levels, err := state.levels()
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	r, err := build(state)
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	if g.owned {
		r.flags = tableOwner
	}
	want, err := expect(r)
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	if g.twin != nil && !adopt {
		if err := g.twin.Apply(state); err != nil {
			return err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.totals.tag(levels)
	if adopt {
		want.adopt(got)
	}
	// From here on Check compares with this state, also if the kernel refuses it.
	g.want, g.verified = want, 0
	if err := g.converge(); err != nil {
		return fmt.Errorf("guard: apply table %s: %w", g.table, err)
	}
	return nil
}

// converge changes the table until the kernel has what is wanted. A second try
// makes the table anew: somebody else may have changed it since it was read, or
// put something there that cannot be changed in place.
func (g *Guard) converge() error {
	const tries = 3
	var failed error
	for try := range tries {
		got, err := g.read()
		if err != nil {
			return err
		}
		if len(compare(g.want, got)) == 0 {
			g.verified = got.generation
			return nil
		}
		t := plan(g.want, got)
		if try > 0 {
			t = remake(g.want, got.exists)
		}
		switch err := g.commit(t); {
		case err == nil:
			if t.remake {
				g.totals.restart()
			}
		case errors.Is(err, unix.EPERM):
			return err
		case !applied(err):
			failed = err
		}
	}
	got, err := g.read()
	if err != nil {
		return err
	}
	problems := compare(g.want, got)
	if len(problems) == 0 {
		g.verified = got.generation
		return nil
	}
	return errors.Join(failed, fmt.Errorf("%d differences remain, the first is %v", len(problems), problems[0]))
}

func (g *Guard) commit(t transaction) error {
	if g.owned {
		return g.commitOwned(t)
	}
	nl, err := dialWriter(g.netns)
	if err != nil {
		return err
	}
	defer nl.Close()
	return t.commit(nl, g.table)
}

// read gives what the kernel has, and takes the counters from it. A connection
// that failed is not used again: answers may still wait in it.
func (g *Guard) read() (snapshot, error) {
	var got snapshot
	err := g.with(func(c *connection) (err error) {
		got, err = c.snapshot(g.table)
		return err
	})
	if err == nil {
		g.totals.observe(got)
	}
	return got, err
}

// with runs fn on the reading connection.
func (g *Guard) with(fn func(*connection) error) error {
	if g.conn == nil {
		conn, err := dial(g.netns)
		if err != nil {
			return err
		}
		g.conn = conn
	}
	err := fn(g.conn)
	if err != nil {
		g.conn.nl.Close()
		g.conn = nil
	}
	return err
}

// Check compares the table in the kernel with what Apply was last asked for, and
// lists the differences. It is cheap enough to call every 500 ms: as long as
// nobody changed any nftables rule of the namespace since the table was last
// found right, one question to the kernel answers it (the ruleset's generation).
func (g *Guard) Check() ([]Problem, error) {
	problems, err := g.check()
	if g.twin == nil || err != nil {
		return problems, err
	}
	more, err := g.twin.check()
	for _, p := range more {
		problems = append(problems, Problem{"held " + p.Object, p.Detail})
	}
	return problems, err
}

func (g *Guard) check() ([]Problem, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.want == nil {
		return nil, errors.New("guard: check before the first apply")
	}
	if g.verified != 0 {
		var generation uint32
		err := g.with(func(c *connection) (err error) {
			generation, err = c.generation()
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("guard: check table %s: %w", g.table, err)
		}
		if generation == g.verified {
			return nil, nil
		}
	}
	got, err := g.read()
	if err != nil {
		return nil, fmt.Errorf("guard: check table %s: %w", g.table, err)
	}
	problems := compare(g.want, got)
	g.verified = 0
	if len(problems) == 0 {
		g.verified = got.generation
	}
	return problems, nil
}

// Delete removes the table. An absent one is no error. Afterwards nothing is
// guarded here, and Check reports the table as missing.
func (g *Guard) Delete() error {
	if g.twin != nil {
		if err := g.twin.Close(); err != nil {
			return fmt.Errorf("guard: delete table %s: %w", g.twin.table, err)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.verified = 0
	got, err := g.read()
	if err != nil {
		return fmt.Errorf("guard: delete table %s: %w", g.table, err)
	}
	if !got.exists {
		return nil
	}
	err = g.commit(transaction{remake: true})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("guard: delete table %s: %w", g.table, err)
	}
	g.totals.restart()
	return nil
}

// Close ends the connection to the kernel. The table stays; its twin goes.
func (g *Guard) Close() error {
	var errs []error
	if g.twin != nil {
		errs = append(errs, g.twin.Close())
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	errs = append(errs, g.disown())
	if g.conn != nil {
		errs = append(errs, g.conn.nl.Close())
		g.conn = nil
	}
	return errors.Join(errs...)
}

// A Resource says how full a bounded thing is.
type Resource struct {
	Name              string
	Entries, Capacity int
}

// Resources gives how full each set is, as last applied. A set that would
// overflow makes Apply fail.
func (g *Guard) Resources() []Resource {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.want == nil {
		return nil
	}
	list := make([]Resource, 0, len(g.want.sets))
	for _, s := range g.want.sets {
		list = append(list, Resource{"guard_" + s.name, len(s.elements), s.capacity})
	}
	return list
}
