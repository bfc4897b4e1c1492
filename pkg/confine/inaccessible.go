package confine

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Inaccessible are the paths that a service of that user must not reach: what
// HiddenSockets names, and the agents that hold keys, which a command of `exec`
// may use because its user started it. Where HiddenSockets keeps the files of a
// directory, the sockets in it are named one by one. Each may be missing. A
// negative uid is one that is not known yet.
func Inaccessible(uid int, home string, env []string) []string {
	// A runtime directory holds nothing that a service needs, and every socket of
	// a session: buses, agents, engines.
	paths := []string{"/run/user"}
	for _, h := range HiddenSockets(uid, home, env) {
		path := filepath.Clean(h.Path)
		if rest, ok := strings.CutPrefix(path, "/var/run/"); ok {
			path = "/run/" + rest // FHS 3.0: the one is a link to the other
		}
		if strings.HasPrefix(path, "/run/user/") || uid < 0 && strings.HasSuffix(path, strconv.Itoa(uid)) {
			continue
		}
		if h.KeepFiles {
			for _, s := range resolverSockets {
				paths = append(paths, filepath.Join(path, s))
			}
			continue
		}
		paths = append(paths, path)
	}
	if filepath.IsAbs(home) && filepath.Clean(home) != "/" {
		for _, name := range agentSockets {
			paths = append(paths, filepath.Join(home, name))
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// resolverSockets are those of systemd-resolved beside the host's resolv.conf.
var resolverSockets = [...]string{"io.systemd.Resolve", "io.systemd.Resolve.Monitor"}

// agentSockets are those of gpg-agent and ssh-agent in a home directory.
var agentSockets = [...]string{
	".gnupg/S.gpg-agent", ".gnupg/S.gpg-agent.ssh", ".gnupg/S.gpg-agent.extra", ".gnupg/S.gpg-agent.browser",
	".gnupg/S.scdaemon", ".ssh/agent",
}
