package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport/pkg/admin"
	"sallyport/pkg/ca"
	"sallyport/pkg/config"
	"sallyport/pkg/confine"
	"sallyport/pkg/doctor"
	"sallyport/pkg/keeper"
	"sallyport/pkg/systemd"
)

func (e *env) doctorCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check whether this host can be guarded, and what its runtimes trust",
		Long: `Checks the host (kernel, cgroups, locks, clock, disk, DNS, other software), the
service (units, account, ports, authority, and what it says of itself) and container
engines, and lets each runtime that it finds (curl, Python, Node, Java, git, …) make a
real TLS handshake with a certificate of sallyport's, with the trust that a workload
gets. Each failure and warning says what to do. The exit status is 1 if a check fails;
a warning is none.`,
		Example: "  sudo sallyport doctor\n  sudo sallyport doctor --json | jq 'select(.status == \"failed\")'",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("doctor: not root: only root may ask the kernel; run it with sudo")
			}
			conf, err := loadConfig(c, config.Observe)
			if err != nil {
				return err
			}
			return e.examine(c.Context(), conf, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON object for each check")
	return c
}

// examine runs every check with an authority of its own, so that it neither
// needs nor changes the one that workloads trust.
func (e *env) examine(ctx context.Context, conf *config.Config, asJSON bool) error {
	dir, err := os.MkdirTemp("", "sallyport-doctor-")
	if err != nil {
		return fmt.Errorf("doctor: %w", err)
	}
	defer os.RemoveAll(dir)
	// The runtimes may run as another user.
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("doctor: %w", err)
	}
	patient, err := newPatient(dir)
	if err != nil {
		return fmt.Errorf("doctor: %w", err)
	}
	d := &doctor.Doctor{Config: conf, Start: patient.start, Serve: patient.serve, Daemon: statusOf(conf)}
	if m, err := systemd.Connect(ctx); err == nil {
		defer m.Close()
		d.Units = m.Unit
	}
	page := page{out: e.stdout, counts: make(map[doctor.Status]int)}
	show := page.show
	if asJSON {
		out := json.NewEncoder(e.stdout)
		show = func(r doctor.Result) error { return out.Encode(r) }
	}
	well, err := d.Run(ctx, show)
	if err != nil {
		return fmt.Errorf("doctor: %w", err)
	}
	if !asJSON {
		if err := page.end(); err != nil {
			return err
		}
	}
	if !well {
		return exitError(exitFailed)
	}
	return nil
}

// statusOf asks the service that runs with this configuration.
func statusOf(conf *config.Config) func(context.Context) (*admin.Status, error) {
	return func(ctx context.Context) (*admin.Status, error) {
		client := admin.NewClient(conf.Admin.Socket)
		defer client.Close()
		return client.Status(ctx)
	}
}

// A page is the report for a person: a line for each check, under its section, and
// below it what to do.
type page struct {
	out     io.Writer
	section string
	counts  map[doctor.Status]int
}

var marks = map[doctor.Status]string{doctor.OK: "ok  ", doctor.Failed: "FAIL", doctor.Warned: "warn", doctor.Skipped: "skip"}

func (p *page) show(r doctor.Result) error {
	var b strings.Builder
	if r.Section != p.section {
		if p.section != "" {
			b.WriteByte('\n')
		}
		p.section = r.Section
		fmt.Fprintf(&b, "%s\n", r.Section)
	}
	p.counts[r.Status]++
	fmt.Fprintf(&b, "  %s  %-24s %s\n", marks[r.Status], r.Check, r.Detail)
	if r.Remedy != "" {
		fmt.Fprintf(&b, "        %-24s → %s\n", "", r.Remedy)
	}
	_, err := io.WriteString(p.out, b.String())
	return err
}

// end sums up.
func (p *page) end() error {
	_, err := fmt.Fprintf(p.out, "\n%d ok, %d failed, %d warnings, %d skipped\n", p.counts[doctor.OK], p.counts[doctor.Failed], p.counts[doctor.Warned], p.counts[doctor.Skipped])
	return err
}

// A patient is the user whose runtimes are examined, with the trust of a
// workload.
type patient struct {
	caller confine.Caller
	trust  *ca.Trust
	leaves *ca.Leaves
}

func newPatient(dir string) (*patient, error) {
	host, err := confine.ThisHost()
	if err != nil {
		return nil, err
	}
	p := &patient{}
	if p.caller, err = confine.CallingUser(host, ""); err != nil {
		return nil, err
	}
	root, err := ca.OpenRoot(filepath.Join(dir, "ca"))
	if err != nil {
		return nil, err
	}
	material, err := root.Issue(time.Now())
	if err != nil {
		return nil, err
	}
	if p.leaves, err = ca.NewLeaves(material, 16); err != nil {
		return nil, err
	}
	p.trust, err = ca.NewTrust(ca.TrustOptions{Shared: filepath.Join(dir, "shared"), Workloads: filepath.Join(dir, "workloads"), Root: root.PEM()})
	if err != nil {
		return nil, err
	}
	return p, p.trust.Build()
}

func (p *patient) serve() (*doctor.Handshakes, error) { return doctor.NewHandshakes(p.leaves) }

// start runs one program as a workload would run it.
func (p *patient) start(ctx context.Context, argv, environ []string) (string, error) {
	environ = p.caller.Environ(environ)
	shared := p.trust.Shared()
	set, _ := ca.Environment(environ, shared.Paths(environ))
	spec := &confine.Spec{
		Argv: argv, Env: keeper.WithVariables(environ, set),
		UID: p.caller.UID, GID: p.caller.GID, Groups: p.caller.Groups,
	}
	for _, m := range shared.Mounts() {
		spec.Trust = append(spec.Trust, confine.Mount{Source: m.Source, Target: m.Target})
	}
	return keeper.RunConfined(ctx, spec)
}

// fetch is the internal process that fetches a URL as any Go program would.
func fetch(url string, stdout io.Writer) error {
	client := &http.Client{Timeout: 10 * time.Second}
	r, err := client.Get(url)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(stdout, io.LimitReader(r.Body, 1<<20))
	return err
}
