package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"sallyport/pkg/admin/socket"
	"sallyport/pkg/keeper/wire"
)

// What `exec` and the daemon say to each other.
const (
	// methodHello is the daemon's first word; the answer proves who answers.
	methodHello = "hello"
	// methodStarted and methodFailed answer a launch.
	methodStarted = "started"
	methodFailed  = "failed"
	// methodSignal passes a signal on to the command.
	methodSignal = "signal"
	// methodEnded carries the command's wait status.
	methodEnded = "ended"
)

// maxCommands bounds the commands that the daemon runs at a time.
const maxCommands = 256

// acceptPause is how long a failed accept waits.
const acceptPause = 100 * time.Millisecond

// launchTimeout bounds how long a process may take to become the command: its
// directory may lie on a file system that never answers.
const launchTimeout = 30 * time.Second

// callerLimits are what a caller may cost. The kernel passes 6 MiB of arguments
// and environment at most (execve(2)); they are escaped here.
var callerLimits = wire.Limits{Payload: 16 << 20, SendTimeout: 5 * time.Second}

// helloTimeout bounds how long a caller may take to say what it wants.
const helloTimeout = 10 * time.Second

// ExecSocket is where `exec` finds the daemon.
func ExecSocket(runtimeDir string) string { return filepath.Join(runtimeDir, "exec.sock") }

// RemoteLaunch is what `exec` asks the daemon for. Who asks is the kernel's
// word, not part of it.
type RemoteLaunch struct {
	Argv        []string `json:"argv"`
	Env         []string `json:"env"`
	Dir         string   `json:"dir"`
	Home        string   `json:"home"`
	User        string   `json:"user"`
	Workload    string   `json:"workload"`
	KeepSockets bool     `json:"keep_sockets"`
	// Files is the soft limit of open files that the caller was started with; 0
	// keeps the one that it has now.
	Files uint64 `json:"files"`
	// Numbers are those that the descriptors of the message have in the caller.
	Numbers []int `json:"numbers"`
}

// started tells which workload a command became.
type started struct {
	Name string `json:"name"`
}

// ended is how a command ended: with a code, or by a signal.
type ended struct {
	Code   int `json:"code"`
	Signal int `json:"signal"`
	// Stopped says that it ended because the keeper does.
	Stopped bool `json:"stopped,omitempty"`
}

// signalled is one signal for the command.
type signalled struct {
	Signal int `json:"signal"`
}

// commandPrefix begins the names of the cgroups of the daemon's commands.
const commandPrefix = "exec-"

// endOrphans ends the commands of an earlier daemon that was killed, with all
// that they started, and removes their cgroups: their wrappers have gone.
func (k *Keeper) endOrphans() error {
	children, err := k.gate.tagged.Children()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, cg := range children {
		if !strings.HasPrefix(strings.TrimPrefix(filepath.Base(cg.Path()), scopePrefix), commandPrefix) {
			continue
		}
		k.log.Warn("the commands of a daemon that was killed are ended", zap.String("cgroup", cg.Path()))
		if err := cg.Kill(ctx); err != nil {
			return err
		}
		if err := cg.Remove(ctx); err != nil {
			return err
		}
	}
	return nil
}

// serveExec starts commands for users until ctx ends, then ends them.
func (k *Keeper) serveExec(ctx context.Context) error {
	if k.options.Standalone {
		<-ctx.Done()
		return nil
	}
	if err := k.endOrphans(); err != nil {
		return fmt.Errorf("commands of an earlier daemon: %w", err)
	}
	s, err := k.listenUnix(storedExec, socket.Options{Packet: true, Path: ExecSocket(k.config.RuntimeDir), Group: k.config.Admin.Group})
	if err != nil {
		return err
	}
	defer k.leaveUnix(s)
	stop := context.AfterFunc(ctx, func() { s.Listener.Close() })
	defer stop()
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, maxCommands)
	for {
		c, err := s.Listener.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("exec socket: %w", err)
		}
		if err != nil {
			// EMFILE and the like: whoever waits is served when descriptors come
			// back. It is no reason to end the gate of everybody.
			k.log.Warn("exec socket", zap.Error(err))
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			c.Close() // closed: a full house starts nobody
			k.note("exec refused: too many commands run")
			continue
		}
		running.Go(func() {
			defer func() { <-slots }()
			defer c.Close()
			if err := k.serveCaller(ctx, c, s.GroupID); err != nil {
				k.log.Info("exec", zap.Error(err))
			}
		})
	}
}

