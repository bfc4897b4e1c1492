package config

// unbuilt lists the keys that the contract names and that do not exist yet, by
// the mapping in which they stand. They are errors of their own: a key that is
// ignored is a rule that does not hold.
var unbuilt = map[string][]string{
	"defaults":      {"inject"},
	"rules[]":       {"inject"},
	"rules[].match": {"mcp"},
}
