package policy

import (
	"strings"

	"sallyport/pkg/config"
)

// knownMethods are those of RFC 9110 section 9 and RFC 5789; each has a bit.
var knownMethods = [...]string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}

const (
	// otherMethod is the bit of every other method, noRequest that of a
	// connection that shows no request.
	otherMethod uint16 = 1 << len(knownMethods)
	noRequest   uint16 = 1 << 15
	anyMethod   uint16 = 1<<(len(knownMethods)+1) - 1
)

// methodBit gives the bit of a method as it is written.
func methodBit(method string) uint16 {
	for i, known := range knownMethods {
		if method == known {
			return 1 << i
		}
	}
	return otherMethod
}

// A methodSet is a rule's methods.
type methodSet struct {
	// bits of the known methods that match; otherMethod where another may.
	bits  uint16
	globs config.Globs
}

func compileMethods(globs config.Globs) methodSet {
	if len(globs) == 0 {
		return methodSet{bits: anyMethod}
	}
	s := methodSet{globs: globs}
	for i, known := range knownMethods {
		if globs.Match(known) {
			s.bits |= 1 << i
		}
	}
	for i := range globs {
		if name, ok := globs[i].Exact(); !ok || methodBit(name) == otherMethod {
			s.bits |= otherMethod
		}
	}
	return s
}

// match reports whether the method is in the set.
func (s *methodSet) match(method string, bit uint16) bool {
	switch {
	case len(s.globs) == 0:
		return true
	case bit != otherMethod:
		return s.bits&bit != 0
	default:
		return s.bits&otherMethod != 0 && s.globs.Match(method)
	}
}

// folded gives the method in upper case: methods are case-sensitive (RFC 9110
// section 9.1), but some servers are not, so a deny rule is not either.
func folded(method string) string { return strings.ToUpper(method) }
