package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// A Caller is the user as whom a command runs.
type Caller struct {
	UID, GID int
	// Groups are all supplementary groups, the primary one among them.
	Groups []int
	Name   string
	Home   string
	Shell  string
	// Path is where the user's commands are looked for.
	Path string
	// Confined is false for root, which no limit of this package holds for
	// good.
	Confined bool
	// switched says that the environment is another user's and must change.
	switched bool
}

// A Host is where CallingUser asks; ThisHost is the real one.
type Host struct {
	// UID is the effective user of the process; Groups its groups.
	UID, GID int
	Groups   []int
	Getenv   func(string) string
	// Etc is /etc.
	Etc fs.FS
	// SudoEnviron is the environment that sudo was started with, false where
	// no sudo is above this process.
	SudoEnviron func() ([]string, bool)
}

// ThisHost asks the process, /etc and /proc.
func ThisHost() (Host, error) {
	groups, err := os.Getgroups()
	if err != nil {
		return Host{}, err
	}
	return Host{
		UID: os.Geteuid(), GID: os.Getegid(), Groups: groups,
		Getenv: os.Getenv, Etc: os.DirFS("/etc"), SudoEnviron: SudoEnviron,
	}, nil
}

// CallingUser says as whom `exec` runs its command: name (the --user option,
// a name or a number) if it is not "", else the user who called sudo, else the
// user who called. SUDO_UID, SUDO_GID and SUDO_USER must agree with the account
// files: an environment that names no real user is an error, never root.
func CallingUser(h Host, name string) (Caller, error) {
	switch {
	case name != "":
		u, err := h.named(name)
		if err != nil {
			return Caller{}, failed("user", name, err)
		}
		if h.UID != 0 && u.uid != h.UID {
			return Caller{}, failed("user", name, errors.New("only root can start a command as another user"))
		}
		if h.UID != 0 {
			return h.self()
		}
		return h.become(u, u.gid)
	case h.UID != 0:
		return h.self()
	case h.Getenv("SUDO_UID") != "":
		c, err := h.underSudo()
		if err != nil {
			return Caller{}, failed("calling user of sudo", h.Getenv("SUDO_USER"), err)
		}
		return c, nil
	}
	return h.self()
}

// self keeps ids, groups and environment.
func (h Host) self() (Caller, error) {
	c := Caller{
		UID: h.UID, GID: h.GID, Groups: h.Groups, Confined: h.UID != 0,
		Path: h.Getenv("PATH"), Home: h.Getenv("HOME"), Shell: h.Getenv("SHELL"),
	}
	u, err := h.user(func(u *user) bool { return u.uid == h.UID })
	if err != nil && !errors.Is(err, ErrNoUser) {
		return Caller{}, failed("user", "", err)
	}
	c.Name = u.name
	return c, nil
}

func (h Host) named(name string) (user, error) {
	u, err := h.user(func(u *user) bool { return u.name == name })
	if uid, ok := parseID(name); ok && errors.Is(err, ErrNoUser) {
		return h.user(func(u *user) bool { return u.uid == uid })
	}
	return u, err
}

func (h Host) user(want func(*user) bool) (user, error) {
	f, err := h.Etc.Open("passwd")
	if err != nil {
		return user{}, err
	}
	defer f.Close()
	return findUser(f, want)
}

// underSudo believes the variables only where they name one and the same
// account, since anyone with root can set them.
func (h Host) underSudo() (Caller, error) {
	uid, ok := parseID(h.Getenv("SUDO_UID"))
	if !ok {
		return Caller{}, fmt.Errorf("SUDO_UID=%q is not a user id", h.Getenv("SUDO_UID"))
	}
	name := h.Getenv("SUDO_USER")
	// Several names may share a uid: the one that sudo saw.
	u, err := h.user(func(u *user) bool { return u.uid == uid && u.name == name })
	if err != nil {
		return Caller{}, fmt.Errorf("SUDO_USER=%q with SUDO_UID=%d: %w", name, uid, err)
	}
	if uid == 0 {
		return h.self() // root called sudo
	}
	gid, ok := parseID(h.Getenv("SUDO_GID"))
	if !ok {
		return Caller{}, fmt.Errorf("SUDO_GID=%q is not a group id", h.Getenv("SUDO_GID"))
	}
	c, err := h.become(u, gid)
	if err != nil {
		return Caller{}, err
	}
	if !slices.Contains(c.Groups, gid) {
		return Caller{}, fmt.Errorf("SUDO_GID=%d is not a group of %s", gid, name)
	}
	environ, ok := h.SudoEnviron()
	if ok {
		for _, v := range environ {
			if p, ok := strings.CutPrefix(v, "PATH="); ok && p != "" {
				c.Path = p
				break // the first counts for getenv(3), and for sudo
			}
		}
	}
	return c, nil
}

// become is another user, as login(1) would start it.
func (h Host) become(u user, gid int) (Caller, error) {
	f, err := h.Etc.Open("group")
	if err != nil {
		return Caller{}, err
	}
	defer f.Close()
	groups, err := findGroups(f, &u)
	if err != nil {
		return Caller{}, err
	}
	return Caller{
		UID: u.uid, GID: gid, Groups: groups, Name: u.name, Home: u.home, Shell: u.shell,
		Path: loginPath(h.Etc, u.uid), Confined: u.uid != 0, switched: true,
	}, nil
}

// Environ is the command's environment: base unchanged for the caller itself,
// and for another user with that one's PATH, HOME, USER, LOGNAME and SHELL,
// and without the variables by which sudo tells of itself.
func (c *Caller) Environ(base []string) []string {
	if !c.switched {
		return slices.Clone(base)
	}
	shell := c.Shell
	if shell == "" {
		shell = "/bin/sh" // passwd(5): an empty field means that
	}
	set := []string{"PATH=" + c.Path, "HOME=" + c.Home, "USER=" + c.Name, "LOGNAME=" + c.Name, "SHELL=" + shell}
	env := make([]string, 0, len(base)+len(set))
	for _, v := range base {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND", "SUDO_HOME", "SUDO_TTY":
			continue
		case "MAIL":
			env = append(env, "MAIL=/var/mail/"+c.Name)
			continue
		case "PATH", "HOME", "USER", "LOGNAME", "SHELL":
			continue
		}
		env = append(env, v)
	}
	return append(env, set...)
}
