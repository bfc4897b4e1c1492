package systemd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sallyport/pkg/wholefile"
)

const (
	// SystemDir is where the administrator's units and drop-ins are
	// (systemd.unit(5)).
	SystemDir = "/etc/systemd/system"
	// DropIn is the name of our drop-in in a unit's directory. A unit's own
	// drop-ins with a higher number override it.
	DropIn = "50-sallyport.conf"
)

// UnitName gives a unit's name with its type, which is service where none is
// given, as systemctl does it. A name that systemd would not take is an error
// (systemd.unit(5): at most 255 of letters, digits and :-_.\@).
func UnitName(name string) (string, error) {
	switch KindOf(name) {
	case "service", "socket", "device", "mount", "automount", "swap", "target", "path", "timer", "slice", "scope":
	default:
		name += ".service"
	}
	if len(name) > 255 || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "@") {
		return "", fmt.Errorf("%q is not a unit's name", name)
	}
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte(`:-_.\@`, c) >= 0:
		default:
			return "", fmt.Errorf("%q is not a unit's name: %q is not allowed in one", name, c)
		}
	}
	return name, nil
}

// DropInPath is our drop-in of a unit below dir, which is SystemDir outside of
// tests. The name must be one that UnitName accepted.
func DropInPath(dir, unit string) string {
	return filepath.Join(dir, unit+".d", DropIn)
}

// MaxDropIn bounds a drop-in of ours, in bytes; a larger one is none.
const MaxDropIn = 1 << 20

// WriteDropIn puts our drop-in in place with one rename and reports whether
// anything changed. DaemonReload must follow.
func WriteDropIn(dir, unit string, content []byte) (changed bool, err error) {
	path := DropInPath(dir, unit)
	if old, err := wholefile.Read(path, MaxDropIn); err == nil && bytes.Equal(old, content) {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, fmt.Errorf("drop-in of %s: %w", unit, err)
	}
	if err := wholefile.Write(path, content, 0o644); err != nil {
		return false, fmt.Errorf("drop-in of %s: %w", unit, err)
	}
	return true, nil
}

// RemoveDropIn takes our drop-in away, and the directory if nothing else is in
// it; it reports whether there was one. DaemonReload must follow.
func RemoveDropIn(dir, unit string) (bool, error) {
	path := DropInPath(dir, unit)
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("drop-in of %s: %w", unit, err)
	}
	os.Remove(filepath.Dir(path)) // stays where others have drop-ins
	return true, nil
}

// DropIns names the units that have our drop-in below dir, with its path.
func DropIns(dir string) (map[string]string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.d", DropIn))
	if err != nil {
		return nil, err
	}
	units := make(map[string]string, len(paths))
	for _, p := range paths {
		units[strings.TrimSuffix(filepath.Base(filepath.Dir(p)), ".d")] = p
	}
	return units, nil
}
