package agent

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"sallyport/pkg/config"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/upstream"
)

// proxies are the upstream proxies, by the block that names them.
type proxies map[*config.UpstreamProxy]*upstream.Proxy

// maxPassword bounds a password, in bytes.
const maxPassword = 4096

// proxiesOf makes the proxies of a configuration with the passwords that came
// with it. Blocks that say the same share one, and so its connections.
func proxiesOf(c *config.Config, sources *protocol.Configuration) (proxies, error) {
	files := make(map[string][]byte, len(sources.Passwords))
	for _, s := range sources.Passwords {
		files[s.Name] = s.Data
	}
	known := make(map[upstream.ProxyOptions]*upstream.Proxy)
	out := make(proxies)
	for _, u := range c.UpstreamProxies() {
		o := upstream.ProxyOptions{TLS: u.Scheme == config.ProxyHTTPS, Host: u.Host, Port: u.Port, Username: u.Username}
		if u.PasswordFile != "" {
			data, ok := files[u.PasswordFile]
			if !ok {
				return nil, fmt.Errorf("upstream_proxy.password_file: %s was not read", u.PasswordFile)
			}
			var err error
			if o.Password, err = password(data); err != nil {
				return nil, fmt.Errorf("upstream_proxy.password_file: %s %w", u.PasswordFile, err)
			}
		}
		if known[o] == nil {
			known[o] = upstream.NewProxy(o)
		}
		out[u] = known[o]
	}
	return out, nil
}

// password takes what a file holds, without the end of its line.
func password(data []byte) (string, error) {
	s := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch {
	case s == "":
		return "", errors.New("is empty")
	case len(s) > maxPassword:
		return "", fmt.Errorf("is longer than %d bytes", maxPassword)
	case !utf8.ValidString(s):
		return "", errors.New("is not UTF-8")
	case strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }):
		// RFC 7617 section 2.
		return "", errors.New("has a control character or more than one line")
	}
	return s, nil
}

// keep puts the proxies of the configuration before in the place of those that
// are still the same: connections stay with them.
func (p proxies) keep(old proxies) {
	for u, now := range p {
		for _, before := range old {
			if now.Same(before) {
				p[u] = before
				break
			}
		}
	}
}
