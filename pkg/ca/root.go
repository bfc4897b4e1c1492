// Package ca is the trust that sallyport gives to workloads and what it costs
// to keep it: a root that stays with the keeper, a short-lived issuing
// certificate that the worker holds, a leaf for each name, and the directory of
// certificates that is mounted over the system's bundle in a workload.
//
// The files follow the jobs: root.go and issuer.go make authorities, leaf.go
// serves leaves on the hot path, and directory.go with its neighbours builds
// the trust directory and keeps it current.
package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/wholefile"
)

const (
	// RootFile and KeyFile are the names of the root's certificate and key in
	// its directory.
	RootFile = "root.pem"
	KeyFile  = "root.key"

	lockFile = "lock"

	rootLifetime = 10 * 365 * 24 * time.Hour
	// backdate forgives a workload (a container, a VM) whose clock runs behind
	// ours.
	backdate = time.Hour
)

// ErrRoot is wrapped by every error that says the stored root cannot be used:
// a key that does not fit, a key that others can read, an expired certificate.
var ErrRoot = errors.New("certificate authority unusable")

// A Root is the host's own certificate authority with its key. It belongs to
// the keeper: the worker gets Material only.
type Root struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// pem holds cert and then previous.
	pem []byte
	// cross vouch for cert, and for each other, to whoever trusts one of previous
	// only; both end with Overlap.
	cross, previous []*x509.Certificate
}

// OpenRoot reads the root in dir and creates it there if there is none. Any
// number of processes may call it at once: they take turns under a file lock
// and end with the same root. A root that is there but unusable is an error
// that wraps ErrRoot, never replaced: workloads and hosts may trust it.
func OpenRoot(dir string) (*Root, error) {
	// The certificate in it is public; the key's own mode guards the key.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create directory of the certificate authority: %w", err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()

	if err := finishRotation(dir); err != nil {
		return nil, fmt.Errorf("certificate authority in %s: %w", dir, err)
	}
	root, err := readRoot(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return root, err
	}
	if err := createRoot(dir, time.Now()); err != nil {
		return nil, fmt.Errorf("create certificate authority in %s: %w", dir, err)
	}
	return readRoot(dir)
}

// ReadRootCertificate gives the root's certificate as PEM without touching the
// key, for those who may not read it. The error wraps fs.ErrNotExist where no
// root was created yet.
func ReadRootCertificate(dir string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(dir, RootFile))
	if err != nil {
		return nil, err
	}
	cert, err := parseOne(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrRoot, filepath.Join(dir, RootFile), err)
	}
	return encodeCertificate(cert.Raw), nil
}

