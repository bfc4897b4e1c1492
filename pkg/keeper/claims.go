package keeper

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/datapath"
	"sallyport/pkg/tag"
	"sallyport/pkg/workload"
)

const (
	// claimInterval is how often what is captured late is looked at again, and how
	// late a new cgroup is seen whose notice was lost.
	claimInterval = 500 * time.Millisecond
	// claimPause is the least time between two looks that notices asked for.
	claimPause = 2 * time.Millisecond
	// maxClaimCgroups bounds the cgroups of the host that are looked at.
	maxClaimCgroups = 16384
)

// claims follow what is to be captured outside of the slice: what `tag` commands
// and the configuration's matches name. A cgroup is tagged when it is made, before
// much runs in it; one in which something runs already is captured late.
type claims struct {
	store tag.Store
	watch *cgroupWatch
	// prod asks for a look now, from somebody who waits for its end.
	prod chan chan struct{}

	// The rest belongs to the loop.

	stamp      string
	generation uint64
	// seen are the cgroups of the last look; nil before the first.
	seen map[uint64]bool
	// unclaimed are those that nothing claims; unsure, those of which an engine has
	// to tell, with when to ask again.
	unclaimed map[uint64]bool
	unsure    map[uint64]patience
	failed    map[uint64]string

	mu   sync.Mutex
	tags []tag.Record
	// whole says that all tags could be read the last time.
	whole bool
	late  []lateCgroup
}

// A patience is how long an engine is left alone about a container that it did not
// know. One that starts is known within moments; most others are never.
type patience struct {
	wait time.Duration
	next time.Time
	// began says that something ran in its cgroup before anybody could have asked.
	// What began while the engine was asked is no later for that.
	began bool
}

const (
	firstPatience = 50 * time.Millisecond
	mostPatience  = time.Minute
)

func (p patience) longer() patience {
	p.wait = min(max(2*p.wait, firstPatience), mostPatience)
	p.next = time.Now().Add(p.wait)
	return p
}

// A lateCgroup is one that is claimed and that something runs in since before.
type lateCgroup struct {
	cgroup workload.Cgroup
	id     workload.Identity
	by     string
	// around says that a cgroup below it is captured by itself.
	around bool
}

// openClaims reads the tags, so that names are known before the first flow.
func (k *Keeper) openClaims() {
	k.claims.prod = make(chan chan struct{})
	if k.options.Standalone {
		return
	}
	k.claims.store = tag.StoreOf(k.config.StateDir)
	k.readTags()
}

// readTags reads the tags again where they may have changed.
func (k *Keeper) readTags() bool {
	c := &k.claims
	stamp := c.store.Stamp()
	if stamp == c.stamp {
		return false
	}
	tags, err := c.store.Tags()
	if err == nil {
		err = k.registry.SetNamed(tag.Named(tags))
	}
	if err != nil {
		// What was said before holds on; a file that cannot be read opens nothing.
		k.concern("tags", err.Error())
	} else {
		k.concern("tags")
		c.mu.Lock()
		c.tags = tags
		c.mu.Unlock()
	}
	c.mu.Lock()
	c.whole = err == nil
	c.mu.Unlock()
	for _, r := range tags {
		if len(r.Kept) == 0 {
			continue
		}
		// Made by the command; from now on kept current.
		if _, _, err := k.trust.ForUnit(r.Name, r.Kept); err != nil {
			k.log.Warn("trust of a unit", zap.String("unit", r.Name), zap.Error(err))
		}
	}
	c.stamp = stamp
	return true
}

