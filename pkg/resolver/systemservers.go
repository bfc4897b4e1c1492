package resolver

import (
	"fmt"
	"net/netip"
	"os"
)

// SystemServers gives the servers of a resolv.conf(5), which a Resolver without
// Upstreams asks. A file that names none means this host, as in libc.
func SystemServers(path string) ([]netip.AddrPort, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("DNS servers: %w", err)
	}
	return parseResolvConf(string(text)).servers, nil
}
