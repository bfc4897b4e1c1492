package keeper

import (
	"slices"
	"sync"

	"go.uber.org/zap"
)

// concerns are the problems that watchers found, by watcher, for the status. They
// do not say that the gate is open: that is for the self-probe to tell.
type concerns struct {
	mu    sync.Mutex
	named map[string][]string
	order []string
}

// concern replaces what one watcher has to say, nothing where all is well. What is
// new and what is over goes into the audit.
func (k *Keeper) concern(watcher string, problems ...string) {
	c := &k.concerns
	c.mu.Lock()
	before := c.named[watcher]
	if slices.Equal(before, problems) {
		c.mu.Unlock()
		return
	}
	if c.named == nil {
		c.named = make(map[string][]string)
	}
	if _, known := c.named[watcher]; !known {
		c.order = append(c.order, watcher)
	}
	c.named[watcher] = problems
	c.mu.Unlock()
	for _, p := range problems {
		if !slices.Contains(before, p) {
			k.log.Warn("noticed", zap.String("watcher", watcher), zap.String("problem", p))
			k.note("noticed: " + watcher + ": " + p)
		}
	}
	if len(problems) == 0 {
		k.log.Info("over", zap.String("watcher", watcher))
		k.note("over: " + watcher)
	}
	k.prodReport()
}

// all gives every problem, in the order in which the watchers first had one.
func (c *concerns) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for _, watcher := range c.order {
		for _, p := range c.named[watcher] {
			list = append(list, watcher+": "+p)
		}
	}
	return list
}
