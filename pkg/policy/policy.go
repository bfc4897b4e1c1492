package policy

import (
	"errors"
	"net/netip"

	"sallyport/pkg/config"
)

// A Policy answers questions about one configuration. It is immutable and may
// be used by any number of goroutines. A nil or zero Policy denies everything.
type Policy struct {
	rules []*rule
}

type rule struct{ name string }

// Compile turns a valid configuration into a Policy.
func Compile(c *config.Config) (*Policy, error) {
	return nil, errors.ErrUnsupported
}

// Decide judges one exchange, or a connection whose protocol is known for good
// and carries no HTTP. The first rule whose keys all hold decides.
//
// Of several addresses a deny rule with cidrs matches where any lies in them,
// an allow rule where one does (Permits then tells which may be dialled). With
// no address known, such a deny rule matches and such an allow rule does not.
// Decide does not allocate, except for a path that needs normalising.
func (p *Policy) Decide(q *Query) Decision { return Decision{} }

// DecideConn judges a connection before any request is seen. q.HTTP is not
// looked at.
func (p *Policy) DecideConn(q *Query) ConnDecision { return ConnDecision{} }

// DecideName says whether the workload may have this name resolved at all. It
// is asked before any upstream look-up: a question carries data out too.
func (p *Policy) DecideName(workload, host string) Decision { return Decision{} }

// WorkloadMode gives the mode of a workload: its entry's, else the file's.
func (p *Policy) WorkloadMode(workload string) Mode { return Enforce }

// Explain decides as Decide does and tells of each rule on the way why it was
// passed over. It is for people; it allocates.
func (p *Policy) Explain(q *Query) Explanation { return Explanation{} }

// DirectRules gives what the kernel lets the workload reach by itself, in rule
// order: the prefixes of its `direct` rules without the address classes that
// those rules do not exempt. own are the addresses of the host itself.
func (p *Policy) DirectRules(workload string, own []netip.Addr) []DirectRule { return nil }
