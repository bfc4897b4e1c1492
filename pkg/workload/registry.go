package workload

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"
)

// ErrMismatch says that a command asked for a configured workload whose `user`
// or `command` does not hold for it.
var ErrMismatch = errors.New("does not match")

const (
	// MaxTagged is how many tagged cgroups a Registry holds.
	MaxTagged = 16384
	// identityCache is how many worked-out identities it remembers.
	identityCache = 8192
	// maxCommand bounds a remembered command line, in bytes.
	maxCommand = 4096
)

// Paths finds the path of a cgroup by its id. *Tree does; a process without
// privilege asks one that has it. Errors wrap ErrGone where it was removed.
type Paths interface {
	Path(id uint64) (string, error)
}

// Containers asks an engine for what it knows of a container. It may take a
// second.
type Containers interface {
	Container(id string) (Container, error)
}

// A Tag is one tagged cgroup and what was said when it was tagged. Only ID and
// Path are needed.
type Tag struct {
	ID   uint64
	Path string
	// Workload is the value of --workload: a configured entry, or a new name.
	Workload string
	// Argv is the command given to `exec`.
	Argv []string
	// User is the peer that asked for it.
	User string
	// Unconfined says that the command stayed root.
	Unconfined bool
}

// A Registry answers which workload a cgroup is. Sockets are often made below
// the tagged cgroup (a service's own sub-cgroups); they belong to the nearest
// tagged one above. It is safe for concurrent use.
type Registry struct {
	paths      Paths
	containers Containers

	// asks is set where an entry cannot be compared without an engine's answer.
	asks atomic.Bool

	mu      sync.RWMutex
	entries []Entry
	named   []Named
	tags    map[string]Tag
	known   *lru.Cache[uint64, Identity]
	ended   *lru.Cache[uint64, endedTag]
}

// An endedTag is what a tag said whose cgroup has ended: a connection that it
// made may be accepted only now. Without it, it would be taken for one of the
// next workload above, for which other rules hold.
type endedTag struct {
	subject *subject
	tag     Tag // without Argv, which has no bound
}

// NewRegistry makes a registry with the entries in file order. containers may
// be nil: then no entry matches a container as such. A glob or template that
// cannot be used is an error.
func NewRegistry(entries []Entry, paths Paths, containers Containers) (*Registry, error) {
	if err := checkEntries(entries); err != nil {
		return nil, err
	}
	known, err := lru.New[uint64, Identity](identityCache)
	if err != nil {
		return nil, err
	}
	ended, err := lru.New[uint64, endedTag](identityCache)
	if err != nil {
		return nil, err
	}
	r := &Registry{paths: paths, containers: containers, entries: entries, tags: make(map[string]Tag), known: known, ended: ended}
	r.asks.Store(askEngines(entries))
	return r, nil
}

// askEngines reports whether an entry has to do with containers.
func askEngines(entries []Entry) bool {
	return slices.ContainsFunc(entries, func(e Entry) bool {
		return len(e.Match.Containers) > 0 || strings.Contains(e.Name, "{container}")
	})
}

// SetEntries replaces the configured workloads; identities are worked out
// anew. On an error the old ones stay.
func (r *Registry) SetEntries(entries []Entry) error {
	if err := checkEntries(entries); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = entries
	r.asks.Store(askEngines(entries) || askForNames(r.named))
	r.known.Purge()
	return nil
}

func checkEntries(entries []Entry) error {
	for _, e := range entries {
		if err := e.Match.compiles(); err != nil {
			return fmt.Errorf("workload %s: %w", e.Key, err)
		}
		if err := checkTemplate(e.Name); err != nil {
			return fmt.Errorf("workload %s: %w", e.Key, err)
		}
	}
	return nil
}

// Add makes the cgroup a workload and gives its identity. A tag for the same
// path replaces the former one, whose cgroup is gone then. Errors wrap ErrFull
// at MaxTagged tags, where nothing more may be started, and ErrMismatch for a
// configured workload that this user or command may not be.
func (r *Registry) Add(t Tag) (Identity, error) {
	path, err := cleanPath(t.Path)
	if err != nil {
		return Identity{}, err
	}
	t.Path = path
	found := r.container(path, &t)
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, replaces := r.tags[path]; !replaces && len(r.tags) >= MaxTagged {
		return Identity{}, fmt.Errorf("%d tagged cgroups: %w", MaxTagged, ErrFull)
	}
	s := newSubject(path, &t, &found)
	if e := r.entry(t.Workload); e != nil && !e.Match.holdsForCommand(s) {
		return Identity{}, fmt.Errorf("workload %s is for another user or command: %w", t.Workload, ErrMismatch)
	}
	r.tags[path] = t
	r.ended.Remove(t.ID)
	r.known.Purge()
	return r.identify(s, &t), nil
}

