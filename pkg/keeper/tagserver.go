package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/foreign"
	"sallyport/pkg/keeper/wire"
	"sallyport/pkg/systemd"
	"sallyport/pkg/tag"
	"sallyport/pkg/workload"
)

// What `tag` asks the daemon for, over the socket of `exec`. Only root may.
const (
	methodTag    = "tag"
	methodTagged = "tagged"
)

// tagTimeout bounds what the daemon does for one `tag`.
const tagTimeout = 20 * time.Second

// TagArgs are what `tag` asks for. What is kept has been written already; the
// daemon puts it in force.
type TagArgs struct {
	Kind tag.Kind `json:"kind"`
	Name string   `json:"name"`
	// PID is the process of tag.KindProcess; its pidfd is the message's descriptor.
	PID      int    `json:"pid"`
	Workload string `json:"workload"`
}

// TagResult tells what is in force now.
type TagResult struct {
	// Cgroups are what is captured by the tag, Late what will be at its next start.
	Cgroups []string `json:"cgroups"`
	Late    []string `json:"late"`
	// Ended are the sockets that were destroyed.
	Ended []string `json:"ended"`
	Notes []string `json:"notes"`
}

// serveTag answers one `tag`.
func (k *Keeper) serveTag(ctx context.Context, conn *wire.Conn, who *caller, m *wire.Message, refuse func(error) error) error {
	if who.uid != 0 {
		return refuse(errors.New("only root may tag"))
	}
	var args TagArgs
	if err := m.Decode(&args); err != nil {
		return refuse(err)
	}
	ctx, cancel := context.WithTimeout(ctx, tagTimeout)
	defer cancel()
	var out TagResult
	var err error
	if args.Kind == tag.KindProcess {
		err = k.tagProcess(ctx, &args, m.Files, &out)
	} else {
		err = k.applyTag(ctx, &args, &out)
	}
	if err != nil {
		return refuse(err)
	}
	return conn.Send(&wire.Message{Method: methodTagged}, &out)
}

// applyTag puts a kept tag in force and says what it holds for.
func (k *Keeper) applyTag(ctx context.Context, args *TagArgs, out *TagResult) error {
	if err := k.lookNow(ctx); err != nil {
		return err
	}
	one := tag.Record{Kind: args.Kind, Name: args.Name}
	r, err := workload.NewRegistry(nil, k.gate.tree, k.engines)
	if err != nil {
		return err
	}
	if err := r.SetNamed(tag.Named([]tag.Record{one})); err != nil {
		return err
	}
	roots := k.gate.taggedCgroups()
	cgroups, err := roots[0].Children()
	if err != nil {
		return err
	}
	for _, cg := range append(cgroups, roots[1:]...) {
		populated, err := cg.Populated()
		if _, ok := r.ClaimOf(cg.Path()); ok && err == nil && populated {
			out.Cgroups = append(out.Cgroups, cg.Path())
		}
	}
	for _, l := range k.lateNow() {
		if _, ok := r.ClaimOf(l.cgroup.Path()); ok {
			out.Late = append(out.Late, l.String())
		}
	}
	if args.Kind == tag.KindCgroup && len(out.Cgroups) > 0 {
		out.Ended, err = k.endSockets(args.Name)
	}
	return err
}

// endSockets destroys the connections of before: what the processes hold, and what
// the cgroup made and nobody holds any more.
func (k *Keeper) endSockets(path string) ([]string, error) {
	found, err := k.sweepForeign(foreignWhole)
	k.reportForeign()
	if err != nil {
		return nil, err
	}
	var ended []string
	for i := range found {
		at, err := k.gate.tree.Path(found[i].Cgroup)
		if err == nil && (at == path || strings.HasPrefix(at, path+"/")) {
			ended = append(ended, describe(&found[i]))
		}
	}
	return ended, nil
}

func describe(f *foreign.Found) string {
	return fmt.Sprintf("%v of process %d: %s", f.Socket, f.PID, f.Outcome)
}

