package tag

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"sallyport/pkg/ca"
	"sallyport/pkg/config"
	"sallyport/pkg/confine"
	"sallyport/pkg/systemd"
)

// A Host is what tagging needs to know of the host.
type Host struct {
	Config *config.Config
	Store  Store
	// Trust is what workloads trust, kept current by the daemon.
	Trust *ca.Directory
	trust *ca.Trust
}

// OpenHost reads the host's trust, and makes it where the daemon has not run yet:
// a unit that starts before it would have none else.
func OpenHost(c *config.Config) (*Host, error) {
	root, err := ca.OpenRoot(c.TLS.CADir)
	if err != nil {
		return nil, err
	}
	t, err := ca.NewTrust(ca.TrustOptions{
		Shared:    filepath.Join(c.StateDir, "trust"),
		Workloads: filepath.Join(c.RuntimeDir, "service", "trust"),
		Root:      root.PEM(),
	})
	if err != nil {
		return nil, err
	}
	if err := t.Build(); err != nil {
		return nil, err
	}
	return &Host{Config: c, Store: StoreOf(c.StateDir), Trust: t.Lasting(), trust: t}, nil
}

// own are sallyport's paths that no workload may reach: what is secret, and the
// sockets by which it is told what to do.
func (h *Host) own() []string {
	c := h.Config
	own := []string{c.RuntimeDir, c.TLS.CADir, c.BPFDir, c.Audit.File.Path}
	if dir := filepath.Dir(c.Admin.Socket); dir != c.RuntimeDir && dir != "/run" && dir != "/tmp" {
		own = append(own, dir)
	}
	return own
}

// mountsOf are those of the trust directory and, for the variables, the directory
// itself at its own path.
func mountsOf(dir *ca.Directory) []ca.Mount {
	return append(dir.Mounts(), ca.Mount{Source: dir.Path(), Target: dir.Path()})
}

// A Tagged tells what tagging a unit came to.
type Tagged struct {
	Unit *systemd.Unit
	// Late says that the unit runs and is captured at its next start.
	Late     bool
	Warnings []string
}

// TagUnit writes the drop-in of a unit and has systemd read it. A unit that is no
// service, is sallyport's own or a user's manager, opens a PAM session, or to which
// systemd hands sockets of the internet, is refused with what to do instead.
func (h *Host) TagUnit(ctx context.Context, m *systemd.Manager, name, workload string, allow []Opening) (*Tagged, error) {
	u, template, err := unitOf(ctx, m, name)
	if err != nil {
		return nil, err
	}
	t := &Tagged{Unit: u, Late: u.Active()}
	if t.Warnings, err = activation(ctx, m, u); err != nil {
		return nil, err
	}
	uid, home := -1, "" // of a template nothing is known yet
	if !template {
		uid, home = userOf(u, t)
	}
	dropIn, err := h.dropInOf(u, uid, home, t)
	if err != nil {
		return nil, err
	}
	dropIn.Workload, dropIn.Allow = workload, allow
	if _, err := systemd.WriteDropIn(h.Store.Units, u.Name, []byte(dropIn.DropIn())); err != nil {
		return nil, err
	}
	if err := m.DaemonReload(ctx); err != nil {
		return nil, err
	}
	if template {
		return t, nil
	}
	now, err := m.Unit(ctx, u.Name)
	if err != nil {
		return nil, err
	}
	t.Unit = now
	if err := sessionless(now); err != nil {
		return nil, err // another drop-in, which systemd had not read before
	}
	if now.Slice != h.Config.Slice {
		return nil, fmt.Errorf("unit %s is in %s although it is tagged: another drop-in sets Slice=; take that away (systemctl cat %s)", now.Name, now.Slice, now.Name)
	}
	// A drop-in that was there already: it may run in the slice since its start.
	t.Late = now.Active() && !inSlice(now.Cgroup, h.Config.Slice)
	return t, nil
}

// A loader gives units by their names (systemd.Manager).
type loader interface {
	Unit(ctx context.Context, name string) (*systemd.Unit, error)
}

