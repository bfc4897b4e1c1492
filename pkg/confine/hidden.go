package confine

import (
	"path/filepath"
	"strconv"
	"strings"
)

// HiddenSockets are the places where resolvers, message buses, service and
// container managers listen on Linux hosts, for a command of that user with
// that home directory and environment. Through each of them a command could
// have something outside its cgroup look a name up, open a connection or start
// a program. A directory is listed where it holds nothing else: a file mounted
// over a socket goes when its server removes the socket and makes it anew, a
// directory stays.
func HiddenSockets(uid int, home string, env []string) []Hidden {
	hide := []Hidden{
		// Resolvers. systemd-resolved keeps the host's resolv.conf beside
		// its sockets, and /etc/resolv.conf is a link to it.
		{Path: "/run/systemd/resolve", KeepFiles: true},
		{Path: "/run/systemd/resolve.hook"},
		{Path: "/run/nscd"},
		{Path: "/var/run/nscd"},
		{Path: "/var/cache/nscd/socket"},
		{Path: "/run/avahi-daemon"},
		{Path: "/var/run/avahi-daemon"},

		// Buses and the service manager, which starts programs.
		{Path: "/run/dbus"},
		{Path: "/var/run/dbus"},
		{Path: "/run/systemd/private"},
		{Path: "/run/systemd/io.systemd.Manager"},
		{Path: "/run/systemd/machine"},

		// Container engines and what starts machines.
		{Path: "/run/docker.sock"},
		{Path: "/var/run/docker.sock"},
		{Path: "/run/docker"},
		{Path: "/run/cri-dockerd.sock"},
		{Path: "/run/containerd"},
		{Path: "/run/k3s"},
		{Path: "/run/crio"},
		{Path: "/var/run/crio"},
		{Path: "/run/podman"},
		{Path: "/var/run/podman"},
		{Path: "/run/buildkit"},
		{Path: "/run/incus"},
		{Path: "/var/lib/incus/unix.socket"},
		{Path: "/var/lib/lxd/unix.socket"},
		{Path: "/var/snap/lxd/common/lxd/unix.socket"},
		{Path: "/var/snap/lxd/common/lxd-user/unix.socket"},
		{Path: "/run/libvirt"},
		{Path: "/var/run/libvirt"},

		// Those that open connections for whoever asks: printing to any address,
		// a network of one's own, an anonymous one.
		{Path: "/run/cups"},
		{Path: "/var/run/cups"},
		{Path: "/run/tailscale"},
		{Path: "/var/run/tailscale"},
		{Path: "/run/tor"},
		{Path: "/var/run/tor"},

		// Terminal multiplexers, which start programs outside.
		{Path: "/tmp/tmux-" + strconv.Itoa(uid)},
		{Path: "/run/tmux/" + strconv.Itoa(uid)},
		{Path: "/run/screen"},
		{Path: "/var/run/screen"},
		{Path: "/tmp/uscreens"},
	}
	runtimes := []string{"/run/user/" + strconv.Itoa(uid)}
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		switch name {
		case "XDG_RUNTIME_DIR":
			if filepath.IsAbs(value) && filepath.Clean(value) != runtimes[0] {
				runtimes = append(runtimes, filepath.Clean(value))
			}
		case "TMUX": // SOCKET,PID,SESSION
			if path, _, _ := strings.Cut(value, ","); filepath.IsAbs(path) {
				hide = append(hide, Hidden{Path: path})
			}
		case "TMUX_TMPDIR":
			if filepath.IsAbs(value) {
				hide = append(hide, Hidden{Path: filepath.Join(value, "tmux-"+strconv.Itoa(uid))})
			}
		case "SCREENDIR":
			if filepath.IsAbs(value) {
				hide = append(hide, Hidden{Path: value})
			}
		case "DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS":
			hide = append(hide, busPaths(value)...)
		case "DOCKER_HOST", "CONTAINER_HOST", "BUILDKIT_HOST", "CONTAINERD_ADDRESS", "CONTAINER_RUNTIME_ENDPOINT":
			path := strings.TrimPrefix(value, "unix://")
			if filepath.IsAbs(path) {
				hide = append(hide, Hidden{Path: path})
			}
		}
	}
	for _, dir := range runtimes {
		for _, name := range []string{
			"bus", "at-spi", "systemd/private", "systemd/io.systemd.Manager",
			"docker.sock", "docker", "podman", "containerd", "containerd-rootless", "buildkit", "buildkit-default", "libvirt",
			// dirmngr fetches any URL, and systemd starts it for who connects. Sound
			// servers stream to any address. Emacs runs what it is told.
			"gnupg/S.dirmngr", "pulse", "pipewire-0", "pipewire-0-manager", "emacs",
		} {
			hide = append(hide, Hidden{Path: dir + "/" + name})
		}
	}
	if filepath.IsAbs(home) {
		for _, name := range []string{
			".docker/run", ".docker/desktop/docker.sock", ".rd/docker.sock", ".colima/default/docker.sock",
			".cache/at-spi", ".gnupg/S.dirmngr", ".screen",
		} {
			hide = append(hide, Hidden{Path: filepath.Join(home, name)})
		}
	}
	return hide
}

// busPaths reads a D-Bus address list, "unix:path=/tmp/x,guid=…;…" (D-Bus
// specification, Server Addresses), for sockets in the file system. Abstract
// ones are kept off by Landlock.
func busPaths(addresses string) []Hidden {
	var hide []Hidden
	for address := range strings.SplitSeq(addresses, ";") {
		options, ok := strings.CutPrefix(address, "unix:")
		if !ok {
			continue
		}
		for option := range strings.SplitSeq(options, ",") {
			if path, ok := strings.CutPrefix(option, "path="); ok && filepath.IsAbs(path) {
				hide = append(hide, Hidden{Path: unescapePercent(path)})
			}
		}
	}
	return hide
}

// unescapePercent undoes the %HH of a D-Bus address; a broken one stays.
func unescapePercent(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(v))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
