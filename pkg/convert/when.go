package convert

import (
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
)

// A condition compares the path in its encoded form, while the gateway compared
// the decoded one. So what is allowed has nothing encoded, and what is refused is
// an expression that matches the encoded form wherever it matches the decoded.

// Path is how a condition writes the path that the gateway saw: the one that is
// asked for here, or where from was replaced by to, with that undone.
func Path(from, to string) string {
	if from == to {
		return "request.path"
	}
	if from == "" {
		return "request.path.substring(" + strconv.Itoa(len(to)) + ")"
	}
	return "(" + quoteCEL(from) + " + request.path.substring(" + strconv.Itoa(len(to)) + "))"
}

// AllowWhen gives the condition that allows what the regular expression matches,
// but for paths with something encoded or with empty segments.
func AllowWhen(expression string, fold bool, path string) (string, bool) {
	text, ok := matches(expression, fold, path)
	return `!request.path.contains("%") && !request.path.contains("//") && ` + text, ok
}

// DenyWhen gives the condition that refuses at least what the regular expression
// matches; false where none is sure to.
func DenyWhen(expression string, fold bool, path string) (string, bool) {
	text, ok := matches(expression, fold, path)
	if !ok {
		return "", false
	}
	re, err := syntax.Parse(expression, syntax.Perl&^syntax.OneLine)
	if err != nil || !encodable(re, false) {
		return "", false
	}
	return `request.path.contains("//") || ` + text, true
}

// maxExpression bounds a regular expression in a condition.
const maxExpression = 1000

func matches(expression string, fold bool, path string) (string, bool) {
	if len(expression) > maxExpression || strings.ContainsFunc(expression, func(c rune) bool { return c < ' ' || c > '~' }) {
		return "", false
	}
	if fold {
		expression = "(?i)" + expression
	}
	if _, err := regexp.Compile(expression); err != nil {
		return "", false
	}
	return path + ".matches(" + quoteCEL(expression) + ")", true
}

// quoteCEL writes a string of CEL, raw where that is readable.
func quoteCEL(s string) string {
	if strings.Contains(s, `\`) && !strings.Contains(s, `"`) && !strings.HasSuffix(s, `\`) {
		return `r"` + s + `"`
	}
	return strconv.Quote(s)
}

// encodable reports whether the expression also matches a path in which
// characters that are not unreserved (RFC 3986 section 2.3) are encoded, if it
// matches the decoded one: such characters must fall to something that repeats
// and takes "%" and hexadecimal digits too. repeated is set inside of that.
func encodable(re *syntax.Regexp, repeated bool) bool {
	switch re.Op {
	case syntax.OpLiteral:
		for _, c := range re.Rune {
			if !unreserved(c) {
				return false
			}
		}
		return true
	case syntax.OpCharClass:
		if repeated && hasRune(re, '%') && hasRange(re, '0', '9') && hasRange(re, 'A', 'F') {
			return true
		}
		for i := 0; i+1 < len(re.Rune); i += 2 {
			if re.Rune[i+1] > 0x7f {
				return false
			}
			for c := re.Rune[i]; c <= re.Rune[i+1]; c++ {
				if !unreserved(c) {
					return false
				}
			}
		}
		return true
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return repeated
	case syntax.OpStar, syntax.OpPlus:
		// Only a repeated single character takes three in place of one.
		single := re.Sub[0].Op == syntax.OpCharClass || re.Sub[0].Op == syntax.OpAnyChar || re.Sub[0].Op == syntax.OpAnyCharNotNL
		return encodable(re.Sub[0], single)
	case syntax.OpQuest, syntax.OpCapture, syntax.OpConcat, syntax.OpAlternate, syntax.OpRepeat:
		for _, sub := range re.Sub {
			if !encodable(sub, false) {
				return false
			}
		}
		return true
	case syntax.OpBeginText, syntax.OpBeginLine, syntax.OpEndText, syntax.OpEndLine, syntax.OpEmptyMatch:
		return true
	default:
		return false
	}
}

func unreserved(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("-._~/", c)
}

func hasRange(re *syntax.Regexp, first, last rune) bool {
	for c := first; c <= last; c++ {
		if !hasRune(re, c) {
			return false
		}
	}
	return true
}
