package config

import "time"

// What a configuration may hold. Beyond a limit it is refused: a file that
// nobody could review is a mistake or an attack.
const (
	// MaxFileSize bounds each file, in bytes.
	MaxFileSize = 8 << 20
	// MaxFiles bounds the main file and those of conf.d together.
	MaxFiles = 256
	// MaxTotalSize bounds all files together, in bytes.
	MaxTotalSize = 32 << 20
	// MaxRules and MaxWorkloads bound the lists of that name.
	MaxRules     = 50_000
	MaxWorkloads = 10_000
	// MaxListItems bounds every other list.
	MaxListItems = 10_000
	// MaxString bounds each string, in bytes.
	MaxString = 4096
	// MaxName bounds the names of rules and workloads, in bytes.
	MaxName = 100
	// MaxTimeout bounds every timeout.
	MaxTimeout = 7 * 24 * time.Hour

	// maxNodes bounds the YAML nodes of all files, and again the values of all
	// lists after aliases are followed: the whole of MaxRules rules fits, an
	// alias bomb does not.
	maxNodes = 4_000_000
	// maxDepth bounds nesting; the format itself needs eight levels.
	maxDepth = 32
	// maxErrors bounds the report.
	maxErrors = 1000
)
