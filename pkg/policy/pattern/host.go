package pattern

// A Host is a canonical pattern of host names: an exact name or address, or
// "*.name" (any depth of subdomain, not the name itself), or "*" (any name,
// no address).
type Host struct {
	// Name is the exact name, or what follows "*."; "" for "*".
	Name string
	// Wildcard is true for "*.name" and "*".
	Wildcard bool
}
