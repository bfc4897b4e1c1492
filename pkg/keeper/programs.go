package keeper

import (
	"errors"
	"fmt"
	"os"

	"go.uber.org/zap"

	"sallyport/pkg/datapath"
)

// load takes over the pinned programs and maps, or makes them anew.
func (g *gate) load() error {
	o := datapath.Options{
		PinDir:       g.instance.Pins,
		CgroupRoot:   g.tree.Point(),
		KeeperCgroup: g.home.Dir(),
	}
	var err error
	g.data, err = datapath.Open(o)
	if errors.Is(err, datapath.ErrIncompatible) {
		// Another version's: its pins go once ours are attached beside them. What an
		// interrupted upgrade left is older still, and these are in force.
		g.log.Warn("pinned programs of another version are replaced", zap.Error(err))
		g.replaced = err
		g.discard(outdated(o.PinDir))
		if err := os.Rename(o.PinDir, outdated(o.PinDir)); err != nil {
			return fmt.Errorf("bpf: %w", err)
		}
		err = datapath.ErrNotPinned
	}
	if errors.Is(err, datapath.ErrNotPinned) {
		g.data, err = datapath.Create(o)
	}
	if err != nil {
		return fmt.Errorf("bpf: %w", err)
	}
	attach := g.data.AttachSlice
	if g.instance.Name != servicePrefix {
		attach = g.data.Attach
	}
	if err := attach(g.tagged.Dir()); err != nil {
		return fmt.Errorf("bpf: attach to %s: %w", g.tagged.Path(), err)
	}
	if _, err := os.Stat(outdated(o.PinDir)); err == nil {
		g.discard(outdated(o.PinDir))
	}
	return nil
}

// outdated is where pins go that are to be replaced. bpffs allows no dot in a
// name.
func outdated(pins string) string { return pins + "-outdated" }

// discard removes pins; links that lose their last pin are detached.
func (g *gate) discard(pins string) {
	if err := os.RemoveAll(pins); err != nil {
		g.log.Error("remove old pins", zap.Error(err))
	}
}
