package keeper

import (
	"errors"
	"fmt"
	"os"
)

// maxOthersCgroups bounds the cgroups that are looked at for programs of others.
const maxOthersCgroups = 256

// watchOthers tells of BPF programs of others that run at our hooks for tagged
// sockets. They cannot open the gate, so they are left alone; but they can keep
// connections from reaching us, and whoever looks for the reason should know.
func (k *Keeper) watchOthers() {
	if k.gate.data == nil {
		return
	}
	var problems []string
	seen := make(map[string]bool)
	cgroups, _, err := k.belowAll(maxOthersCgroups)
	if err != nil {
		problems = append(problems, err.Error())
	}
	for _, cg := range cgroups {
		others, err := k.gate.data.Others(cg.Dir())
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			problems = append(problems, err.Error())
			break
		}
		for _, o := range others {
			// One that sits above many cgroups is seen from each.
			if what := o.String(); !seen[what] {
				seen[what] = true
				problems = append(problems, fmt.Sprintf("another program's %s runs for %s; it cannot open the gate, but connections may fail: bpftool cgroup tree shows it", what, cg.Path()))
			}
		}
	}
	k.concern("bpf programs", problems...)
}
