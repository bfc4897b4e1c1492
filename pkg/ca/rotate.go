package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"sallyport/pkg/wholefile"
)

// Overlap is for how long after a rotation the root before it is trusted beside
// the new one, and vouches for it: a program that read its roots once, when it
// started, goes on for that long.
const Overlap = 30 * 24 * time.Hour

// maxOverlap bounds the earlier roots of a quick succession of rotations.
const maxOverlap = 3

// The names of what a rotation has prepared and not yet put in place.
const (
	nextCertificate = "next.pem"
	nextKey         = "next.key"
	overlapPrefix   = "overlap-"
)

// ErrOverlap says that the last rotations are too recent for another one that
// keeps their roots.
var ErrOverlap = errors.New("too many rotations within 30 days")

// Rotate makes a new root in dir. The one before it is trusted for Overlap beside
// it and signs the new one's key, so that whoever knows only one of them accepts
// what the other vouches for. With forget nothing of it stays: what it signed is
// refused by whoever reads the trust directories again, and programs that know
// only it have to be restarted. A running keeper has to be told.
//
// A crash leaves the old root or the new one, whole.
func Rotate(dir string, forget bool) (*Root, error) {
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := finishRotation(dir); err != nil {
		return nil, err
	}
	old, err := readRoot(dir)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	key, der, err := newRoot(now)
	if err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	if !forget {
		if len(old.previous) >= maxOverlap {
			return nil, fmt.Errorf("%w: wait, or use --forget and restart the workloads", ErrOverlap)
		}
		overlap, err := old.overlapWith(cert)
		if err != nil {
			return nil, err
		}
		// Named after the new root: without it this file says nothing.
		if err := wholefile.Write(overlapPath(dir, cert), overlap, 0o644); err != nil {
			return nil, err
		}
	}
	if err := wholefile.Write(filepath.Join(dir, nextCertificate), encodeCertificate(der), 0o644); err != nil {
		return nil, err
	}
	if err := wholefile.Write(filepath.Join(dir, nextKey), keyPEM, 0o600); err != nil {
		return nil, err
	}
	if err := finishRotation(dir); err != nil {
		return nil, err
	}
	next, err := readRoot(dir)
	if err != nil {
		return nil, err
	}
	return next, removeOverlaps(dir, filepath.Base(overlapPath(dir, cert)))
}

// overlapWith gives what vouches for a new root: its key signed by r, with what
// vouches for r, and then the roots that stay trusted.
func (r *Root) overlapWith(next *x509.Certificate) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: newSerial(), Subject: next.Subject, RawSubject: next.RawSubject,
		NotBefore: next.NotBefore, NotAfter: next.NotBefore.Add(backdate + Overlap),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: next.KeyUsage, SubjectKeyId: next.SubjectKeyId,
	}
	if template.NotAfter.After(r.cert.NotAfter) {
		template.NotAfter = r.cert.NotAfter
	}
	if template.NotBefore.Before(r.cert.NotBefore) {
		template.NotBefore = r.cert.NotBefore
	}
	der, err := x509.CreateCertificate(rand.Reader, template, r.cert, next.PublicKey, r.key)
	if err != nil {
		return nil, fmt.Errorf("sign the new root by the old: %w", err)
	}
	out := encodeCertificate(der)
	for _, c := range r.cross {
		out = append(out, encodeCertificate(c.Raw)...)
	}
	out = append(out, encodeCertificate(r.cert.Raw)...)
	for _, c := range r.previous {
		out = append(out, encodeCertificate(c.Raw)...)
	}
	return out, nil
}

// readOverlap adds what an earlier root left to r, for as long as that counts. A
// file that says anything else than what Rotate wrote is an error: it would be
// trusted by every workload.
func (r *Root) readOverlap(dir string, now time.Time) error {
	path := overlapPath(dir, r.cert)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && now.After(r.cert.NotBefore.Add(backdate+Overlap)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRoot, err)
	}
	certs, err := parseAll(data)
	if err != nil || len(certs) == 0 || len(certs)%2 != 0 || len(certs) > 2*maxOverlap {
		return fmt.Errorf("%w: %s is not what a rotation wrote (%v); remove it and restart the workloads", ErrRoot, path, err)
	}
	half := len(certs) / 2
	subject := r.cert
	for i, cross := range certs[:half] {
		parent := certs[half+i]
		if !bytes.Equal(cross.RawSubject, subject.RawSubject) || !bytes.Equal(cross.RawSubjectPublicKeyInfo, subject.RawSubjectPublicKeyInfo) || cross.CheckSignatureFrom(parent) != nil {
			return fmt.Errorf("%w: %s does not vouch for %s; remove it and restart the workloads", ErrRoot, path, RootFile)
		}
		if now.Before(cross.NotAfter) && now.Before(parent.NotAfter) {
			r.cross, r.previous = append(r.cross, cross), append(r.previous, parent)
			r.pem = append(r.pem, encodeCertificate(parent.Raw)...)
		}
		subject = parent
	}
	return nil
}

// finishRotation brings a rotation that was interrupted to its end, or back. The
// caller holds the lock.
func finishRotation(dir string) error {
	next, key := filepath.Join(dir, nextCertificate), filepath.Join(dir, nextKey)
	certPEM, err := os.ReadFile(next)
	if errors.Is(err, fs.ErrNotExist) {
		return removeNames(key)
	} else if err != nil {
		return err
	}
	cert, err := parseOne(certPEM)
	if err != nil {
		return errors.Join(removeNames(next, key))
	}
	public, ok := cert.PublicKey.(*ecdsa.PublicKey)
	fits := func(path string) bool {
		data, err := readPrivate(path)
		if err != nil || !ok {
			return false
		}
		k, err := parseKey(data)
		return err == nil && k.PublicKey.Equal(public)
	}
	if fits(key) {
		if err := wholefile.Rename(key, filepath.Join(dir, KeyFile)); err != nil {
			return err
		}
	}
	if fits(filepath.Join(dir, KeyFile)) {
		return wholefile.Rename(next, filepath.Join(dir, RootFile))
	}
	return removeNames(next, key)
}

func overlapPath(dir string, root *x509.Certificate) string {
	return filepath.Join(dir, fmt.Sprintf("%s%x.pem", overlapPrefix, root.SubjectKeyId[:8]))
}

// removeOverlaps removes the overlaps of roots that are no more.
func removeOverlaps(dir, keep string) error {
	paths, err := filepath.Glob(filepath.Join(dir, overlapPrefix+"*.pem"))
	if err != nil {
		return err
	}
	for _, p := range paths {
		if filepath.Base(p) == keep {
			continue
		}
		if err := removeNames(p); err != nil {
			return err
		}
	}
	return nil
}

func removeNames(paths ...string) error {
	var errs []error
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
