package stage

import (
	"context"
	"slices"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/stage/cache"
)

// caches are the caches of all rules, which share one memory.
type caches struct {
	store *cache.Store
	// used says that a rule of the configuration that is being compiled has one.
	used bool
}

// defaultCacheBytes is the bound before the first configuration.
const defaultCacheBytes = 64e6

func newCaches() *caches { return &caches{store: cache.NewStore(defaultCacheBytes)} }

// stages appends what a rule of c needs: its cache, or, where others have one,
// what drops entries that the rule's requests have made old.
func (k *caches) stages(to []exchange.Stage, c *config.Config, r *config.Rule) []exchange.Stage {
	switch {
	case r.Cache != nil:
		return append(to, cache.New(k.store, r.Name, r.Cache, cache.PrintOf(c, r)))
	case k.used && r.Action == config.Allow && r.Handling != config.Tunnel && r.Handling != config.Direct && changes(r):
		return append(to, cache.NewInvalidator(k.store))
	default:
		return to
	}
}

// look finds out whether a rule of c has a cache.
func (k *caches) look(c *config.Config) {
	k.used = slices.ContainsFunc(c.Rules, func(r config.Rule) bool { return r.Cache != nil })
}

// changes reports whether a rule lets methods through by which resources change.
func changes(r *config.Rule) bool {
	for _, m := range r.Match.Methods {
		switch m.String() {
		case "GET", "HEAD", "OPTIONS", "TRACE":
		default:
			return true
		}
	}
	return len(r.Match.Methods) == 0
}

// apply puts the bound of a configuration in force and drops what its rules
// would not have stored.
func (k *caches) apply(c *config.Config) {
	k.store.SetMax(int64(c.Cache.MaxBytes))
	prints := make(map[string]cache.Print)
	for i := range c.Rules {
		if r := &c.Rules[i]; r.Cache != nil {
			prints[r.Name] = cache.PrintOf(c, r)
		}
	}
	k.store.Keep(prints)
}

func (k *caches) run(ctx context.Context) { k.store.Run(ctx) }

func (k *caches) resources() []Resource {
	return []Resource{{Name: "cache_bytes", Entries: uint64(k.store.Used()), Capacity: uint64(k.store.Max())}}
}

// Purge drops what a rule has stored, "" for all rules, and tells how many
// responses of how many bytes those were.
func (s *Set) Purge(rule string) (entries int, bytes int64) {
	p := s.caches.store.Purge(rule)
	return p.Entries, p.Bytes
}
