package keeper

import (
	"errors"
	"fmt"

	"sallyport/pkg/config"
	"sallyport/pkg/keeper/protocol"
)

// readPasswords reads the files with what stages and upstream proxies send or
// compare, each once, at start and at each reload: the worker may not be able to.
func readPasswords(c *config.Config) ([]protocol.Source, error) {
	var out []protocol.Source
	var errs []error
	for _, f := range c.NamedFiles() {
		data, err := readBounded(f.Path, f.Secret)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.Key, err))
			continue
		}
		out = append(out, protocol.Source{Name: f.Path, Data: data})
	}
	return out, errors.Join(errs...)
}
