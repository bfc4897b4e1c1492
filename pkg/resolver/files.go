package resolver

import (
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// fileCheck is how old a look at a file may be.
	fileCheck = time.Second
	// maxHostsFile bounds what is read of /etc/hosts or resolv.conf.
	maxHostsFile = 4 << 20
	// maxServers bounds the servers taken from resolv.conf; glibc takes three.
	maxServers = 8
)

// A watchedFile is a parsed file that is read again when it changed. What
// cannot be read leaves the last content in place.
type watchedFile[T any] struct {
	path  string
	parse func(string) T

	mu      sync.Mutex
	checked time.Time
	seen    fs.FileInfo
	value   T
}

func newWatchedFile[T any](path string, parse func(string) T) *watchedFile[T] {
	return &watchedFile[T]{path: path, parse: parse, value: parse("")}
}

// get gives the content, at most fileCheck old.
func (f *watchedFile[T]) get(now time.Time) T {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.checked.IsZero() && now.Sub(f.checked) < fileCheck && !now.Before(f.checked) {
		return f.value
	}
	f.checked = now
	info, err := os.Stat(f.path)
	if err != nil || !info.Mode().IsRegular() {
		return f.value
	}
	if f.seen != nil && os.SameFile(f.seen, info) && f.seen.ModTime().Equal(info.ModTime()) && f.seen.Size() == info.Size() {
		return f.value
	}
	file, err := os.Open(f.path)
	if err != nil {
		return f.value
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxHostsFile))
	if err != nil {
		return f.value
	}
	f.seen, f.value = info, f.parse(string(data))
	return f.value
}

// A hostsTable is /etc/hosts: addresses by name in lower case.
type hostsTable map[string][]netip.Addr

// parseHosts reads hosts(5). Lines that are none are passed over, as libc does.
func parseHosts(text string) hostsTable {
	table := make(hostsTable)
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil || addr.Zone() != "" {
			continue
		}
		addr = addr.Unmap()
		for _, name := range fields[1:] {
			name = strings.ToLower(strings.TrimSuffix(name, "."))
			if _, ok := hostName(name); ok && !slices.Contains(table[name], addr) && len(table[name]) < maxAddresses {
				table[name] = append(table[name], addr)
			}
		}
	}
	return table
}

// A resolvConf is what of resolv.conf(5) matters to a server.
type resolvConf struct {
	servers  []netip.AddrPort
	timeout  time.Duration // 0: not said
	attempts int           // 0: not said
}

// parseResolvConf reads resolv.conf(5). Without a server it is the one on this
// host, as in libc.
func parseResolvConf(text string) resolvConf {
	var c resolvConf
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if addr, err := netip.ParseAddr(fields[1]); err == nil && len(c.servers) < maxServers {
				c.servers = append(c.servers, netip.AddrPortFrom(addr.Unmap(), 53))
			}
		case "options":
			for _, option := range fields[1:] {
				name, value, _ := strings.Cut(option, ":")
				n, err := strconv.Atoi(value)
				if err != nil || n < 1 {
					continue
				}
				switch name {
				case "timeout":
					c.timeout = time.Duration(min(n, 30)) * time.Second
				case "attempts":
					c.attempts = min(n, 5)
				}
			}
		}
	}
	if len(c.servers) == 0 {
		c.servers = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)}
	}
	return c
}
