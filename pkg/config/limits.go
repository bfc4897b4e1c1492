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
	// MaxFew bounds the lists of a stage: methods, statuses, fields, paths.
	MaxFew = 100
	// MaxStatuses bounds lists of status codes: there are 500.
	MaxStatuses = 500
	// MaxLimits bounds the rate limits, and the throttles, of a rule: each is
	// asked for each request.
	MaxLimits = 16
	// MaxFilters bounds the content filters of a rule: each reads each body.
	MaxFilters = 100
	// MaxRequests bounds a window of a rate limit: a billion a second is none.
	MaxRequests = 1_000_000_000
	// MaxRate bounds a throttle's rate and MaxBurst its burst, of which each
	// request that is delayed waits in memory.
	MaxRate  = 1_000_000
	MaxBurst = 100_000
	// MaxBody bounds a size limit: 1 PB is none.
	MaxBody Size = 1e15
	// MaxLoggedBody bounds log.max_body: what an event holds of both bodies must
	// leave room for the rest of its line.
	MaxLoggedBody Size = 512 << 10
	// MaxCache bounds cache.max_bytes, and what is stored of one response: 1 TB.
	MaxCache Size = 1e12
	// MaxAttempts bounds the tries of a request, MaxBackoff the first wait.
	MaxAttempts = 20
	MaxBackoff  = time.Minute
	// MaxUpstreams bounds `upstreams`, MaxTargets the targets of one, MaxWeight
	// a target's weight (as in Kong).
	MaxUpstreams = 1000
	MaxTargets   = 1000
	MaxWeight    = 65535
	// MaxThreshold bounds the counts of health checks (as in Kong), and
	// MinCheckInterval the time between two: less would be an attack.
	MaxThreshold     = 255
	MinCheckInterval = 10 * time.Millisecond
	// MaxRedisDB bounds redis.db, whose number the server limits further.
	MaxRedisDB = 65535
	// MaxRedisTimeout bounds redis.timeout: requests wait for it.
	MaxRedisTimeout = 10 * time.Second
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
