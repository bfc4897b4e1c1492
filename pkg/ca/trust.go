package ca

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"go.uber.org/zap"

	"sallyport/pkg/wholefile"
)

// maxDirectories bounds how many workloads may have a directory of their own.
const maxDirectories = 1024

// ErrFull says that no more trust directories may be made.
var ErrFull = errors.New("too many workloads with certificates of their own")

// TrustOptions are what a Trust needs. Shared, Workloads and Root are required.
type TrustOptions struct {
	// Shared is where the directory lives that serves every workload without
	// certificates of its own. Any number of processes may use it at once. It may
	// outlive them: the next one starts faster for it.
	Shared string
	// Workloads is where the other directories live; it is this Trust's alone.
	Workloads string
	// Root is our root certificate as PEM, followed by earlier ones that are still
	// trusted.
	Root []byte
	// Host is the file system whose certificates are copied; empty means "/".
	Host string
	// Log gets what goes wrong while the directories are kept current; nil: none.
	Log *zap.Logger
}

// A Trust makes the directories of certificates that are mounted into workloads
// and keeps them current with the host's. It is safe for concurrent use.
type Trust struct {
	sharedDir, workloadDir string
	host                   hostRoot
	ours                   authority
	log                    *zap.Logger

	mu       sync.Mutex
	shared   *Directory
	own      map[string]*Directory // by path
	java     javaCache
	serial   int
	problems []error
	rootless bool // the host had no bundle at the last Build
}

// NewTrust checks its options and writes nothing; Build does.
func NewTrust(o TrustOptions) (*Trust, error) {
	if o.Shared == "" || o.Workloads == "" || o.Shared == o.Workloads {
		return nil, errors.New("trust directories: two paths are needed")
	}
	if o.Host == "" {
		o.Host = "/"
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	ours, err := newAuthority(o.Root)
	if err != nil {
		return nil, err
	}
	t := &Trust{
		sharedDir: o.Shared, workloadDir: o.Workloads, host: hostRoot(o.Host), ours: ours, log: o.Log,
		java: make(javaCache), own: make(map[string]*Directory),
	}
	t.shared = &Directory{trust: t, path: filepath.Join(o.Shared, ours.name())}
	return t, nil
}

// SetRoot makes directories hold these roots instead, the one in use first. It
// returns when they do: mounts of them show it.
func (t *Trust) SetRoot(root []byte) error {
	ours, err := newAuthority(root)
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.ours = ours
	t.mu.Unlock()
	return t.Build()
}

// Build brings every directory to the host's certificates. Where a directory
// exists it is changed in place, so that a mount of it shows the change. Host
// files that cannot be used are reported by Problems; the error is for what
// could not be written.
func (t *Trust) Build() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := makeDir(t.sharedDir); err != nil {
		return fmt.Errorf("make trust directory: %w", err)
	}
	unlock, err := lockDir(t.sharedDir)
	if err != nil {
		return err
	}
	defer unlock()
	return errors.Join(t.build(), t.link())
}

// build is Build under both locks.
func (t *Trust) build() error {
	// Taken before reading: what changes meanwhile makes it outdated.
	want := t.host.signature(t.ours)
	stampPath := t.shared.path + stampSuffix
	_, statErr := os.Lstat(filepath.Join(t.shared.path, BundleFile))
	have := readStamp(stampPath)
	current := statErr == nil && have.signature == want
	if current {
		t.shared.places, t.shared.java = t.host.places(), have.java
		t.problems, t.rootless = nil, false
		if len(t.own) == 0 {
			return nil
		}
	}
	snap, problems := t.host.snapshot()
	t.problems, t.rootless = problems, len(snap.bundle) == 0
	// In the middle of an update there may be no bundle. What is there stays
	// until there is a better one.
	if t.rootless && statErr == nil {
		return nil
	}
	var errs []error
	if !current {
		os.Remove(stampPath)
		err := t.shared.write(snap)
		if err == nil && len(problems) == 0 {
			err = t.shared.wrap(stamp{signature: want, java: t.shared.java}.write(stampPath))
		}
		errs = append(errs, err)
	}
	for _, d := range t.own {
		errs = append(errs, d.write(snap))
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

// Shared gives the directory of workloads without certificates of their own. It
// is empty before the first Build.
func (t *Trust) Shared() *Directory { return t.shared }

// ForWorkload gives the directory for a workload whose variables name files of
// its own (kept, from Environment): their certificates are in its bundle, and
// beside each such file's certificates stands our root, so that a program that
// follows the variable trusts us too. Relative paths are taken from dir. Files
// that cannot be read are left as they are and reported as problems. Without
// any usable one it is the shared directory. ErrFull is returned when there are
// too many. Remove it when the workload has ended.
//
// open opens such a file with the rights of the workload's user, who chose its
// name; nil means with ours. Only certificates are ever taken out of it.
func (t *Trust) ForWorkload(kept []Kept, dir string, open func(path string) (*os.File, error)) (d *Directory, problems []error, err error) {
	files, extra, problems := readKeptFiles(kept, dir, open)
	if len(files) == 0 {
		return t.shared, problems, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.own) >= maxDirectories {
		return nil, problems, ErrFull
	}
	t.serial++
	d = &Directory{trust: t, path: filepath.Join(t.workloadDir, strconv.Itoa(t.serial)), extra: extra, kept: files}
	// What a predecessor left under that name is not ours to extend.
	if err := os.RemoveAll(d.path); err != nil {
		return nil, problems, fmt.Errorf("clear trust directory: %w", err)
	}
	snap, found := t.host.snapshot()
	problems = append(problems, found...)
	if err := d.write(snap); err != nil {
		os.RemoveAll(d.path)
		return nil, problems, err
	}
	t.own[d.path] = d
	return d, problems, nil
}

// readKeptFiles reads the files that a workload's variables name; extra are all
// their certificates.
func readKeptFiles(kept []Kept, dir string, open func(path string) (*os.File, error)) (files []keptFile, extra []byte, problems []error) {
	if open == nil {
		open = openPlain
	}
	var all [][]byte
	for _, k := range kept {
		p := k.Path
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		p = filepath.Clean(p)
		if slices.ContainsFunc(files, func(f keptFile) bool { return f.path == p }) {
			continue
		}
		data, err := readKept(p, open)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s=%s: %w; a program that uses it may not trust sallyport", k.Variable, k.Path, err))
			continue
		}
		files = append(files, keptFile{path: p, pem: data})
		all = append(all, data)
	}
	return files, joinPEM(all...), problems
}

// Figures tells how many workloads have a directory of their own, and how many
// may.
func (t *Trust) Figures() (entries, capacity int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.own), maxDirectories
}

// Close deletes the directories of workloads; the shared one stays for others.
func (t *Trust) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.own)
	return os.RemoveAll(t.workloadDir)
}

// readKept gives the certificates of a user's file, and nothing else of it.
func readKept(p string, open func(string) (*os.File, error)) ([]byte, error) {
	f, err := open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := wholefile.ReadAll(f, maxFile)
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
