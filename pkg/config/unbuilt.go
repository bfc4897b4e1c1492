package config

// unbuilt lists the keys that the contract names and that do not exist yet, by
// the mapping in which they stand. They are errors of their own: a key that is
// ignored is a rule that does not hold.
var unbuilt = map[string][]string{
	"":      {"redis", "cache", "upstreams"},
	"audit": {"syslog"},
	"defaults": {
		"auth", "rate_limit", "throttle", "size_limit", "content_filter", "secrets", "headers", "cache",
		"retry", "log", "inject",
	},
	"rules[]": {
		"auth", "rate_limit", "throttle", "size_limit", "content_filter", "secrets", "headers", "cache",
		"upstream", "retry", "log", "inject",
	},
	"rules[].match": {"mcp", "when"},
	// Nobody asks an engine for the names, images and labels of containers.
	"workloads{}.match": {"container"},
}
