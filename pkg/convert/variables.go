package convert

import "strings"

// variables are what stands for something in the value of a header field.
var variables = []string{
	"{workload}", "{rule}", "{client_ip}", "{forwarded_for}", "{scheme}", "{host}", "{port}", "{method}", "{path}", "{query}",
}

// HasVariable reports whether a literal value would be replaced.
func HasVariable(s string) bool {
	for _, v := range variables {
		if strings.Contains(s, v) {
			return true
		}
	}
	return false
}
