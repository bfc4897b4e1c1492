package ca

import (
	"path"
	"slices"
	"strings"
)

// wellKnownDirs are the directories that hold the system's bundle on one
// distribution or another. Only such are ever covered: a bundle that lies
// elsewhere does not make its directory (/etc, say) one of ours.
func wellKnownDirs() []string {
	return []string{
		"/etc/ssl/certs",                 // Debian, Alpine, Gentoo, NixOS; a link on Fedora, openSUSE
		"/etc/pki/ca-trust/extracted",    // Fedora, RHEL
		"/etc/pki/tls/certs",             // Fedora, RHEL: links into the above, or itself
		"/etc/pki/java",                  // Fedora, RHEL: a link into the above
		"/etc/ca-certificates/extracted", // Arch
		"/var/lib/ca-certificates",       // openSUSE
	}
}

// wellKnownBundles are where the system's roots are found in one file, in the
// order in which crypto/x509 looks.
func wellKnownBundles() []string {
	return []string{
		"/etc/ssl/certs/ca-certificates.crt",
		"/etc/pki/tls/certs/ca-bundle.crt",
		"/etc/ssl/ca-bundle.pem",
		"/etc/pki/tls/cacert.pem",
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
		"/etc/ssl/cert.pem",
		"/etc/ca-certificates/extracted/tls-ca-bundle.pem",
		"/var/lib/ca-certificates/ca-bundle.pem",
	}
}

// bundleName reports whether a file of that name holds the roots for TLS
// servers, one after another. Bundles for mail or code signing do not get ours.
func bundleName(p string) bool {
	switch path.Base(p) {
	case "ca-certificates.crt", "ca-bundle.crt", "ca-bundle.pem", "ca-bundle.trust.crt",
		"tls-ca-bundle.pem", "cert.pem", "cacert.pem":
		return true
	default:
		return false
	}
}

// javaName reports whether a file of that name is a JVM's trust store.
func javaName(p string) bool {
	base := path.Base(p)
	return base == "cacerts" || base == "java-cacerts"
}

// isHashLink reports whether a name is one of OpenSSL's in a directory of
// certificates: eight hex digits, a dot, a number.
func isHashLink(name string) bool {
	hash, number, ok := strings.Cut(name, ".")
	if !ok || len(hash) != 8 || len(number) == 0 || len(number) > 4 {
		return false
	}
	return strings.Trim(hash, "0123456789abcdef") == "" && strings.Trim(number, "0123456789") == ""
}

// places gives the directories to cover, links resolved, without those that lie
// in another one of them.
func (r hostRoot) places() []string {
	var dirs []string
	for _, dir := range wellKnownDirs() {
		at, err := r.resolve(dir)
		if err != nil || !at.info.IsDir() || !at.public {
			continue
		}
		// A link that leads to a whole system directory is not what we know.
		if strings.Count(at.path, "/") < 2 || slices.Contains([]string{"/etc/ssl", "/etc/pki", "/var/lib", "/usr/share", "/usr/lib"}, at.path) {
			continue
		}
		dirs = append(dirs, at.path)
	}
	slices.Sort(dirs)
	dirs = slices.Compact(dirs)
	return slices.DeleteFunc(dirs, func(dir string) bool {
		return slices.ContainsFunc(dirs, func(other string) bool {
			_, inside := within(other, dir)
			return inside && other != dir
		})
	})
}
