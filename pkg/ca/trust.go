package ca

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.uber.org/zap"
)

// sharedName is the directory of the workloads that bring no certificates. It
// cannot be a workload's own: those begin with "w-".
const sharedName = "all"

// maxDirectories bounds how many workloads may have a directory of their own.
const maxDirectories = 1024

// ErrFull says that no more trust directories may be made.
var ErrFull = errors.New("too many workloads with certificates of their own")

// TrustOptions are what a Trust needs. Path and Root are required.
type TrustOptions struct {
	// Path is the directory below which trust directories are made. It must be
	// of this Trust alone: what is in it is removed.
	Path string
	// Root is our root certificate as PEM.
	Root []byte
	// Host is the file system whose certificates are copied; empty means "/".
	Host string
	// Open opens a file that a workload's variable names. It should do so with
	// the rights of the workload's user; nil means with ours. Only certificates
	// are ever taken out of it.
	Open func(path string) (*os.File, error)
	// Log gets what goes wrong while the directories are kept current; nil: none.
	Log *zap.Logger
}

// A Trust makes the directories of certificates that are mounted into workloads
// and keeps them current with the host's. It is safe for concurrent use.
type Trust struct {
	path string
	host hostRoot
	ours authority
	open func(string) (*os.File, error)
	log  *zap.Logger

	mu          sync.Mutex
	last        snapshot
	java        javaCache
	directories map[string]*Directory
	serial      int
	problems    []error
}

// A Directory is the trust of one workload, or of all that have no certificates
// of their own.
type Directory struct {
	trust *Trust
	path  string
	extra []byte
	kept  []keptFile

	// places are the covered directories, guarded by trust.mu.
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

// NewTrust checks its options and writes nothing; Build does.
func NewTrust(o TrustOptions) (*Trust, error) {
	if o.Path == "" {
		return nil, errors.New("trust directory: no path")
	}
	if o.Host == "" {
		o.Host = "/"
	}
	if o.Open == nil {
		o.Open = openPlain
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	ours, err := newAuthority(o.Root)
	if err != nil {
		return nil, err
	}
	return &Trust{
		path: o.Path, host: hostRoot(o.Host), ours: ours, open: o.Open, log: o.Log,
		java: make(javaCache), directories: make(map[string]*Directory),
	}, nil
}

// Build reads the host's certificates and brings every directory to them, the
// shared one too. Where a directory exists it is changed in place, so that a
// mount of it shows the change. Host files that cannot be used are reported by
// Problems; the error is for what could not be written.
func (t *Trust) Build() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	next, problems := t.host.snapshot()
	// While update-ca-certificates runs there may be no bundle, and a place may
	// be unreadable: what was known stays until there is a better one.
	if len(next.bundle) == 0 {
		next.bundle = t.last.bundle
	}
	for dir, place := range t.last.places {
		if _, ok := next.places[dir]; !ok {
			next.places[dir] = place
		}
	}
	t.last, t.problems = next, problems
	if t.directories[sharedName] == nil {
		t.directories[sharedName] = &Directory{trust: t, path: filepath.Join(t.path, sharedName)}
	}
	if err := makeDir(t.path); err != nil {
		return fmt.Errorf("make trust directory: %w", err)
	}
	var errs []error
	for _, d := range t.directories {
		errs = append(errs, d.write())
	}
	return errors.Join(errs...)
}

// Problems tells what of the host could not be used at the last Build, for
// status and doctor.
func (t *Trust) Problems() []error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.problems)
}

// Shared gives the directory of workloads without certificates of their own.
// Build has to come first.
func (t *Trust) Shared() *Directory {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.directories[sharedName]
}

