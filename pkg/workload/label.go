package workload

import (
	"hash/fnv"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxLabel is the longest name of a workload in bytes.
const MaxLabel = 128

// shortContainer is how much of a container's id names it, as engines print.
const shortContainer = 12

// Label makes a name safe for metrics, logs and terminals: control and
// unprintable characters and broken UTF-8 become "_", spaces stay, and a name
// over MaxLabel bytes is cut and ends with a hash of the whole, so that two
// long names stay two. An empty one is "unnamed".
func Label(s string) string {
	// Cut first: what follows costs time per byte, and an argument can be
	// 128 KiB. The hash is over the original.
	cut := len(s) > MaxLabel
	suffix := ""
	if cut {
		h := fnv.New64a()
		h.Write([]byte(s))
		suffix = "-" + strconv.FormatUint(h.Sum64(), 16)
		s = s[:MaxLabel-len("-0123456789abcdef")]
	}
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '_'
		}
		return r
	}, s)
	// A replaced byte is one byte, but U+FFFD itself shrinks: never longer.
	s = strings.TrimSpace(s) + suffix
	if s == "" {
		return "unnamed"
	}
	return s
}

// ownName names a workload that no entry matched: its unit, container or
// command's base name, else the last element of its path.
func ownName(s *subject, container string) string {
	switch {
	case s.program != "":
		return s.program
	case container != "":
		return container
	case s.id.Unit != "":
		return s.id.Unit
	case s.id.Cgroup == "/":
		return "root"
	}
	return filepath.Base(s.id.Cgroup)
}
