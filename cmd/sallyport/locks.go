package main

import (
	"github.com/spf13/cobra"

	"sallyport/pkg/keeper"
)

// A locksFlag is keeper.Locks as a flag.
type locksFlag struct{ to *keeper.Locks }

func (f locksFlag) String() string { return "" }
func (f locksFlag) Type() string   { return "locks" }

func (f locksFlag) Set(s string) (err error) {
	*f.to, err = keeper.ParseLocks(s)
	return err
}

// hideLocks gives a command the hidden flag that chooses by what it is enforced.
// It is for tests, and for operators who want to know what one lock alone does on
// a host that has both.
func hideLocks(c *cobra.Command, to *keeper.Locks) {
	c.Flags().Var(locksFlag{to}, "locks", "enforce by both, nft or bpf")
	c.Flags().Lookup("locks").Hidden = true
}

// locked gives places whose instances are enforced as the flag says.
func (e *env) locked(p keeper.Places) keeper.Places {
	p.Locks = e.locks
	return p
}