// tagProcess moves a process into a cgroup of its own below the slice.
func (k *Keeper) tagProcess(ctx context.Context, args *TagArgs, files []*os.File, out *TagResult) error {
	if len(files) != 1 || args.PID <= 1 {
		return errors.New("tag pid: no process and its pidfd")
	}
	pidfd := files[0]
	if pid, err := pidOf(pidfd); err != nil || pid != args.PID {
		return fmt.Errorf("tag pid: the descriptor is not that of process %d: %w", args.PID, err)
	}
	lives := func() bool { return unix.PidfdSendSignal(int(pidfd.Fd()), 0, nil, 0) == nil }
	p, err := workload.LookUp(args.PID)
	if err != nil {
		return fmt.Errorf("tag pid: %w", err)
	}
	switch home := k.gate.home.Path(); {
	case k.gate.inside(p.Cgroup):
		return fmt.Errorf("process %d is in a tagged cgroup already: %s", args.PID, p.Cgroup)
	case p.Cgroup == home || strings.HasPrefix(p.Cgroup, home+"/"):
		return errors.New("that is sallyport itself")
	case p.Exe == "":
		return fmt.Errorf("process %d (%s) is the kernel's, or has ended", args.PID, p.Comm)
	}
	sockets, err := internetSockets(pidfd, args.PID)
	if err != nil {
		return fmt.Errorf("tag pid: sockets of process %d: %w", args.PID, err)
	}
	if len(sockets) > 0 {
		return fmt.Errorf("process %d has internet sockets, which would stay outside the gate: %s; start it anew under sallyport exec, or tag its unit", args.PID, strings.Join(sockets, ", "))
	}
	cg, err := k.moveProcess(ctx, args.PID)
	if err != nil {
		return err
	}
	// The number was the process's when it was moved, or it has gone.
	if !lives() {
		return fmt.Errorf("process %d ended meanwhile", args.PID)
	}
	r := tag.Record{Kind: tag.KindCgroup, Name: cg.Path(), Workload: args.Workload, ID: cg.ID(), Boot: bootID()}
	if err := k.claims.store.Put(r); err != nil {
		out.Notes = append(out.Notes, "its name is lost when sallyport restarts: "+err.Error())
	}
	if err := k.lookNow(ctx); err != nil {
		return err
	}
	out.Cgroups = []string{cg.Path()}
	// What it made between the question and the move.
	if out.Ended, err = k.endSockets(cg.Path()); err != nil {
		return err
	}
	if p.UID == 0 {
		out.Notes = append(out.Notes, "it runs as root, which can always leave: run it as another user")
	}
	out.Notes = append(out.Notes, "only its connections are captured: its privileges, its mounts and its trust stay as they are")
	k.note(fmt.Sprintf("process %d (%s) tagged in %s", args.PID, p.Comm, cg.Path()))
	return nil
}

// moveProcess makes the cgroup of a tagged process and moves it there. Under
// systemd that is a scope, so that systemd knows whose it is.
func (k *Keeper) moveProcess(ctx context.Context, pid int) (workload.Cgroup, error) {
	name := "pid-" + strconv.Itoa(pid) + "-" + strconv.FormatUint(k.commands.Add(1), 10)
	if k.scopes() {
		return k.startScope(ctx, systemd.Scope{
			Name: scopePrefix + name + ".scope", Description: fmt.Sprintf("process %d, tagged", pid), PIDs: []int{pid},
		})
	}
	cg, err := k.gate.tree.Create(filepath.Join(k.gate.tagged.Path(), name))
	if err != nil {
		return cg, fmt.Errorf("cgroup: %w", err)
	}
	return cg, cg.Move(pid)
}

// pidOf is the process of a pidfd, as this process numbers it; pidfd_open(2).
func pidOf(pidfd *os.File) (int, error) {
	data, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(int(pidfd.Fd())))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "Pid:"); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, errors.New("it is no pidfd")
}
