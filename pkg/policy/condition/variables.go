package condition

import (
	"net/netip"
	"net/url"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/interpreter"
)

// Variables are what a condition may look at. They are read while it is
// evaluated and not kept.
type Variables struct {
	// Method as the request has it; Path is the one that is forwarded, RawQuery
	// what follows the "?"; Host is canonical.
	Method, Path, RawQuery, Host string
	// Ambiguous says why servers may take the path for another one, "" for a path
	// of which that is not so.
	Ambiguous string
	// HTTPS tells the scheme.
	HTTPS bool
	Port  uint16
	// Fields walks the header fields; nil: there are none.
	Fields func(yield func(name, value string) bool)
	// Workload, Unit, Container, Cgroup and UID say who asks.
	Workload, Unit, Container, Cgroup string
	UID                               uint32
	// Addrs may be dialled.
	Addrs []netip.Addr
}

// variableTypes are the names by which conditions know the variables.
var variableTypes = map[string]*cel.Type{
	"request.method":     cel.StringType,
	"request.scheme":     cel.StringType,
	"request.host":       cel.StringType,
	"request.port":       cel.IntType,
	"request.path":       cel.StringType,
	"request.query":      cel.MapType(cel.StringType, cel.ListType(cel.StringType)),
	"request.headers":    cel.MapType(cel.StringType, cel.ListType(cel.StringType)),
	"workload.name":      cel.StringType,
	"workload.unit":      cel.StringType,
	"workload.container": cel.StringType,
	"workload.cgroup":    cel.StringType,
	"workload.uid":       cel.IntType,
	"flow.addresses":     cel.ListType(cel.StringType),
	"flow.port":          cel.IntType,
}

// An activation gives the variables to one evaluation, and makes only those that
// are asked for. What takes time in proportion to the request is made once: an
// evaluation asks anew in each round of a loop, and its cost does not count that.
type activation struct {
	*Variables
	query, headers, addresses any
}

var _ interpreter.Activation = (*activation)(nil)

// Parent implements interpreter.Activation.
func (a *activation) Parent() interpreter.Activation { return nil }

// ResolveName implements interpreter.Activation.
func (a *activation) ResolveName(name string) (any, bool) {
	switch name {
	case "request.method":
		return a.Method, true
	case "request.scheme":
		if a.HTTPS {
			return "https", true
		}
		return "http", true
	case "request.host":
		return a.Host, true
	case "request.port", "flow.port":
		return int64(a.Port), true
	case "request.path":
		if a.Ambiguous != "" {
			return types.NewErr("the path is ambiguous: %s", a.Ambiguous), true
		}
		return a.Path, true
	case "request.query":
		return once(&a.query, a.readQuery), true
	case "request.headers":
		return once(&a.headers, a.readHeaders), true
	case "workload.name":
		return a.Workload, true
	case "workload.unit":
		return a.Unit, true
	case "workload.container":
		return a.Container, true
	case "workload.cgroup":
		return a.Cgroup, true
	case "workload.uid":
		return int64(a.UID), true
	case "flow.addresses":
		return once(&a.addresses, a.writeAddresses), true
	default:
		return nil, false
	}
}

func once(value *any, make func() any) any {
	if *value == nil {
		*value = make()
	}
	return *value
}

// readQuery gives all values by name. What url refuses, such as a broken escape
// or a semicolon, another parser may read in another way: then it gives an error.
func (a *activation) readQuery() any {
	values, err := url.ParseQuery(a.RawQuery)
	if err != nil {
		return types.NewErr("the query cannot be read: %v", err)
	}
	return map[string][]string(values)
}

// readHeaders gives all values by name in lower case, in the order in which they
// came.
func (a *activation) readHeaders() any {
	all := make(map[string][]string)
	if a.Fields == nil {
		return all
	}
	for name, value := range a.Fields {
		name = strings.ToLower(name)
		all[name] = append(all[name], value)
	}
	return all
}

func (a *activation) writeAddresses() any {
	texts := make([]string, len(a.Addrs))
	for i, addr := range a.Addrs {
		texts[i] = addr.Unmap().String()
	}
	return texts
}
