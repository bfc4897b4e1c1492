package keeper

import "sync"

// commandsPerUser is the share of one user who is not root.
const commandsPerUser = maxCommands / 2

// callers count the commands of each user, so that one cannot take the places of
// all. Only users with commands have an entry.
type callers struct {
	mu  sync.Mutex
	all map[int]int
}

// take counts a command of a user, unless that one's share is used up.
func (c *callers) take(uid int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if uid != 0 && c.all[uid] >= commandsPerUser {
		return false
	}
	if c.all == nil {
		c.all = make(map[int]int)
	}
	c.all[uid]++
	return true
}

func (c *callers) give(uid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all[uid]--; c.all[uid] <= 0 {
		delete(c.all, uid)
	}
}

// total counts the commands of all users.
func (c *callers) total() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range c.all {
		n += of
	}
	return n
}