// watchClaims looks until ctx ends.
func (k *Keeper) watchClaims(ctx context.Context) error {
	if k.options.Standalone {
		<-ctx.Done()
		return nil
	}
	c := &k.claims
	w, err := newCgroupWatch()
	if err != nil {
		return err
	}
	var reading sync.WaitGroup
	defer reading.Wait()
	defer w.close()
	c.watch = w
	notices := make(chan struct{}, 1)
	reading.Go(func() { w.run(notices) })
	tick := time.NewTicker(claimInterval)
	defer tick.Stop()
	for {
		k.look(ctx)
		var done chan struct{}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-notices:
			time.Sleep(claimPause)
		case done = <-c.prod:
		}
		if done != nil {
			k.look(ctx)
			close(done)
		}
	}
}

// lookNow has the claims looked at and waits for it.
func (k *Keeper) lookNow(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case k.claims.prod <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// look compares the host's cgroups with the claims once.
func (k *Keeper) look(ctx context.Context) {
	c := &k.claims
	changed := k.readTags()
	k.mu.Lock()
	generation := k.generation
	k.mu.Unlock()
	if changed || generation != c.generation || c.unclaimed == nil {
		c.generation = generation
		c.unclaimed, c.unsure, c.failed = make(map[uint64]bool), make(map[uint64]patience), make(map[uint64]string)
	}
	if forgot, err := k.gate.forgetElsewhere(); err != nil {
		k.log.Error("cgroups tagged outside of the slice", zap.Error(err))
	} else if forgot {
		k.prodWatch()
	}
	k.endPassing()
	if !k.registry.ClaimsElsewhere() {
		c.seen = nil
		k.setLate(nil)
		return
	}
	l := look{k: k, ctx: ctx, places: ownPlaces{k.gate.tagged.Path(), k.gate.home.Path(), k.options.Instance.Table}, first: c.seen == nil, seen: make(map[uint64]bool)}
	if err := l.walk(); err != nil {
		k.log.Error("cgroups of the host", zap.Error(err))
	}
	maps.DeleteFunc(c.unclaimed, func(id uint64, _ bool) bool { return !l.seen[id] })
	maps.DeleteFunc(c.unsure, func(id uint64, _ patience) bool { return !l.seen[id] })
	maps.DeleteFunc(c.failed, func(id uint64, _ string) bool { return !l.seen[id] })
	c.watch.keep(l.seen)
	c.seen = l.seen
	k.setLate(l.late)
	if l.tagged {
		k.prodWatch()
		if _, err := k.sweepForeign(foreignTurn); err != nil {
			k.log.Warn("sockets of what was tagged just now", zap.Error(err))
		}
		k.reportForeign()
	}
}

// setLate publishes what is captured late.
func (k *Keeper) setLate(late []lateCgroup) {
	c := &k.claims
	lines := make([]string, len(late))
	for i := range late {
		lines[i] = late[i].String()
	}
	c.mu.Lock()
	c.late = late
	c.mu.Unlock()
	k.concern("captured late", lines...)
}

// lateNow gives what is captured late.
func (k *Keeper) lateNow() []lateCgroup {
	k.claims.mu.Lock()
	defer k.claims.mu.Unlock()
	return slices.Clone(k.claims.late)
}

// A look is one walk over the host's cgroups.
type look struct {
	k      *Keeper
	ctx    context.Context
	places ownPlaces
	first  bool
	seen   map[uint64]bool
	late   []lateCgroup
	tagged bool
}

// walk looks at every cgroup of the host that nothing holds yet.
func (l *look) walk() error {
	root, err := l.k.gate.tree.Cgroup("/")
	if err != nil {
		return err
	}
	var errs []error
	cut, err := byTurnsBelow([]workload.Cgroup{root}, maxClaimCgroups, func(t *turn) bool {
		descend, err := l.visit(t.cgroup)
		errs = append(errs, err)
		return descend
	})
	var beyond []string
	for _, path := range pathsOf(cut) {
		beyond = append(beyond, fmt.Sprintf("%s has more than its share of the %d cgroups of the host that are looked at: what is beyond is not captured outside of the slice", path, maxClaimCgroups))
	}
	l.k.concern("cgroups", beyond...)
	return errors.Join(append(errs, err)...)
}

// visit looks at one cgroup, and reports whether those below it are to be looked at.
func (l *look) visit(cg workload.Cgroup) (descend bool, err error) {
	g := l.k.gate
	if l.places.ours(cg.Path()) {
		return false, nil
	}
	l.seen[cg.ID()] = true
	g.mu.Lock()
	old, held := g.elsewhere[cg.Path()]
	g.mu.Unlock()
	if held && old.ID() == cg.ID() {
		return false, nil
	}
	// Before its children are read: one that is made in between gives a notice.
	l.k.claims.watch.add(cg)
	if l.k.claims.unclaimed[cg.ID()] || !l.places.mayTag(cg.Path()) {
		return true, nil
	}
	taken, err := l.judge(cg)
	return !taken, err
}

// judge says what becomes of a cgroup, and tags it where it is time. It reports
// whether somebody claims it.
func (l *look) judge(cg workload.Cgroup) (bool, error) {
	c := &l.k.claims
	p, asked := c.unsure[cg.ID()]
	if !asked {
		p.began = l.first || c.seen[cg.ID()]
	}
	if time.Now().Before(p.next) {
		return false, nil
	}
	claim, ok := l.k.registry.ClaimOf(cg.Path())
	switch {
	case !ok && claim.Unsure:
		c.unsure[cg.ID()] = p.longer()
		return false, nil
	case !ok:
		c.unclaimed[cg.ID()] = true
		return false, nil
	}
	populated, err := cg.Populated()
	if errors.Is(err, workload.ErrGone) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	if populated && p.began && !l.k.tagsNow(cg.Path()) {
		id, err := l.k.registry.Identify(cg.ID())
		if err == nil {
			l.late = append(l.late, lateCgroup{cgroup: cg, id: id, by: claim.By})
		}
		return true, nil
	}
	err = l.k.gate.tagElsewhere(cg)
	switch {
	case err == nil:
		l.tagged = true
		l.k.note("captured outside of the slice: " + cg.Path())
		return true, nil
	case errors.Is(err, datapath.ErrNested):
		// What is below is held; this one follows when that has ended.
		id, ierr := l.k.registry.Identify(cg.ID())
		if ierr == nil {
			l.late = append(l.late, lateCgroup{cgroup: cg, id: id, by: claim.By, around: true})
		}
		return false, nil
	case c.failed[cg.ID()] != err.Error():
		c.failed[cg.ID()] = err.Error()
		l.k.log.Error("capture outside of the slice", zap.String("cgroup", cg.Path()), zap.Error(err))
		l.k.note("not captured: " + cg.Path() + ": " + err.Error())
	}
	return true, nil
}

// tagsNow reports whether a command named this very cgroup: then what runs there
// is captured at once.
func (k *Keeper) tagsNow(path string) bool {
	k.claims.mu.Lock()
	defer k.claims.mu.Unlock()
	return slices.ContainsFunc(k.claims.tags, func(r tag.Record) bool { return r.Kind == tag.KindCgroup && r.Name == path })
}

// endPassing takes away the cgroups of `tag pid` in which nothing runs any more,
// with what was kept of them.
func (k *Keeper) endPassing() {
	k.claims.mu.Lock()
	tags := k.claims.tags
	k.claims.mu.Unlock()
	for _, r := range tags {
		if r.ID == 0 {
			continue
		}
		cg, err := k.gate.tree.Cgroup(r.Name)
		if err == nil && cg.ID() == r.ID && r.Boot == bootID() {
			if populated, err := cg.Populated(); err != nil || populated {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			err = cg.Remove(ctx)
			cancel()
			if err != nil {
				continue
			}
		} else if err != nil && !errors.Is(err, workload.ErrGone) {
			continue
		}
		if err := k.claims.store.Drop(r.Kind, r.Name); err != nil && !errors.Is(err, tag.ErrNotTagged) {
			k.log.Warn("tags", zap.Error(err))
		}
	}
}
