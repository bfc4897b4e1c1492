package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"sallyport/pkg/audit/file"
	"sallyport/pkg/config"
	"sallyport/pkg/datapath"
	"sallyport/pkg/keeper/wire"
)

// methodLaunch is the only call of an exec's wrapper.
const methodLaunch = "launch"

// StandaloneArgs is what the wrapper of an `exec` without a daemon asks for.
// Its descriptors are pidfds: the wrapper's own and, under sudo, that of sudo.
type StandaloneArgs struct {
	Launch     Launch `json:"launch"`
	ConfigPath string `json:"config_path"`
	// AuditDir is where the audit goes without a configuration file.
	AuditDir string `json:"audit_dir"`
	PID      int    `json:"pid"`
	Version  string `json:"version"`
	// Locks are by what it is enforced.
	Locks Locks `json:"locks"`
}

// StartStandalone starts the keeper of one `exec` and gives the connection to
// it. The keeper is nobody's child that the command could see: it starts itself
// again in a session of its own, and the process in between ends.
func StartStandalone(verbose bool) (*wire.Conn, error) {
	ours, theirs, err := wire.Pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command(self, Internal, InternalKeep)
	cmd.Args[0] = "sallyport"
	if verbose {
		cmd.Args = append(cmd.Args, "-v")
		cmd.Stderr = os.Stderr
	}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Run(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start keeper: %w", err)
	}
	return wire.NewConn(ours)
}

