package keeper

import "sync"

// running are the commands that were admitted and not dismissed, at most
// maxCommands.
type running struct {
	mu  sync.Mutex
	all map[*command]struct{}
}

func (r *running) add(c *command) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = make(map[*command]struct{})
	}
	r.all[c] = struct{}{}
}

func (r *running) remove(c *command) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, c)
}

// list gives them in no order.
func (r *running) list() []*command {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*command, 0, len(r.all))
	for c := range r.all {
		list = append(list, c)
	}
	return list
}
