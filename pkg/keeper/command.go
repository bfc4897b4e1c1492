package keeper

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/ca"
	"sallyport/pkg/confine"
	"sallyport/pkg/workload"
)

// A Launch is what somebody asks `exec` to start.
type Launch struct {
	Argv []string `json:"argv"`
	// Env is the environment of the command so far.
	Env []string `json:"env"`
	// Dir is where the command starts, and where relative paths in Env begin.
	Dir string `json:"dir"`
	// Workload is the value of --workload.
	Workload string `json:"workload"`
	// UID, GID, Groups, User and Home are those of the command.
	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	Groups []int  `json:"groups"`
	User   string `json:"user"`
	Home   string `json:"home"`
	// KeepSockets leaves the sockets of resolvers, buses and engines visible.
	KeepSockets bool `json:"keep_sockets"`
}

// A Plan is what the command's process has to do before it is the command.
type Plan struct {
	Spec confine.Spec `json:"spec"`
	// Files and Stack are the limits that the process sets itself: of open files, and
	// of the stack's size. nil keeps its own.
	Files *unix.Rlimit `json:"files"`
	Stack *unix.Rlimit `json:"stack"`
	// Name is the workload's name.
	Name string `json:"name"`
	// Audit is the file that records what the command does.
	Audit string `json:"audit"`
	// Notes are sentences for -v.
	Notes []string `json:"notes"`
}

// A command is one program that `exec` started, with what was made for it.
type command struct {
	cgroup workload.Cgroup
	trust  *ca.Directory
	id     workload.Identity
	plan   Plan
	// exposed says that hiding sockets from it again failed the last time; it
	// belongs to hideAgain.
	exposed bool
	// holder is in a scope before the command is; nil elsewhere.
	holder *holder
}

// admit makes the cgroup of a command and everything else that it needs before
// its first instruction. The gate holds for the cgroup from its first moment:
// it lies below the tagged one.
func (k *Keeper) admit(l *Launch, path string) (*command, error) {
	cg, h, err := k.makeCommandCgroup(path)
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	c := &command{cgroup: cg, holder: h}
	if err := k.equip(c, l); err != nil {
		k.dismiss(c)
		return nil, err
	}
	k.running.add(c)
	return c, nil
}

func (k *Keeper) equip(c *command, l *Launch) (err error) {
	c.id, err = k.registry.Add(workload.Tag{
		ID: c.cgroup.ID(), Path: c.cgroup.Path(), Workload: l.Workload, Argv: l.Argv, User: l.User, Unconfined: l.UID == 0,
	})
	if err != nil {
		return err
	}
	if err := k.applyDirect(); err != nil {
		return err
	}
	// Twice: which of the user's own certificates join depends on the variables,
	// and where the variables point to on the directory that is made of them.
	_, kept := ca.Environment(l.Env, k.trust.Shared().Paths(l.Env))
	dir, problems, err := k.trust.ForWorkload(kept, l.Dir, asUser(l.UID, l.GID, l.Groups))
	if err != nil {
		return fmt.Errorf("trust: %w", err)
	}
	c.trust = dir
	set, _ := ca.Environment(l.Env, dir.Paths(l.Env))
	for _, p := range problems {
		c.plan.Notes = append(c.plan.Notes, p.Error())
	}
	c.plan.Name, c.plan.Audit = c.id.Name, k.auditOptions().Path
	c.plan.Spec = confine.Spec{
		Argv:        l.Argv,
		Env:         WithVariables(l.Env, set),
		Dir:         l.Dir,
		UID:         l.UID,
		GID:         l.GID,
		Groups:      l.Groups,
		Hide:        confine.HiddenSockets(l.UID, l.Home, l.Env),
		Own:         k.ownDirectories(),
		KeepSockets: l.KeepSockets,
	}
	for _, m := range dir.Mounts() {
		c.plan.Spec.Trust = append(c.plan.Spec.Trust, confine.Mount{Source: m.Source, Target: m.Target})
	}
	// Variables point into the directory at its own path, below a hidden one.
	c.plan.Spec.Trust = append(c.plan.Spec.Trust, confine.Mount{Source: dir.Path(), Target: dir.Path()})
	if l.UID == 0 {
		k.note(fmt.Sprintf("command %q of workload %s runs as root: not confined", l.Argv[0], c.id.Name))
	}
	if l.KeepSockets {
		k.note(fmt.Sprintf("command %q of workload %s keeps the sockets of resolvers, buses and container engines", l.Argv[0], c.id.Name))
	}
	return nil
}

// ownDirectories are sallyport's own, hidden from every command, and so is the
// file that tells what the command does: without a daemon it belongs to the
// caller, as whom the command runs.
func (k *Keeper) ownDirectories() []string {
	own := []string{k.config.RuntimeDir, k.config.StateDir, k.config.BPFDir, k.auditOptions().Path}
	if dir := filepath.Dir(k.config.Admin.Socket); !slices.Contains(own, dir) && dir != "/run" && dir != "/tmp" {
		own = append(own, dir)
	}
	return own
}

// dismiss ends whatever still runs of a command and takes away what was made
// for it.
func (k *Keeper) dismiss(c *command) error {
	k.running.remove(c)
	c.holder.release()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := c.cgroup.Kill(ctx); err != nil {
		return fmt.Errorf("kill %s: %w", c.cgroup.Path(), err)
	}
	if c.trust != nil {
		if err := c.trust.Remove(); err != nil {
			return err
		}
	}
	k.registry.Remove(c.cgroup.ID())
	return c.cgroup.Remove(ctx)
}

// WithVariables gives env with the variables of set added or replaced.
func WithVariables(env, set []string) []string {
	out := slices.Clone(env)
	for _, s := range set {
		name, _, _ := strings.Cut(s, "=")
		out = slices.DeleteFunc(out, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		out = append(out, s)
	}
	return out
}
