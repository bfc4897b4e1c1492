package tag

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"sallyport/pkg/systemd"
	"sallyport/pkg/wholefile"
)

// maxRecords bounds the tags that are kept, maxFile their file in bytes: some
// 2 KiB for each.
const (
	maxRecords = 4096
	maxFile    = 8 << 20
)

// fileName is where records are, in state_dir; lockName is locked over a change.
const (
	fileName = "tags.json"
	lockName = ".tags.lock"
)

// A Store keeps the records of one host. The zero value is none.
type Store struct {
	// State is state_dir; Units is where drop-ins are, systemd.SystemDir outside
	// of tests.
	State, Units string
}

// StoreOf gives the store of a host whose state directory is dir.
func StoreOf(dir string) Store { return Store{State: dir, Units: systemd.SystemDir} }

func (s Store) path() string { return filepath.Join(s.State, fileName) }

// A file is what tags.json holds.
type file struct {
	Version int      `json:"version"`
	Tags    []Record `json:"tags"`
}

// records gives the kept tags of cgroups and containers. A file that somebody
// else than root could have written is an error: what it says opens rules.
func (s Store) records() ([]Record, error) {
	f, info, err := wholefile.Open(s.path(), unix.O_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("tags: %w", err)
	}
	defer f.Close()
	if owner := int(info.Sys().(*syscall.Stat_t).Uid); owner != os.Geteuid() && owner != 0 || info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("tags: %s can be written by others than root: remove it and tag again", s.path())
	}
	data, err := wholefile.ReadAll(f, maxFile)
	if err != nil {
		return nil, fmt.Errorf("tags: %w", err)
	}
	var in file
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, fmt.Errorf("tags: %s: %w", s.path(), err)
	}
	if in.Version != 1 || len(in.Tags) > maxRecords {
		return nil, fmt.Errorf("tags: %s: version %d with %d tags is not this program's", s.path(), in.Version, len(in.Tags))
	}
	return in.Tags, nil
}

// edit changes the records under a lock and puts them in place with one rename.
// f gives what is to be kept; its error changes nothing.
func (s Store) edit(f func([]Record) ([]Record, error)) error {
	if err := os.MkdirAll(s.State, 0o755); err != nil {
		return fmt.Errorf("tags: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(s.State, lockName), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("tags: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("tags: lock: %w", err)
	}
	old, err := s.records()
	if err != nil {
		return err
	}
	next, err := f(slices.Clone(old))
	if err != nil || slices.EqualFunc(old, next, same) {
		return err
	}
	if len(next) > maxRecords {
		return fmt.Errorf("tags: %d are kept already", maxRecords)
	}
	data, err := json.MarshalIndent(file{Version: 1, Tags: next}, "", "  ")
	if err != nil {
		return err
	}
	if err := wholefile.Write(s.path(), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("tags: %w", err)
	}
	return nil
}

func same(a, b Record) bool {
	return a.Kind == b.Kind && a.Name == b.Name && a.Workload == b.Workload && a.ID == b.ID && a.Boot == b.Boot
}

// Put keeps a tag in place of one of the same kind and name.
func (s Store) Put(r Record) error {
	return s.edit(func(all []Record) ([]Record, error) {
		all = slices.DeleteFunc(all, func(o Record) bool { return o.Kind == r.Kind && o.Name == r.Name })
		return append(all, r), nil
	})
}

// ErrNotTagged says that there is no such tag.
var ErrNotTagged = errors.New("not tagged")

// Drop takes a tag back; ErrNotTagged where there is none.
func (s Store) Drop(kind Kind, name string) error {
	return s.edit(func(all []Record) ([]Record, error) {
		n := len(all)
		all = slices.DeleteFunc(all, func(o Record) bool { return o.Kind == kind && o.Name == name })
		if len(all) == n {
			return nil, fmt.Errorf("%s %s: %w", kind, name, ErrNotTagged)
		}
		return all, nil
	})
}

// Tags gives the records and the drop-ins of units, as far as they can be read;
// the error names what cannot.
func (s Store) Tags() ([]Record, error) {
	all, err := s.records()
	errs := []error{err}
	dropIns, err := systemd.DropIns(s.Units)
	errs = append(errs, err)
	units := make([]Record, 0, len(dropIns))
	for unit, path := range dropIns {
		r := Record{Kind: KindUnit, Name: unit}
		data, err := wholefile.Read(path, systemd.MaxDropIn)
		if err == nil {
			var said statement
			if said, err = parseDropIn(string(data)); err == nil {
				r.Workload, r.Allow, r.Kept = said.Workload, said.Allow, said.Kept
			}
		}
		if err != nil {
			// The unit is tagged all the same; only its name is its own.
			errs = append(errs, fmt.Errorf("tags: %s: %w", path, err))
		}
		units = append(units, r)
	}
	slices.SortFunc(units, func(a, b Record) int { return strings.Compare(a.Name, b.Name) })
	return append(units, all...), errors.Join(errs...)
}

// Stamp changes when the tags may have: it costs a few stat(2).
func (s Store) Stamp() string {
	var b strings.Builder
	add := func(path string) {
		if st, err := os.Stat(path); err == nil {
			fmt.Fprintf(&b, "%s %d %d\n", path, st.ModTime().UnixNano(), st.Size())
		}
	}
	add(s.path())
	dropIns, err := systemd.DropIns(s.Units)
	if err != nil {
		return b.String()
	}
	paths := make([]string, 0, len(dropIns))
	for _, p := range dropIns {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	for _, p := range paths {
		add(p)
	}
	return b.String()
}

// Remove takes every kept tag back, with the files that held them. Drop-ins stay:
// systemd has to read about their end.
func (s Store) Remove() error {
	var errs []error
	for _, p := range []string{s.path(), filepath.Join(s.State, lockName)} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("tags: %w", err))
		}
	}
	return errors.Join(errs...)
}