// unitOf gives the unit of a name, of a template what its name says, or says why it
// cannot be tagged.
func unitOf(ctx context.Context, m loader, name string) (u *systemd.Unit, template bool, err error) {
	if name, err = systemd.UnitName(name); err != nil {
		return nil, false, err
	}
	if err := taggable(name); err != nil {
		return nil, false, err
	}
	if strings.Contains(name, "@.") {
		// What Accept=yes starts one instance for each connection of.
		bare := strings.TrimSuffix(name, "@.service")
		socket := bare + ".socket"
		// systemd tells nothing of a template, but of any instance. A template may be
		// tagged before it is there.
		instance, err := m.Unit(ctx, bare+"@sallyport.service")
		if err != nil && !errors.Is(err, systemd.ErrNoUnit) {
			return nil, false, err
		}
		if err == nil {
			instance.Name = name // which is what is edited
			if err := sessionless(instance); err != nil {
				return nil, false, err
			}
		}
		return &systemd.Unit{Name: name, TriggeredBy: []string{socket}}, true, nil
	}
	if u, err = m.Unit(ctx, name); errors.Is(err, systemd.ErrNoUnit) {
		return nil, false, fmt.Errorf("%w; systemctl list-unit-files shows those that there are. The units of a user's manager (systemctl --user) are the user's own, who could undo the tag: make it a unit of the system, with User=", err)
	} else if err != nil {
		return nil, false, err
	}
	if err := taggable(u.Name); err != nil {
		return nil, false, err // what the alias leads to
	}
	if u.LoadState == "masked" {
		return nil, false, fmt.Errorf("unit %s is masked: it never starts", u.Name)
	}
	if err := sessionless(u); err != nil {
		return nil, false, err
	}
	return u, false, nil
}

// sessionless refuses a unit that opens a PAM session: pam_systemd has logind move
// its processes into a scope of that session, before the unit's own view of the
// bus counts (systemd.exec(5), PAMName=). Which modules the PAM service has is not
// looked at: they may change.
func sessionless(u *systemd.Unit) error {
	if u.PAMName == "" {
		return nil
	}
	return fmt.Errorf("unit %s opens a PAM session (PAMName=%s), which moves its processes out of its slice, to where nothing captures them: sudo systemctl edit %s, and write there [Service] and below it an empty PAMName=", u.Name, u.PAMName, u.Name)
}

// dropInOf makes the trust directory of a unit that runs as this user (-1 where it is
// not known), and gives what the drop-in says of it. Warnings go to t.
func (h *Host) dropInOf(u *systemd.Unit, uid int, home string, t *Tagged) (*Unit, error) {
	_, kept := Variables(u.Environment, h.Trust)
	dir, problems, err := h.trust.ForUnit(u.Name, kept)
	if err != nil {
		return nil, err
	}
	for _, p := range problems {
		t.Warnings = append(t.Warnings, p.Error())
	}
	if len(u.EnvironmentFiles) > 0 {
		t.Warnings = append(t.Warnings, fmt.Sprintf("variables in %s go before those of the tag", strings.Join(u.EnvironmentFiles, ", ")))
	}
	set, _ := Variables(u.Environment, dir)
	return &Unit{
		Slice:  h.Config.Slice,
		Hidden: confine.Inaccessible(uid, home, u.Environment), Own: h.own(),
		Families: familiesOf(u.Families, u.FamiliesAllowed),
		Mounts:   mountsOf(dir), Environment: set, Kept: kept,
	}, nil
}

// inSlice reports whether a cgroup lies below the slice.
func inSlice(cgroup, slice string) bool {
	return strings.Contains(cgroup+"/", "/"+slice+"/")
}

// ownUnits are sallyport's.
var ownUnits = [...]string{"sallyport.service", "sallyport-keeper.service", "sallyport-lock.service", "sallyport.slice"}

// taggable says why a unit cannot be tagged.
func taggable(name string) error {
	switch kind := systemd.KindOf(name); {
	case slices.Contains(ownUnits[:], name):
		return fmt.Errorf("unit %s is sallyport's own: it would stop itself", name)
	case strings.HasPrefix(name, "user@"):
		return fmt.Errorf("unit %s is a user's manager: all that the user starts would be one workload, and the user could undo the hardening; tag a unit of the system with User=", name)
	case kind == "service":
		return nil
	case kind == "slice":
		return fmt.Errorf("unit %s is a slice, whose place its name says: tag the services in it, or capture its cgroup with a match, or make it `slice` in the configuration", name)
	case kind == "scope":
		return fmt.Errorf("unit %s is a scope: a program made it around processes that run, and no file starts it again; tag cgroup captures its cgroup for as long as it is there", name)
	case kind == "socket":
		return fmt.Errorf("unit %s is a socket: tag the service that it starts (%s)", name, strings.TrimSuffix(name, ".socket")+".service")
	default:
		return fmt.Errorf("unit %s is a %s, which has no processes: tag the service that it starts", name, kind)
	}
}

// userOf finds the user of a unit with its home, -1 where it is not known before the
// start, and warns of root.
func userOf(u *systemd.Unit, t *Tagged) (uid int, home string) {
	if u.Dynamic {
		return -1, ""
	}
	if u.User == "" || u.User == "root" || u.User == "0" {
		t.Warnings = append(t.Warnings, "it runs as root: the hardening of the tag makes it hard to leave the gate, but root that finds a way can always leave; give the unit User=")
		return 0, "/root"
	}
	who, err := user.Lookup(u.User)
	if err != nil {
		who, err = user.LookupId(u.User)
	}
	if err != nil {
		return -1, ""
	}
	uid, err = strconv.Atoi(who.Uid)
	if err != nil {
		return -1, ""
	}
	return uid, who.HomeDir
}