// RemoveRoot deletes the root in dir, and dir if nothing else is in it. What
// others keep there stays: dir is any that the configuration names.
func RemoveRoot(dir string) error {
	var errs []error
	errs = append(errs, removeOverlaps(dir, ""))
	for _, name := range []string{KeyFile, RootFile, nextKey, nextCertificate, lockFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Certificate gives the parsed certificate; it must not be changed.
func (r *Root) Certificate() *x509.Certificate { return r.cert }

// PEM gives the certificate and, until their overlap ends, those of the roots
// before it; it must not be changed.
func (r *Root) PEM() []byte { return r.pem }

// Fingerprint gives the SHA-256 of the certificate in lower-case hex.
func (r *Root) Fingerprint() string {
	sum := sha256.Sum256(r.cert.Raw)
	return hex.EncodeToString(sum[:])
}

// lockDir holds an exclusive lock of dir until the returned function is called.
// The lock file stays: removing it would let two processes lock two files.
func lockDir(dir string) (func(), error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of the certificate authority: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock certificate authority: %w", err)
	}
	return func() { f.Close() }, nil
}

// readRoot gives fs.ErrNotExist only where there is no certificate. A key alone
// is what a crash between the two renames leaves: nobody trusts it yet, and it
// is made anew. A certificate alone may be trusted already and is refused.
func readRoot(dir string) (*Root, error) {
	certPath, keyPath := filepath.Join(dir, RootFile), filepath.Join(dir, KeyFile)
	certPEM, err := os.ReadFile(certPath)
	if err != nil {
		return nil, err
	}
	cert, err := parseOne(certPEM)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w; restore it or move %s away", ErrRoot, certPath, err, dir)
	}
	keyPEM, err := readPrivate(keyPath)
	if err != nil {
		// Not wrapped: a missing key must not read as a missing root.
		return nil, fmt.Errorf("%w: %v; restore it or move %s away", ErrRoot, err, dir)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrRoot, keyPath, err)
	}
	switch now := time.Now(); {
	case !key.PublicKey.Equal(cert.PublicKey):
		return nil, fmt.Errorf("%w: %s is not the key of %s", ErrRoot, keyPath, certPath)
	case !cert.IsCA || !cert.BasicConstraintsValid || cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, fmt.Errorf("%w: %s is not a certificate authority", ErrRoot, certPath)
	case now.After(cert.NotAfter):
		return nil, fmt.Errorf("%w: %s expired on %s; move %s away and a new one is made", ErrRoot, certPath, cert.NotAfter.Format(time.DateOnly), dir)
	case now.Before(cert.NotBefore):
		return nil, fmt.Errorf("%w: %s is valid from %s only: the clock of this host is behind", ErrRoot, certPath, cert.NotBefore.Format(time.RFC3339))
	}
	r := &Root{cert: cert, key: key, pem: encodeCertificate(cert.Raw)}
	return r, r.readOverlap(dir, time.Now())
}

// readPrivate reads a file that only its owner may read and that belongs to
// root or to this process's user. Anything else may have been read or planted.
func readPrivate(path string) ([]byte, error) {
	f, st, err := wholefile.Open(path, unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o: others could read or change the key; move it away, or chmod 600 if you know that nobody did", path, st.Mode().Perm())
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && sys.Uid != 0 && int(sys.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("%s belongs to uid %d", path, sys.Uid)
	}
	return wholefile.ReadAll(f, maxFile)
}

func createRoot(dir string, now time.Time) error {
	key, der, err := newRoot(now)
	if err != nil {
		return err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	// The certificate comes last: where it is, the key is.
	if err := wholefile.Write(filepath.Join(dir, KeyFile), keyPEM, 0o600); err != nil {
		return err
	}
	return wholefile.Write(filepath.Join(dir, RootFile), encodeCertificate(der), 0o644)
}

// newRoot makes a key and a certificate of it for itself.
func newRoot(now time.Time) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	host, err := os.Hostname()
	if err != nil || len(host) > 32 {
		host = "this host"
	}
	serial := newSerial()
	template := &x509.Certificate{
		SerialNumber: serial,
		// The tail tells roots of one host apart: equal subjects with different
		// keys confuse stores that look issuers up by name.
		Subject:               pkix.Name{Organization: []string{"sallyport"}, CommonName: fmt.Sprintf("sallyport root %s %s", host, tail(serial))},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		SubjectKeyId:          keyID(&key.PublicKey),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return key, der, err
}

// newSerial gives 159 random bits: positive in 20 octets, RFC 5280 §4.1.2.2.
// crypto/rand does not fail since Go 1.24.
func newSerial() *big.Int {
	var b [20]byte
	rand.Read(b[:])
	b[0] &= 0x7f
	b[19] |= 1 // never zero
	return new(big.Int).SetBytes(b[:])
}

func tail(serial *big.Int) string {
	b := serial.Bytes()
	return hex.EncodeToString(b[len(b)-3:])
}

// keyID gives a subject key identifier after RFC 7093 §2 method 1.
func keyID(key *ecdsa.PublicKey) []byte {
	point, err := key.Bytes()
	if err != nil {
		panic("ca: a P-256 key without an encoding: " + err.Error())
	}
	sum := sha256.Sum256(point)
	return sum[:20]
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parseKey(data []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("no PEM block PRIVATE KEY")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("not an ECDSA key on P-256")
	}
	return ec, nil
}