// Remove forgets the tag of the cgroup with that id. Its identity stays known
// for connections that it has made, until its place is needed.
func (r *Registry) Remove(id uint64) {
	t, ok := r.tagged(id)
	if !ok {
		return
	}
	found := r.container(t.Path, &t)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tags[t.Path].ID != id {
		return
	}
	delete(r.tags, t.Path)
	s := newSubject(t.Path, &t, &found)
	t.Argv = nil
	r.ended.Add(id, endedTag{s, t})
}

// tagged gives the tag of the cgroup with that id.
func (r *Registry) tagged(id uint64) (Tag, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, t := range r.tags {
		if t.ID == id {
			return t, true
		}
	}
	return Tag{}, false
}

// Tags are the tagged cgroups, in no order.
func (r *Registry) Tags() []Tag {
	r.mu.RLock()
	defer r.mu.RUnlock()
	tags := make([]Tag, 0, len(r.tags))
	for _, t := range r.tags {
		tags = append(tags, t)
	}
	return tags
}

// Identify says whose the cgroup is. An id that neither a tag nor the kernel
// knows is an error: a flow without a workload must be closed, not guessed at.
func (r *Registry) Identify(id uint64) (Identity, error) {
	if i, ok := r.known.Get(id); ok {
		return i, nil
	}
	if i, ok := r.identifyEnded(id); ok {
		return i, nil
	}
	path, err := r.pathOf(id)
	if err != nil {
		return Identity{}, fmt.Errorf("cgroup id %d: %w", id, err)
	}
	r.mu.RLock()
	tag := r.nearest(path)
	r.mu.RUnlock()
	// An engine is asked without the lock: nobody else waits for its answer.
	found := r.container(path, tag)
	// The lock is held over Add to the cache, so that no identity of former
	// entries outlives SetEntries' purge.
	r.mu.RLock()
	defer r.mu.RUnlock()
	tag = r.nearest(path)
	i := r.identify(newSubject(path, tag, &found), tag)
	if !found.missed {
		r.known.Add(id, i)
	}
	return i, nil
}

// identifyEnded names a cgroup whose tag has been removed.
func (r *Registry) identifyEnded(id uint64) (Identity, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	e, ok := r.ended.Get(id)
	if !ok {
		return Identity{}, false
	}
	i := r.identify(e.subject, &e.tag)
	r.known.Add(id, i)
	return i, true
}

// pathOf asks the tags first: they are known also after removal.
func (r *Registry) pathOf(id uint64) (string, error) {
	if t, ok := r.tagged(id); ok {
		return t.Path, nil
	}
	return r.paths.Path(id)
}

// nearest is the tag of the path or the closest above it.
func (r *Registry) nearest(path string) *Tag {
	for {
		if t, ok := r.tags[path]; ok {
			return &t
		}
		i := strings.LastIndexByte(path, '/')
		if i <= 0 {
			return nil
		}
		path = path[:i]
	}
}

// identify names the subject: by --workload, else by the first entry that
// matches, else after itself.
func (r *Registry) identify(s *subject, t *Tag) Identity {
	i := s.id
	if t == nil || t.Workload == "" {
		if name := r.nameOf(s); name != "" {
			t = &Tag{Workload: name}
		}
	}
	container := s.container.Name
	if container == "" && i.Container != "" {
		container = i.Container[:min(len(i.Container), shortContainer)]
	}
	entry := (*Entry)(nil)
	if t != nil && t.Workload != "" {
		entry = r.entry(t.Workload)
		if entry == nil {
			i.Name = r.apart(Label(t.Workload), true)
			return i
		}
	} else {
		for k := range r.entries {
			if r.entries[k].Match.holds(s) {
				entry = &r.entries[k]
				break
			}
		}
	}
	if entry == nil {
		i.Name = r.apart(Label(ownName(s, container)), i.Command != "")
		return i
	}
	i.Entry = entry.Key
	i.Name = Label(expand(entry, s, container))
	return i
}

// unlisted begins the name of a workload that no entry matched, where its own
// name is one that an entry gives.
const unlisted = "unlisted:"

// apart keeps what no entry matched from going by a name that an entry gives:
// rules are found by name, so a program called like somebody else's workload
// would get what that one may do. A name that was chosen freely, as a command's,
// is compared with templates too; a unit or container bears its own.
func (r *Registry) apart(name string, chosen bool) string {
	for k := range r.entries {
		e := &r.entries[k]
		templated := strings.Contains(e.Name, "{")
		if name == e.Key || (chosen || !templated) && couldName(e, name) {
			return Label(unlisted + name)
		}
	}
	return name
}

func (r *Registry) entry(key string) *Entry {
	if key == "" {
		return nil
	}
	for k := range r.entries {
		if r.entries[k].Key == key {
			return &r.entries[k]
		}
	}
	return nil
}

// Resources says how full the registry is. Tags: Add refuses when full.
// Identities: the one unused for longest is worked out again.
func (r *Registry) Resources() []Resource {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return []Resource{
		{Name: "workloads", Entries: len(r.tags), Capacity: MaxTagged},
		{Name: "workload_identities", Entries: r.known.Len(), Capacity: identityCache},
		{Name: "workloads_ended", Entries: r.ended.Len(), Capacity: identityCache},
	}
}
