package tag

import (
	"path/filepath"
	"slices"
	"strings"

	"sallyport/pkg/ca"
)

// ownVariables gives a unit's environment without what an earlier drop-in of ours put into
// it: values that point into the trust directory.
func ownVariables(env []string, trust string) []string {
	var out []string
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if strings.HasPrefix(value, trust+"/") {
			continue
		}
		if name == "JAVA_TOOL_OPTIONS" {
			// Appended to the user's own.
			words := strings.Fields(value)
			kept := slices.DeleteFunc(slices.Clone(words), func(w string) bool {
				return strings.HasPrefix(w, "-Djavax.net.ssl.trustStore="+trust+"/") || w == "-Djavax.net.ssl.trustStoreType=PKCS12"
			})
			if len(kept) == 0 {
				continue
			}
			if len(kept) != len(words) {
				e = name + "=" + strings.Join(kept, " ")
			}
		}
		out = append(out, e)
	}
	return out
}

// Variables gives what points a workload with that environment to the trust
// directory, and what it has set itself and keeps.
func Variables(env []string, trust *ca.Directory) (set []string, kept []ca.Kept) {
	env = ownVariables(env, filepath.Dir(trust.Path()))
	return ca.Environment(env, trust.Paths(env))
}
