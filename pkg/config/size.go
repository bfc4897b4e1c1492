package config

import (
	"math"
	"strconv"
	"strings"
)

// sizeUnits from the longest name of its kind: 10MB is 10^6, 10MiB 2^20.
var sizeUnits = [...]struct {
	name  string
	bytes Size
}{
	{"TiB", 1 << 40}, {"TB", 1e12},
	{"GiB", 1 << 30}, {"GB", 1e9},
	{"MiB", 1 << 20}, {"MB", 1e6},
	{"KiB", 1 << 10}, {"KB", 1e3},
	{"B", 1},
}

// parseSize reads a whole number with a unit.
func parseSize(s string) (Size, bool) {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		v, err := strconv.ParseUint(digits, 10, 63)
		if err != nil || Size(v) > math.MaxInt64/u.bytes {
			return 0, false
		}
		return Size(v) * u.bytes, true
	}
	return 0, false
}
