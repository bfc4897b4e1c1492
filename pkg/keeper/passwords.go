package keeper

import (
	"errors"
	"fmt"

	"sallyport/pkg/config"
	"sallyport/pkg/keeper/protocol"
)

// readPasswords reads the password file of every upstream proxy, each once, at
// start and at each reload: the worker may not be able to.
func readPasswords(c *config.Config) ([]protocol.Source, error) {
	var out []protocol.Source
	var errs []error
	read := make(map[string]bool)
	for _, u := range c.UpstreamProxies() {
		name := u.PasswordFile
		if name == "" || read[name] {
			continue
		}
		read[name] = true
		data, err := readBounded(name, "password")
		if err != nil {
			errs = append(errs, fmt.Errorf("upstream_proxy.password_file: %w", err))
			continue
		}
		out = append(out, protocol.Source{Name: name, Data: data})
	}
	return out, errors.Join(errs...)
}
