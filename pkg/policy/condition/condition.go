// Package condition compiles and evaluates the `when` of rules: one expression
// of CEL (cel.dev) over typed variables. It is pure: no I/O, no clock.
package condition

import (
	"errors"
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"
)

// Bounds of a condition.
const (
	// MaxLength bounds its text, in bytes.
	MaxLength = 4096
	// maxCost bounds one evaluation, in CEL's units, of which a comparison costs
	// about one and looking through a text one for each ten bytes: some
	// milliseconds, whatever a workload sends. Beyond, the evaluation fails. It
	// does not count what `format` and `size` of a long text in a loop take:
	// with requests of the greatest size that was up to a second.
	maxCost = 100_000
)

// A Condition is a compiled expression. It may be used by any number of
// goroutines.
type Condition struct {
	text    string
	program cel.Program
}

// String gives the expression as it was written.
func (c *Condition) String() string { return c.text }

// Equal reports whether two conditions are written alike.
func (c *Condition) Equal(o *Condition) bool {
	return c == o || c != nil && o != nil && c.text == o.text
}

// A Compiler holds the types of the variables. The zero value is ready; it is
// used by one goroutine.
type Compiler struct{ env *cel.Env }

// Compile checks an expression. An error says in one line what is wrong, and
// where: line and column within the text.
func (c *Compiler) Compile(text string) (*Condition, error) {
	if len(text) > MaxLength {
		return nil, fmt.Errorf("longer than %d bytes", MaxLength)
	}
	if c.env == nil {
		env, err := newEnvironment()
		if err != nil {
			return nil, err
		}
		c.env = env
	}
	ast, issues := c.env.Compile(text)
	if err := issues.Err(); err != nil {
		var all []string
		for _, e := range issues.Errors() {
			// The parser lists every token that it would have taken.
			message, _, _ := strings.Cut(oneLine(e.Message), " expecting {")
			all = append(all, fmt.Sprintf("%d:%d: %s", e.Location.Line(), e.Location.Column()+1, message))
		}
		return nil, errors.New(strings.Join(all, "; "))
	}
	if !ast.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("gives %s, want true or false", ast.OutputType())
	}
	program, err := c.env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
	if err != nil {
		return nil, errors.New(oneLine(err.Error()))
	}
	return &Condition{text: text, program: program}, nil
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// Holds evaluates the condition. An error means that it gives no answer: a key
// that is not there, a text that is no number, a query that cannot be read, an
// evaluation that is too long.
func (c *Condition) Holds(v *Variables) (bool, error) {
	out, _, err := c.program.Eval(&activation{Variables: v})
	if err != nil {
		return false, errors.New(oneLine(err.Error()))
	}
	held, ok := out.(types.Bool)
	if !ok {
		return false, fmt.Errorf("gave %s", out.Type().TypeName())
	}
	return bool(held), nil
}

// newEnvironment declares the variables. Each is one flat name, which costs a
// third of what a structure does.
func newEnvironment() (*cel.Env, error) {
	options := []cel.EnvOption{ext.Strings(), ext.Sets()}
	for name, t := range variableTypes {
		options = append(options, cel.Variable(name, t))
	}
	return cel.NewEnv(options...)
}
