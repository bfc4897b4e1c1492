package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/pkg/config"
	"sallyport/pkg/keeper"
	"sallyport/pkg/systemd"
	"sallyport/pkg/tag"
	"sallyport/pkg/workload"
)

func (e *env) tagCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "tag",
		Short: "Make a unit, container, cgroup or process a workload",
		Long: `Makes something that sallyport did not start a workload: what it sends out goes
through the gate. A unit and a container are captured from their next start; what
runs until then is shown as "captured late" by status.`,
		Example: `  sudo sallyport tag unit mcp-github --workload github --restart
  sudo sallyport tag container web
  sudo sallyport tag pid 4711`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(e.tagUnitCommand(), e.tagCgroupCommand(), e.tagContainerCommand(), e.tagProcessCommand())
	return c
}

// workloadFlag adds --workload.
func workloadFlag(c *cobra.Command, workload *string) {
	c.Flags().StringVar(workload, "workload", "", "`name` of the workload in rules and audit (default: its own)")
}

func (e *env) tagUnitCommand() *cobra.Command {
	var name string
	var restart bool
	var allow []string
	known := make([]string, 0, len(tag.Openings()))
	for _, o := range tag.Openings() {
		known = append(known, string(o))
	}
	c := &cobra.Command{
		Use:   "unit NAME",
		Short: "Capture a systemd service, from its next start",
		Long: `Writes a drop-in, /etc/systemd/system/NAME.d/50-sallyport.conf: the slice whose
members are captured, the certificates that it must trust, and what closes side
doors: no privileges, no namespaces, no sockets of resolvers, buses, container
engines and agents. --allow opens one of these: ` + strings.Join(known, ", ") + `.
The unit wants sallyport and does not require it: it outlives a stop of sallyport,
before a shut gate.`,
		Example: "  sudo sallyport tag unit mcp-github\n  sudo sallyport tag unit mcp-browser --allow namespaces --restart",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			openings, err := tag.ParseOpenings(allow)
			if err != nil {
				return usageError{fmt.Errorf("tag unit: --allow: %w", err)}
			}
			return e.tagUnit(c, args[0], name, openings, restart)
		},
	}
	workloadFlag(c, &name)
	c.Flags().BoolVar(&restart, "restart", false, "restart the unit if it runs, so that it is captured now")
	c.Flags().StringSliceVar(&allow, "allow", nil, "leave out parts of the hardening: `"+strings.Join(known, ",")+"`")
	return c
}

// tagHost gives what tagging needs; only root may.
func (e *env) tagHost(c *cobra.Command) (*tag.Host, error) {
	conf, err := e.rootConfig(c)
	if err != nil {
		return nil, err
	}
	h, err := tag.OpenHost(conf)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", commandName(c), err)
	}
	return h, nil
}

// rootConfig reads the configuration for a command that only root may use.
func (e *env) rootConfig(c *cobra.Command) (*config.Config, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%s: not root: run it with sudo", commandName(c))
	}
	return loadConfig(c, config.Enforce)
}

// connectSystemd says what to do where there is none.
func connectSystemd(c *cobra.Command) (*systemd.Manager, error) {
	m, err := systemd.Connect(c.Context())
	if errors.Is(err, systemd.ErrNotRunning) {
		return nil, fmt.Errorf("%s: %w; without it there are tag cgroup and exec", commandName(c), err)
	}
	return m, err
}

func (e *env) tagUnit(c *cobra.Command, unit, name string, allow []tag.Opening, restart bool) error {
	h, err := e.tagHost(c)
	if err != nil {
		return err
	}
	m, err := connectSystemd(c)
	if err != nil {
		return err
	}
	defer m.Close()
	t, err := h.TagUnit(c.Context(), m, unit, name, allow)
	if err != nil {
		return fmt.Errorf("tag unit: %w", err)
	}
	for _, w := range t.Warnings {
		fmt.Fprintf(e.stderr, "sallyport: %s: %s\n", t.Unit.Name, w)
	}
	if restart && t.Unit.Active() {
		if err := m.Restart(c.Context(), t.Unit.Name); err != nil {
			return fmt.Errorf("tag unit: it is tagged, but: %w", err)
		}
		t.Late = false
	}
	_, _ = tellDaemon(h.Config, tag.KindUnit, t.Unit.Name)
	if t.Late {
		_, err = fmt.Fprintf(e.stdout, "%s: tagged; captured late: it holds from its next start: systemctl restart %s\n", t.Unit.Name, t.Unit.Name)
		return err
	}
	_, err = fmt.Fprintf(e.stdout, "%s: tagged: whatever it starts is captured\n", t.Unit.Name)
	return err
}

