// Package install puts sallyport on a host and takes it away again: the binary,
// units, configuration, manual pages and completions. What is put where is data;
// packages for distributions are held to the same list by a test.
package install

import (
	"io/fs"
	"path"
	"strings"

	"sallyport/systemd"
)

// Binary is where the binary goes, and where the units expect it.
const Binary = "/usr/bin/sallyport"

// Config is the first configuration.
const Config = "/etc/sallyport/sallyport.yaml"

// PackageMark is a file that packages have and Files does not: where it is, the
// files are a package manager's.
const PackageMark = "/usr/share/doc/sallyport/copyright"

// Units are those that are enabled, in the order in which they start.
func Units() []string {
	return []string{"sallyport-lock.service", "sallyport-keeper.service", "sallyport.service"}
}

// A File is one that is put on the host.
type File struct {
	// Path is where.
	Path string
	// Source is its name in package systemd; empty for the binary.
	Source string
	Mode   fs.FileMode
	// Config is set for what people edit: their words are kept.
	Config bool
}

// Files lists all that an installation puts down, ordered so that a unit comes
// after what it starts.
func Files() []File {
	const units = "/usr/lib/systemd/system/"
	files := []File{{Path: Binary, Mode: 0o755}}
	for _, f := range []struct{ path, source string }{
		{units + "sallyport.slice", "sallyport.slice"},
		{units + "sallyport-lock.service", "sallyport-lock.service"},
		{units + "mcp.slice", "mcp.slice"},
		{units + "sallyport-keeper.service", "sallyport-keeper.service"},
		{units + "sallyport.service", "sallyport.service"},
		{"/usr/lib/sysusers.d/sallyport.conf", "sysusers.conf"},
		{"/usr/lib/tmpfiles.d/sallyport.conf", "tmpfiles.conf"},
		{"/usr/share/bash-completion/completions/sallyport", "completions/sallyport.bash"},
		{"/usr/share/fish/vendor_completions.d/sallyport.fish", "completions/sallyport.fish"},
		// Fedora's place, and Debian's.
		{"/usr/share/zsh/site-functions/_sallyport", "completions/sallyport.zsh"},
		{"/usr/share/zsh/vendor-completions/_sallyport", "completions/sallyport.zsh"},
	} {
		files = append(files, File{Path: f.path, Source: f.source, Mode: 0o644})
	}
	for _, page := range manualPages() {
		section := page[strings.LastIndexByte(page, '.')+1:]
		files = append(files, File{Path: "/usr/share/man/man" + section + "/" + page, Source: "man/" + page, Mode: 0o644})
	}
	return append(files, File{Path: Config, Source: "sallyport.yaml", Mode: 0o644, Config: true})
}

func manualPages() []string {
	entries, err := systemd.Files.ReadDir("man")
	if err != nil {
		panic("install: no manual pages were embedded: " + err.Error())
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

// directories are those that are ours alone, and go when they are empty.
func directories() []string {
	return []string{path.Dir(Config) + "/conf.d", path.Dir(Config)}
}