// serveCaller answers one caller and stays with its command.
func (k *Keeper) serveCaller(ctx context.Context, c *net.UnixConn, group int) error {
	conn := wire.FromUnix(c)
	conn.SetLimits(callerLimits)
	refuse := func(err error) error {
		conn.Send(&wire.Message{Method: methodFailed, Error: err.Error()}, nil)
		return fmt.Errorf("refused: %w", err)
	}
	who, err := callerOf(c, k.gate.tree, k.gate.inside)
	if err != nil {
		return refuse(err)
	}
	defer who.close()
	if workers, _, err := workerIDs(); err != nil {
		return refuse(err)
	} else if who.uid == workers {
		return refuse(errWorkersUser)
	}
	if !who.member(group) {
		return refuse(fmt.Errorf("uid %d is neither root nor in group %s", who.uid, k.config.Admin.Group))
	}
	if !k.callers.take(who.uid) {
		k.note(fmt.Sprintf("exec refused: uid %d runs too many commands", who.uid))
		return refuse(fmt.Errorf("uid %d runs %d commands already", who.uid, commandsPerUser))
	}
	defer k.callers.give(who.uid)
	if err := conn.Send(&wire.Message{Method: methodHello}, nil); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(helloTimeout))
	m, err := conn.Receive()
	if err != nil {
		return err
	}
	c.SetReadDeadline(time.Time{})
	defer m.CloseFiles()
	if !who.proven(m.Sender) {
		return refuse(errors.New("the caller's pid is not proven: another process answered"))
	}
	if cg, err := k.gate.tree.OfProcess(who.pid); err != nil || k.gate.inside(cg.Path()) {
		return refuse(errors.New("the caller runs in a tagged cgroup: a workload must not start others"))
	}
	if m.Method == methodTag {
		return k.serveTag(ctx, conn, who, m, refuse)
	}
	var args RemoteLaunch
	if err := m.Decode(&args); err != nil {
		return refuse(err)
	}
	return k.runRemote(ctx, conn, who, &args, m.Files, refuse)
}

// runRemote starts the command of a caller and waits for its end, or ends it
// with the caller.
func (k *Keeper) runRemote(ctx context.Context, conn *wire.Conn, who *caller, args *RemoteLaunch, files []*os.File, refuse func(error) error) error {
	if len(args.Argv) == 0 || !filepath.IsAbs(args.Dir) {
		return refuse(errors.New("no command, or no absolute directory"))
	}
	inherited, err := placeFiles(files, args.Numbers)
	if err != nil {
		return refuse(err)
	}
	path := k.commandPath(commandPrefix + strconv.Itoa(who.pid) + "-" + strconv.FormatUint(k.commands.Add(1), 10))
	c, err := k.admit(&Launch{
		Argv: args.Argv, Env: args.Env, Dir: args.Dir, Workload: args.Workload,
		UID: who.uid, GID: who.gid, Groups: who.groups, User: userName(who.uid), Home: args.Home,
		KeepSockets: args.KeepSockets,
	}, path)
	if err != nil {
		return refuse(err)
	}
	defer func() {
		if err := k.dismiss(c); err != nil {
			k.log.Error("end of exec", zap.Error(err))
		}
	}()
	c.plan.Spec.Umask = &who.umask
	withFiles(who.limits, args.Files)
	c.plan.Files, c.plan.Stack = &who.limits[unix.RLIMIT_NOFILE], &who.limits[unix.RLIMIT_STACK]
	child, err := startLaunched(c, inherited, who)
	if err != nil {
		return refuse(err)
	}
	defer child.conn.Close()
	c.holder.release()
	// The child has them. Held here they would use up the keeper's own, and keep
	// pipes open whose readers wait for their end.
	closeFiles(files)
	// What is large is not needed any more; what hides sockets is.
	c.plan.Spec.Argv, c.plan.Spec.Env = nil, nil
	// The child's connection closes on execve; a message before is its failure.
	child.conn.Socket().SetReadDeadline(time.Now().Add(launchTimeout))
	stop := context.AfterFunc(ctx, func() { child.conn.Close() })
	m, err := child.conn.Receive()
	switch {
	case err == nil:
		m.CloseFiles()
		<-child.waited
		conn.Send(&wire.Message{Method: methodFailed, Error: m.Error}, ended{Code: failureCode(m)})
		return fmt.Errorf("not started: %s", m.Error)
	case !stop():
		return refuse(errors.New("the daemon is stopping"))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(fmt.Errorf("the command did not start within %s", launchTimeout))
	}
	if err := conn.Send(&wire.Message{Method: methodStarted}, started{Name: c.id.Name}); err != nil {
		return err
	}
	return child.stay(ctx, conn, c)
}

// failureCode reads the exit status that a failed launch asks for.
func failureCode(m *wire.Message) int {
	var e ended
	if m.Decode(&e) != nil || e.Code == 0 {
		return 1
	}
	return e.Code
}

// maxDescriptor bounds the number that an inherited descriptor may have.
const maxDescriptor = 1024

// placeFiles orders descriptors by the number that they have in the caller;
// what is missing in between is closed in the command.
func placeFiles(files []*os.File, numbers []int) ([]*os.File, error) {
	if len(files) != len(numbers) {
		return nil, fmt.Errorf("%d descriptors with %d numbers", len(files), len(numbers))
	}
	var placed []*os.File
	for i, n := range numbers {
		if n < 0 || n >= maxDescriptor {
			return nil, fmt.Errorf("descriptor %d: at most %d can be inherited", n, maxDescriptor)
		}
		for len(placed) <= n {
			placed = append(placed, nil)
		}
		if placed[n] != nil {
			return nil, fmt.Errorf("descriptor %d twice", n)
		}
		placed[n] = files[i]
	}
	for len(placed) < 3 {
		placed = append(placed, nil)
	}
	return placed, nil
}