// tellDaemon has a running daemon read the tags at once; it sees them within half
// a second without.
func tellDaemon(conf *config.Config, kind tag.Kind, name string) (*keeper.TagResult, error) {
	return keeper.AskTag(conf.RuntimeDir, &keeper.TagArgs{Kind: kind, Name: name})
}

func (e *env) tagCgroupCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "cgroup PATH",
		Short: "Capture a cgroup with all below it, now and whenever it is made again",
		Long: `PATH is below the cgroup2 mount, or the directory itself. What runs there is
captured at once; the connections that it has are ended and recorded.`,
		Example: "  sudo sallyport tag cgroup /app/tools --workload tools",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			conf, err := e.rootConfig(c)
			if err != nil {
				return err
			}
			path, err := cgroupPath(args[0])
			if err != nil {
				return usageError{fmt.Errorf("tag cgroup: %w", err)}
			}
			if err := keeper.CheckCgroup(conf, path); err != nil {
				return fmt.Errorf("tag cgroup: %w", err)
			}
			return e.keepTag(conf, tag.Record{Kind: tag.KindCgroup, Name: path, Workload: name})
		},
	}
	workloadFlag(c, &name)
	return c
}

// cgroupPath gives the path below the mount.
func cgroupPath(arg string) (string, error) {
	tree, err := workload.FindTree()
	if err != nil {
		return "", err
	}
	defer tree.Close()
	path := filepath.Clean(arg)
	if rest, ok := strings.CutPrefix(path, tree.Point()); ok && (rest == "" || rest[0] == '/') {
		path = rest
	}
	if !strings.HasPrefix(path, "/") || path == "/" {
		return "", fmt.Errorf("%q is no path of a cgroup below %s", arg, tree.Point())
	}
	return path, nil
}

func (e *env) tagContainerCommand() *cobra.Command {
	var name, label string
	c := &cobra.Command{
		Use:   "container NAME | --label K=V",
		Short: "Capture a container of Docker, Podman or containerd, from its next start",
		Long: `NAME is the container's name or id, of containerd its id. A container below the
slice needs no tag: start it with --cgroup-parent, as container-args prints it; so it is
captured from its first instruction, elsewhere from when its engine tells who it is.`,
		Example: "  sudo sallyport tag container web --workload web\n  sudo sallyport tag container --label tier=mcp",
		Args:    usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := containerRecord(args, label)
			if err != nil {
				return usageError{fmt.Errorf("tag container: %w", err)}
			}
			conf, err := e.rootConfig(c)
			if err != nil {
				return err
			}
			r.Workload = name
			return e.keepTag(conf, r)
		},
	}
	workloadFlag(c, &name)
	c.Flags().StringVar(&label, "label", "", "every container with this label, `K=V`")
	return c
}

func containerRecord(args []string, label string) (tag.Record, error) {
	key, _, ok := strings.Cut(label, "=")
	switch {
	case len(args) == 1 && label == "":
		return tag.Record{Kind: tag.KindContainer, Name: strings.TrimPrefix(args[0], "/")}, nil
	case len(args) == 0 && ok && key != "":
		return tag.Record{Kind: tag.KindLabel, Name: label}, nil
	}
	return tag.Record{}, errors.New("want a name, or --label K=V")
}

// keepTag writes a tag down and has the daemon put it in force.
func (e *env) keepTag(conf *config.Config, r tag.Record) error {
	if err := tag.StoreOf(conf.StateDir).Put(r); err != nil {
		return err
	}
	result, err := tellDaemon(conf, r.Kind, r.Name)
	if errors.Is(err, keeper.ErrNoDaemon) {
		_, err = fmt.Fprintf(e.stdout, "%s: tagged; no daemon runs: it holds when sallyport does\n", r.Name)
		return err
	}
	if err != nil {
		return fmt.Errorf("tag: %s is tagged, but: %w", r.Name, err)
	}
	return e.showTagged(r.Name, result)
}

// showTagged prints what a tag came to.
func (e *env) showTagged(name string, r *keeper.TagResult) error {
	var b strings.Builder
	switch {
	case len(r.Cgroups) > 0:
		fmt.Fprintf(&b, "%s: tagged: captured: %s\n", name, strings.Join(r.Cgroups, ", "))
	case len(r.Late) == 0:
		fmt.Fprintf(&b, "%s: tagged: nothing of it runs; it holds from its start\n", name)
	}
	for _, l := range r.Late {
		fmt.Fprintf(&b, "%s: tagged; captured late: %s\n", name, l)
	}
	for _, s := range r.Ended {
		fmt.Fprintf(&b, "  ended: %s\n", s)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "  %s\n", n)
	}
	_, err := e.stdout.Write([]byte(b.String()))
	return err
}

