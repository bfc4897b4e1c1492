package ca

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"sallyport/pkg/wholefile"
)

// A HostStore is where a distribution takes certificates of its administrator
// from, and the command that makes its bundles of them.
type HostStore struct {
	// Dir holds one file for each certificate.
	Dir string
	// Suffix is what the files' names have to end in.
	Suffix string
	// Update is the command and its arguments; Renew is the same after something was
	// taken out, which Update overlooks on some: its links stay, and lead nowhere.
	Update, Renew []string
}

// hostStores are those of the distributions (from the sources of mkcert and
// smallstep/truststore). The first whose directory is there is the host's:
// openSUSE also has a /etc/ca-certificates, and none has two of the others.
func hostStores() []HostStore {
	return []HostStore{
		{"/etc/pki/ca-trust/source/anchors", ".pem", []string{"update-ca-trust", "extract"}, []string{"update-ca-trust", "extract"}},    // Fedora, RHEL
		{"/usr/local/share/ca-certificates", ".crt", []string{"update-ca-certificates"}, []string{"update-ca-certificates", "--fresh"}}, // Debian, Alpine
		{"/usr/share/pki/trust/anchors", ".pem", []string{"update-ca-certificates"}, []string{"update-ca-certificates", "--fresh"}},     // openSUSE
		{"/etc/ca-certificates/trust-source/anchors", ".crt", []string{"trust", "extract-compat"}, []string{"trust", "extract-compat"}}, // Arch
	}
}

// hostStoreName is the name, without suffix, of our file in a store.
const hostStoreName = "sallyport-root"

// ErrNoHostStore says that the host is of no distribution that we know.
var ErrNoHostStore = errors.New("no certificate store of a known distribution")

// FindHostStore gives the host's store. root is the file system; empty means "/".
func FindHostStore(root string) (HostStore, error) {
	for _, s := range hostStores() {
		if info, err := os.Stat(filepath.Join("/", root, s.Dir)); err == nil && info.IsDir() {
			s.Dir = filepath.Join("/", root, s.Dir)
			return s, nil
		}
	}
	return HostStore{}, fmt.Errorf("%w: looked for /etc/pki/ca-trust, /usr/local/share/ca-certificates, /usr/share/pki/trust, /etc/ca-certificates/trust-source", ErrNoHostStore)
}

// Put adds our root and reports whether anything changed; Update must be run
// then.
func (s HostStore) Put(root []byte) (changed bool, err error) {
	if have, err := os.ReadFile(s.path()); err == nil && bytes.Equal(have, root) {
		return false, nil
	}
	if err := wholefile.Write(s.path(), root, 0o644); err != nil {
		return false, fmt.Errorf("host's certificates: %w", err)
	}
	return true, nil
}

// Remove takes our root out and reports whether it was there; Renew must be run
// then.
func (s HostStore) Remove() (bool, error) {
	err := os.Remove(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("host's certificates: %w", err)
	}
	return true, nil
}

func (s HostStore) path() string { return filepath.Join(s.Dir, hostStoreName+s.Suffix) }
