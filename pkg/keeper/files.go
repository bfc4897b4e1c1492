package keeper

import (
	"errors"
	"fmt"

	"sallyport/pkg/config"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/wholefile"
)

// maxFile bounds a file that the keeper reads whole, in bytes.
const maxFile = 1 << 20

// readCertificates reads the files of every upstream_tls, each once: the worker
// may not be able to. Keys come first, because a file may hold a certificate
// besides.
func readCertificates(c *config.Config) ([]protocol.Source, error) {
	var out []protocol.Source
	var errs []error
	read := make(map[string]bool)
	for _, secret := range [...]string{"key", ""} {
		for _, u := range c.Certificates() {
			name := u.Key
			if secret == "" {
				name = u.Cert
			}
			if read[name] {
				continue
			}
			read[name] = true
			data, err := readBounded(name, secret)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: upstream_tls: %w", u.At, err))
				continue
			}
			out = append(out, protocol.Source{Name: name, Data: data})
		}
	}
	return out, errors.Join(errs...)
}

// readBounded reads a regular file that an operator named; secret says what is
// secret in it, "" where nothing is. A secret is refused where others than its
// owner and group can read it or others than its owner can change it: who knows
// by whom it is known already. Symbolic links are followed, as certbot and
// Kubernetes make them.
func readBounded(name, secret string) ([]byte, error) {
	f, st, err := wholefile.Open(name, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if secret != "" && st.Mode().Perm()&0o027 != 0 {
		return nil, fmt.Errorf("%s has mode %04o: others could read or change the %s; chmod 600 it, or make a new %[3]s if somebody may have read it", name, st.Mode().Perm(), secret)
	}
	return wholefile.ReadAll(f, maxFile)
}