// Detach starts this process again in a session of its own, with the same
// descriptors, and returns in the one that must end now.
//
// Nothing else of the caller's goes along: a pipe that stayed open here would
// have no end for its reader when the command has ended, a lock would stay.
func Detach(args ...string) error {
	// Kernels before 5.11 cannot; what else such a kernel lacks the keeper says.
	err := unix.CloseRange(4, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if errors.Is(err, unix.EINVAL) {
		err = closeOnExec(4)
	}
	if err != nil {
		return fmt.Errorf("start keeper: inherited descriptors: %w", err)
	}
	cmd := exec.Command(self, args...)
	cmd.Args[0] = "sallyport"
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{os.NewFile(3, "wire")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Start()
}

// closeOnExec marks every descriptor from first on, one by one.
func closeOnExec(first int) error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// RunStandalone is the keeper of one `exec`: it answers one launch on conn,
// watches over the command until it ends, and takes everything away again.
func RunStandalone(conn *wire.Conn, log *zap.Logger) error {
	defer conn.Close()
	// The terminal's signals are the command's. SIGTERM to this process ends
	// the command first: without its keeper the gate is shut, not gone.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	m, err := conn.Receive()
	if err != nil {
		return err
	}
	defer m.CloseFiles()
	var args StandaloneArgs
	if err := m.Decode(&args); err != nil {
		return err
	}
	if m.Method != methodLaunch || len(m.Files) == 0 {
		return errors.New("keeper: not a launch")
	}
	s, err := openStandalone(ctx, &args, log)
	if err != nil {
		return conn.Send(&wire.Message{ID: m.ID, Error: err.Error()}, nil)
	}
	if err := s.begin(conn, m, &args); err != nil {
		conn.Send(&wire.Message{ID: m.ID, Error: err.Error()}, nil)
		return errors.Join(err, s.end())
	}
	// An instance that cannot be kept any more ends its command as well: nobody
	// would answer it, and nobody would notice.
	ctx, stopWaiting := context.WithCancel(ctx)
	defer stopWaiting()
	go func() {
		err := <-s.done
		stopWaiting()
		s.done <- err
	}()
	waitExit(ctx, m.Files)
	return s.end()
}

// A standalone is a keeper with one command.
type standalone struct {
	keeper  *Keeper
	command *command
	cancel  context.CancelFunc
	done    chan error
	// watcher ends the command and takes everything away if this process is
	// killed; closing goodbye tells it that nothing is left to do.
	watcher *exec.Cmd
	goodbye io.Closer
}

func openStandalone(ctx context.Context, args *StandaloneArgs, log *zap.Logger) (*standalone, error) {
	c, _, err := LoadConfig(args.ConfigPath, config.Observe)
	if err != nil {
		return nil, err
	}
	places := PlacesOf(c)
	places.Locks = args.Locks
	if err := places.Sweep(ctx); err != nil {
		log.Warn("leftovers of an earlier exec", zap.Error(err))
	}
	o := Options{
		Instance:   places.Exec(args.PID),
		ConfigPath: args.ConfigPath,
		Standalone: true,
		Version:    args.Version,
		Log:        log,
	}
	if args.ConfigPath == "" {
		o.Audit, err = callersAudit(args, c.Audit.File.MaxFiles)
		if err != nil {
			return nil, err
		}
	}
	if err := o.Instance.enterScope(ctx); err != nil {
		return nil, err
	}
	k, err := Open(o)
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &standalone{keeper: k, cancel: cancel, done: make(chan error, 1)}
	go func() { s.done <- k.Run(run) }()
	return s, nil
}

// callersAudit is the audit file of an `exec` without a configuration file, in
// the directory where it was called. It is the caller's, unless it lies where the
// caller may make no files: one that root made there for somebody else would be
// a way to leave files of one's own anywhere.
func callersAudit(args *StandaloneArgs, maxFiles int) (file.Options, error) {
	l := &args.Launch
	o := file.Options{
		Path: filepath.Join(args.AuditDir, "sallyport-audit."+strconv.Itoa(args.PID)+".jsonl"),
		Mode: 0o600, UID: -1, GID: -1, MaxFiles: maxFiles,
	}
	dir, err := os.OpenFile(args.AuditDir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return o, fmt.Errorf("audit directory: %w", err)
	}
	o.Dir = dir
	// Of the descriptor, not of the name: that may lead elsewhere by now.
	err = withRights(l.UID, l.GID, l.Groups, func() error {
		return unix.Faccessat(int(dir.Fd()), ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	})
	if err == nil {
		o.UID, o.GID = l.UID, l.GID
	}
	return o, nil
}

// begin waits until enforcement is proven, puts the wrapper into its cgroup and
// tells it what to do.
func (s *standalone) begin(conn *wire.Conn, m *wire.Message, args *StandaloneArgs) error {
	c, err := s.keeper.admit(&args.Launch, s.keeper.options.Instance.Command())
	if err != nil {
		return err
	}
	s.command = c
	// The watcher starts while the worker does.
	watching := make(chan error, 1)
	go func() { watching <- s.startWatcher() }()
	select {
	case <-s.keeper.ready:
	case err = <-s.done:
		s.done <- err
		if err == nil {
			err = errors.New("stopped")
		}
	}
	if werr := <-watching; err == nil {
		err = werr
	}
	if err != nil {
		return err
	}
	if err := c.cgroup.Move(args.PID); err != nil {
		return fmt.Errorf("enter cgroup: %w", err)
	}
	// The number was the wrapper's when it was moved, or the process has gone.
	if err := unix.PidfdSendSignal(int(m.Files[0].Fd()), 0, nil, 0); err != nil {
		return fmt.Errorf("wrapper: %w", err)
	}
	return conn.Send(&wire.Message{ID: m.ID}, &c.plan)
}

// settle is how long the last events of a command that has ended may take to
// reach the audit.
const settle = 300 * time.Millisecond

// end takes everything away. The command's processes go first.
func (s *standalone) end() error {
	var errs []error
	if s.command != nil {
		errs = append(errs, s.keeper.dismiss(s.command))
		deadline := time.Now().Add(settle)
		for time.Now().Before(deadline) {
			if flows, err := s.keeper.gate.data.Flows(); err != nil || len(flows) == 0 {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		// The last ones may lie in the ring buffer yet.
		time.Sleep(datapath.EventPause + 2*eventDelay)
	}
	s.cancel()
	errs = append(errs, <-s.done)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	errs = append(errs, s.keeper.Remove(ctx))
	if s.goodbye != nil {
		io.WriteString(s.goodbye.(io.Writer), "done")
		s.goodbye.Close()
		s.watcher.Wait()
	}
	return errors.Join(errs...)
}

// waitExit waits until one of the pidfds tells that its process has ended, or
// ctx ends.
func waitExit(ctx context.Context, pidfds []*os.File) {
	r, w, err := os.Pipe()
	if err != nil {
		return // then the command is ended too early rather than left alone
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, func() { w.Close() })
	defer stop()
	defer w.Close()
	fds := []unix.PollFd{{Fd: int32(r.Fd()), Events: unix.POLLIN}}
	for _, f := range pidfds {
		fds = append(fds, unix.PollFd{Fd: int32(f.Fd()), Events: unix.POLLIN})
	}
	for {
		n, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 0 || err != nil {
			return
		}
	}
}
