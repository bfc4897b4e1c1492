package ca

import (
	"slices"
	"strings"
)

// Paths are where a workload sees the files that variables point to.
type Paths struct {
	// Bundle is the system's roots and ours, Root ours alone.
	Bundle, Root string
	// Java is a PKCS#12 trust store for runtimes whose own could not be covered;
	// empty where it was.
	Java string
}

// A Kept is a variable that the user had set already. Its value stays, and the
// certificates of its file join what the workload trusts.
type Kept struct {
	Variable, Path string
	// Adds is set where the runtime adds the file to its own roots instead of
	// replacing them.
	Adds bool
}

// replacing are the variables whose file takes the place of the system's roots;
// which runtime honours which was tried out, none of them honours all.
func replacing() []string {
	return []string{
		"SSL_CERT_FILE",
		"REQUESTS_CA_BUNDLE",
		"CURL_CA_BUNDLE",
		"AWS_CA_BUNDLE",
		"PIP_CERT",
		"GIT_SSL_CAINFO",
		"CARGO_HTTP_CAINFO",
		"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
	}
}

// adding are the variables whose file is added to the runtime's own roots.
func adding() []string { return []string{"NODE_EXTRA_CA_CERTS", "DENO_CERT"} }

const (
	javaVariable = "JAVA_TOOL_OPTIONS"
	javaProperty = "-Djavax.net.ssl.trustStore="
)

// Environment says which variables to give to a command whose environment is
// env (NAME=value each): set are to be added to it or to replace those of the
// same name, kept are those that the user had set and that stay. An empty value
// counts as not set.
func Environment(env []string, paths Paths) (set []string, kept []Kept) {
	given := func(name string) string {
		// The last one wins, as in a shell.
		for _, entry := range slices.Backward(env) {
			if value, ok := strings.CutPrefix(entry, name+"="); ok {
				return value
			}
		}
		return ""
	}
	for _, name := range replacing() {
		if value := given(name); value != "" {
			kept = append(kept, Kept{Variable: name, Path: value})
		} else {
			set = append(set, name+"="+paths.Bundle)
		}
	}
	for _, name := range adding() {
		if value := given(name); value != "" {
			kept = append(kept, Kept{Variable: name, Path: value, Adds: true})
		} else {
			set = append(set, name+"="+paths.Root)
		}
	}
	// A JVM prints a line on stderr for this variable, and the property replaces
	// its roots: only where nothing else works, and never over the user's own.
	if options := given(javaVariable); paths.Java != "" && !strings.Contains(options, javaProperty) {
		ours := javaProperty + paths.Java + " -Djavax.net.ssl.trustStoreType=PKCS12"
		if options != "" {
			ours = options + " " + ours
		}
		set = append(set, javaVariable+"="+ours)
	}
	return set, kept
}