// ForWorkload gives the directory for a workload whose variables name files of
// its own (kept, from Environment): their certificates are in its bundle, and
// beside each such file's certificates stands our root, so that a program that
// follows the variable trusts us too. Relative paths are taken from dir. Files
// that cannot be read are left as they are and reported as problems. Without
// any usable one it is the shared directory. ErrFull is returned when there are
// too many. Remove it when the workload has ended.
func (t *Trust) ForWorkload(kept []Kept, dir string) (d *Directory, problems []error, err error) {
	var files []keptFile
	var extra [][]byte
	for _, k := range kept {
		p := k.Path
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		p = filepath.Clean(p)
		if slices.ContainsFunc(files, func(f keptFile) bool { return f.path == p }) {
			continue
		}
		data, err := t.readKept(p)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s=%s: %w; a program that uses it may not trust sallyport", k.Variable, k.Path, err))
			continue
		}
		files = append(files, keptFile{path: p, pem: data})
		extra = append(extra, data)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(files) == 0 {
		return t.directories[sharedName], problems, nil
	}
	if len(t.directories) > maxDirectories {
		return nil, problems, ErrFull
	}
	t.serial++
	name := "w-" + strconv.Itoa(t.serial)
	d = &Directory{trust: t, path: filepath.Join(t.path, name), extra: joinPEM(extra...), kept: files}
	// What a predecessor left under that name is not ours to extend.
	if err := os.RemoveAll(d.path); err != nil {
		return nil, problems, fmt.Errorf("clear trust directory: %w", err)
	}
	if err := d.write(); err != nil {
		os.RemoveAll(d.path)
		return nil, problems, err
	}
	t.directories[name] = d
	return d, problems, nil
}

// Figures tells how many workloads have a directory of their own, and how many
// may.
func (t *Trust) Figures() (entries, capacity int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return max(0, len(t.directories)-1), maxDirectories
}

// Remove deletes everything below Path.
func (t *Trust) Remove() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.directories)
	return os.RemoveAll(t.path)
}

// readKept gives the certificates of a user's file, and nothing else of it.
func (t *Trust) readKept(p string) ([]byte, error) {
	f, err := t.open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := readRegular(f)
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, der := range pemCertificates(data) {
		out = append(out, encodeCertificate(der)...)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return out, nil
}

// write brings the directory to the last snapshot. The caller holds trust.mu.
func (d *Directory) write() error {
	content, problems := d.trust.last.contents(d.trust.ours, d.extra, d.trust.java)
	for _, p := range problems {
		d.trust.log.Warn("trust directory incomplete", zap.String("path", d.path), zap.Error(p))
	}
	d.places, d.java = nil, false
	for dir, place := range d.trust.last.places {
		d.places = append(d.places, dir)
		for p := range place {
			d.java = d.java || javaName(p)
		}
	}
	slices.Sort(d.places)
	for i, file := range d.kept {
		d.addKept(content, i, file)
	}
	if _, err := os.Lstat(d.path); err == nil {
		return d.wrap(content.write(d.path))
	}
	// The first time it appears whole, by one rename.
	fresh := filepath.Join(filepath.Dir(d.path), ".new-"+filepath.Base(d.path))
	if err := os.RemoveAll(fresh); err != nil {
		return d.wrap(err)
	}
	err := content.write(fresh)
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
func (d *Directory) addKept(content tree, i int, file keptFile) {
	if p, n, ok := d.inPlace(content, file.path); ok {
		if !bundleName(p) { // a bundle has it already
			content[p] = node{data: joinPEM(n.data, d.trust.ours.pem)}
		}
		return
	}
	content[path.Join(keptDir, strconv.Itoa(i)+".pem")] = node{data: joinPEM(file.pem, d.trust.ours.pem)}
}

// inPlace finds the copy of a host's file in the covered directories.
func (d *Directory) inPlace(content tree, p string) (string, node, bool) {
	at, err := d.trust.host.resolve(path.Dir(p))
	if err != nil {
		return "", node{}, false
	}
	for _, dir := range d.places {
		rel, ok := within(dir, path.Join(at.path, path.Base(p)))
		if !ok {
			continue
		}
		if file, ok := content.follow(path.Join(placeDir, dir, rel)); ok {
			return file, content[file], true
		}
	}
	return "", node{}, false
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
		mounts = append(mounts, Mount{Source: filepath.Join(d.path, placeDir, dir), Target: dir})
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
// stays until Trust.Remove.
func (d *Directory) Remove() error {
	d.trust.mu.Lock()
	defer d.trust.mu.Unlock()
	name := filepath.Base(d.path)
	if name == sharedName {
		return nil
	}
	delete(d.trust.directories, name)
	return os.RemoveAll(d.path)
}