func (e *env) tagProcessCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "pid PID",
		Short: "Capture one running process that has no internet sockets",
		Long: `Moves the process into a cgroup of its own below the slice. A process that has
internet sockets is refused, and they are named: they would stay outside the gate. The
tag ends with the process.`,
		Example: "  sudo sallyport tag pid 4711 --workload tools",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			pid, err := strconv.Atoi(args[0])
			if err != nil || pid <= 0 {
				return usageError{fmt.Errorf("tag pid: %q is no process", args[0])}
			}
			conf, err := e.rootConfig(c)
			if err != nil {
				return err
			}
			result, err := keeper.AskTag(conf.RuntimeDir, &keeper.TagArgs{Kind: tag.KindProcess, PID: pid, Workload: name})
			if errors.Is(err, keeper.ErrNoDaemon) {
				return fmt.Errorf("tag pid: %w; start it with: sudo sallyport run", err)
			}
			if err != nil {
				return fmt.Errorf("tag pid: %w", err)
			}
			return e.showTagged(args[0], result)
		},
	}
	workloadFlag(c, &name)
	return c
}

func (e *env) untagCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "untag",
		Short: "Take a tag back; it holds from the next start of what it names",
		Long: `Takes a tag back. What runs stays captured until its next start. The tag of a
process ends with the process.`,
		Example: "  sudo sallyport untag unit mcp-github\n  sudo sallyport untag container --label tier=mcp",
		Args:    usageArgs(cobra.NoArgs),
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	drop := func(use, short string, record func(c *cobra.Command, args []string) (tag.Record, error), args cobra.PositionalArgs) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: usageArgs(args), RunE: func(c *cobra.Command, args []string) error {
			r, err := record(c, args)
			if err != nil {
				return usageError{fmt.Errorf("%s: %w", commandName(c), err)}
			}
			conf, err := e.rootConfig(c)
			if err != nil {
				return err
			}
			if err := tag.StoreOf(conf.StateDir).Drop(r.Kind, r.Name); err != nil {
				return fmt.Errorf("untag: %w", err)
			}
			// Read at once; within half a second without.
			_, _ = tellDaemon(conf, r.Kind, r.Name)
			_, err = fmt.Fprintf(e.stdout, "%s: untagged: holds from its next start\n", r.Name)
			return err
		}}
	}
	var label string
	container := drop("container NAME | --label K=V", "Take the tag of a container back", func(_ *cobra.Command, args []string) (tag.Record, error) {
		return containerRecord(args, label)
	}, cobra.MaximumNArgs(1))
	container.Example = "  sudo sallyport untag container web"
	container.Flags().StringVar(&label, "label", "", "every container with this label, `K=V`")
	cgroup := drop("cgroup PATH", "Take the tag of a cgroup back", func(_ *cobra.Command, args []string) (tag.Record, error) {
		path, err := cgroupPath(args[0])
		return tag.Record{Kind: tag.KindCgroup, Name: path}, err
	}, cobra.ExactArgs(1))
	cgroup.Example = "  sudo sallyport untag cgroup /app/tools"
	unit := &cobra.Command{
		Use: "unit NAME", Short: "Remove the drop-in of a unit", Example: "  sudo sallyport untag unit mcp-github",
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error { return e.untagUnit(c, args[0]) },
	}
	c.AddCommand(unit, container, cgroup)
	return c
}

func (e *env) untagUnit(c *cobra.Command, name string) error {
	conf, err := e.rootConfig(c)
	if err != nil {
		return err
	}
	if name, err = systemd.UnitName(name); err != nil {
		return usageError{fmt.Errorf("untag unit: %w", err)}
	}
	removed, err := systemd.RemoveDropIn(systemd.SystemDir, name)
	if err != nil {
		return fmt.Errorf("untag unit: %w", err)
	}
	if !removed {
		return fmt.Errorf("untag unit: %s: %w", name, tag.ErrNotTagged)
	}
	if systemd.Available() {
		if err := reloadSystemd(c.Context()); err != nil {
			return fmt.Errorf("untag unit: %w", err)
		}
	}
	_, _ = tellDaemon(conf, tag.KindUnit, name)
	_, err = fmt.Fprintf(e.stdout, "%s: untagged: holds from its next start\n", name)
	return err
}

func reloadSystemd(ctx context.Context) error {
	m, err := systemd.Connect(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.DaemonReload(ctx)
}
