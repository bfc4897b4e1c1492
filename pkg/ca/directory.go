package ca

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"
)

// A Directory is the trust of one workload, or of all that have no certificates
// of their own.
type Directory struct {
	trust *Trust
	path  string
	extra []byte
	kept  []keptFile

	// places are the covered directories, java whether a JVM's store is among
	// what covers them, both guarded by trust.mu.
	places []string
	java   bool
}

// A keptFile is a file of the user that gets our root beside it.
type keptFile struct {
	path string // as the user wrote it, made absolute
	pem  []byte // its certificates
}

// A Mount puts Source of the trust directory over Target in the mount namespace
// of a workload, read-only. Target has no links. File is set where both are
// files, else both are directories.
type Mount struct {
	Source, Target string
	File           bool
}

// write brings the directory to a snapshot. The caller holds trust.mu.
func (d *Directory) write(snap snapshot) error {
	c, problems := snap.content(d.trust.ours, d.extra, d.trust.java)
	for _, p := range problems {
		d.trust.log.Warn("trust directory incomplete", zap.String("path", d.path), zap.Error(p))
	}
	d.places, d.java = nil, c.java
	for dir := range c.places {
		d.places = append(d.places, dir)
	}
	slices.Sort(d.places)
	for i, file := range d.kept {
		d.addKept(c, i, file)
	}
	if _, err := os.Lstat(d.path); err == nil {
		return d.wrap(c.write(d.path))
	}
	// The first time it appears whole, by one rename.
	fresh := filepath.Join(filepath.Dir(d.path), ".new-"+filepath.Base(d.path))
	if err := os.RemoveAll(fresh); err != nil {
		return d.wrap(err)
	}
	err := c.write(fresh)
	if err == nil {
		err = os.Rename(fresh, d.path)
	}
	if err != nil {
		os.RemoveAll(fresh)
	}
	return d.wrap(err)
}

func (d *Directory) wrap(err error) error {
	if err != nil {
		return fmt.Errorf("write trust directory %s: %w", d.path, err)
	}
	return nil
}

// addKept puts the user's file with our root beside its certificates where the
// workload will see it: inside a covered directory, or as a file of its own.
func (d *Directory) addKept(c content, i int, file keptFile) {
	at, err := d.trust.host.resolve(path.Dir(file.path))
	if err != nil {
		return
	}
	for dir, place := range c.places {
		rel, ok := within(dir, path.Join(at.path, path.Base(file.path)))
		if !ok {
			continue
		}
		if real, ok := place.follow(rel); ok {
			rel = real
		}
		if n, ok := place[rel]; !ok || !bundleName(rel) { // a bundle has ours already
			if !ok {
				n.data = file.pem
			}
			place[rel] = node{data: joinPEM(n.data, d.trust.ours.pem)}
		}
		return
	}
	c.top[path.Join(keptDir, strconv.Itoa(i)+".pem")] = node{data: joinPEM(file.pem, d.trust.ours.pem)}
}

// Path gives the directory itself.
func (d *Directory) Path() string { return d.path }

// Paths gives what variables should point to in a workload that sees this
// directory at its own path. env is the workload's environment so far: a
// JAVA_HOME with roots of its own is one that no mount covers.
func (d *Directory) Paths(env []string) Paths {
	d.trust.mu.Lock()
	defer d.trust.mu.Unlock()
	p := Paths{Bundle: filepath.Join(d.path, BundleFile), Root: filepath.Join(d.path, RootFile)}
	if !d.java || !d.javaHomeCovered(env) {
		p.Java = filepath.Join(d.path, JavaFile)
	}
	return p
}

func (d *Directory) javaHomeCovered(env []string) bool {
	home := ""
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, "JAVA_HOME="); ok {
			home = value
		}
	}
	if home == "" {
		return true
	}
	for _, p := range []string{"lib/security/cacerts", "jre/lib/security/cacerts"} {
		at, err := d.trust.host.resolve(path.Join(home, p))
		if err != nil {
			continue
		}
		return slices.ContainsFunc(d.places, func(dir string) bool {
			_, ok := within(dir, at.path)
			return ok
		})
	}
	return true // no JVM there: the variable would only print its line
}

// Mounts gives what to mount over what in the workload, in this order.
func (d *Directory) Mounts() []Mount {
	d.trust.mu.Lock()
	defer d.trust.mu.Unlock()
	var mounts []Mount
	for _, dir := range d.places {
		source := filepath.Join(d.path, placeDir, dir)
		if _, err := os.Lstat(source); err != nil {
			continue
		}
		mounts = append(mounts, Mount{Source: source, Target: dir})
	}
	for i, file := range d.kept {
		source := filepath.Join(d.path, keptDir, strconv.Itoa(i)+".pem")
		if _, err := os.Lstat(source); err != nil {
			continue // it lies in a covered directory
		}
		target, err := d.trust.host.resolve(file.path)
		if err != nil {
			continue
		}
		mounts = append(mounts, Mount{Source: source, Target: target.path, File: true})
	}
	return mounts
}

// Remove deletes the directory of a workload that has ended. The shared one
// stays.
func (d *Directory) Remove() error {
	d.trust.mu.Lock()
	defer d.trust.mu.Unlock()
	if d == d.trust.shared {
		return nil
	}
	delete(d.trust.own, d.path)
	return os.RemoveAll(d.path)
}
