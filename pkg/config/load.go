package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"sallyport/pkg/wholefile"
)

// A File is one source: the name that errors show, and its bytes.
type File struct {
	Name string
	Data []byte
}

// Load reads the file at path and conf.d/*.yaml beside it and parses them. It
// gives the sources back so that another process can parse the same bytes; with
// an error too, where they could be read.
func Load(path string) (*Config, []File, error) {
	files, err := ReadFiles(path)
	if err != nil {
		return nil, nil, err
	}
	c, err := Parse(files)
	return c, files, err
}

// ReadFiles reads the file at path and conf.d/*.yaml beside it, in name order.
// Hidden files are left out, as a shell's glob does.
func ReadFiles(path string) ([]File, error) {
	files := make([]File, 1, 8)
	total := 0
	read := func(name string) (File, error) {
		data, err := readFile(name)
		if total += len(data); err == nil && total > MaxTotalSize {
			err = fmt.Errorf("the files together are larger than %d bytes", MaxTotalSize)
		}
		return File{name, data}, err
	}
	var err error
	if files[0], err = read(path); err != nil {
		return nil, err
	}
	dir := filepath.Join(filepath.Dir(path), "conf.d")
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, entry := range names {
		name := entry.Name()
		if !strings.HasSuffix(name, ".yaml") || name[0] == '.' {
			continue
		}
		if len(files) == MaxFiles {
			return nil, fmt.Errorf("%s: more than %d files", dir, MaxFiles)
		}
		f, err := read(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// readFile reads a regular file of bounded size: a FIFO would hang the daemon.
func readFile(name string) ([]byte, error) { return wholefile.Read(name, MaxFileSize) }

// Parse parses the main file, files[0], and the files of conf.d that follow.
// The error is of type Errors and holds every mistake of every file.
func Parse(files []File) (*Config, error) { return read(files, nil) }

// read is Parse; what is valid is given to valid, if that is set.
func read(files []File, valid func(*node, *Config)) (*Config, error) {
	if len(files) == 0 || len(files) > MaxFiles {
		return nil, Errors{{File: "configuration", Message: fmt.Sprintf("want 1 to %d files, found %d", MaxFiles, len(files))}}
	}
	r := &report{order: make(map[string]int, len(files))}
	left := maxNodes
	total := 0
	var root *node
	for i, f := range files {
		r.order[f.Name] = i
		total += len(f.Data)
		if len(f.Data) > MaxFileSize || total > MaxTotalSize {
			r.add(place{file: f.Name}, "too large: at most %d bytes, %d with all others", MaxFileSize, MaxTotalSize)
			continue
		}
		n := parseFile(f, r, &left)
		switch {
		case n == nil:
		case i == 0:
			root = n
		default:
			if root == nil {
				root = &node{place: place{file: files[0].Name, line: 1, column: 1}, kind: mapping}
			}
			joinFile(root, n, files[0].Name, r)
		}
	}
	if root == nil {
		root = &node{place: place{file: files[0].Name, line: 1, column: 1}, kind: mapping}
	}
	d := &decoder{report: r, left: maxNodes}
	c := d.config(root)
	if err := r.err(); err != nil {
		return nil, err
	}
	if valid != nil {
		valid(root, c)
	}
	return c, nil
}

// parseFile gives the top-level mapping of a file without its extensions; nil
// where there is none.
func parseFile(f File, r *report, left *int) *node {
	at := place{f.Name, 1, 1}
	data := bytes.TrimPrefix(f.Data, []byte("\ufeff"))
	for i, line := range bytes.Split(data, []byte("\n")) {
		if !utf8.Valid(line) {
			r.add(place{f.Name, i + 1, 1}, "not UTF-8")
			return nil
		}
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		r.add(at, "%v", err)
		return nil
	}
	var doc, second yaml.Node
	if err := loader.Load(&doc); err != nil {
		if !errors.Is(err, io.EOF) {
			r.addYAML(f.Name, data, err)
		}
		return nil
	}
	if err := loader.Load(&second); err == nil {
		r.add(place{f.Name, second.Line, second.Column}, "a second document: a file holds one")
	} else if !errors.Is(err, io.EOF) {
		r.addYAML(f.Name, data, err)
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 {
		return nil
	}
	b := &builder{file: f.Name, report: r, left: left, built: make(map[*yaml.Node]*node)}
	n := b.build(doc.Content[0], 0)
	switch {
	case n == nil || n.isNull():
		return nil
	case n.kind != mapping:
		r.add(n.place, "want a mapping, found %s", n.found())
		return nil
	}
	n.entries = slices.DeleteFunc(n.entries, func(e entry) bool { return isExtension(e.key) })
	return n
}

// yamlText takes the library's prefix off its messages.
var yamlText = regexp.MustCompile(`^(go-yaml load error in \w+ at \d+:\d+: |yaml: |line (\d+): |go-yaml load error in \w+: )+`)

// addYAML reports what the YAML library has to say.
func (r *report) addYAML(file string, data []byte, err error) {
	at := place{file, 1, 1}
	text := err.Error()
	var load *yaml.LoadError
	if errors.As(err, &load) {
		text = load.Message
		if load.Mark.Line > 0 {
			at.line, at.column = load.Mark.Line, max(load.Mark.Column, 1)
		}
		if load.ContextMsg != "" {
			text = load.ContextMsg + ": " + text
		}
	}
	if load == nil || load.Mark.Line == 0 {
		if i := bytes.IndexFunc(data, func(c rune) bool { return c < ' ' && c != '\n' && c != '\t' && c != '\r' || c == 0x7f }); i >= 0 {
			at.line = 1 + bytes.Count(data[:i], []byte("\n"))
			at.column = 1 + utf8.RuneCount(data[bytes.LastIndexByte(data[:i], '\n')+1:i])
		}
	}
	r.add(at, "no YAML: %s", strings.ReplaceAll(yamlText.ReplaceAllString(text, ""), "\n", " "))
}

// joinFile adds a file of conf.d to what the files before it gave.
func joinFile(root, n *node, main string, r *report) {
	kept := n.entries[:0:0]
	for _, e := range n.entries {
		switch e.key {
		case "mode", "default", "audit", "tls":
			r.add(e.place, "%q belongs in the main file, %s", e.key, main)
		default:
			kept = append(kept, e)
		}
	}
	join(root, kept, "", r)
}

// join adds entries to a mapping: mappings are joined, rules appended, and what
// is set already is an error that names both places.
func join(into *node, entries []entry, path string, r *report) {
	for _, e := range entries {
		has := into.get(e.key)
		switch {
		case has == nil:
			into.entries = append(into.entries, e)
		case e.value.isNull() && path == "":
		case has.value.isNull() && path == "":
			has.value = e.value
		case path == "" && e.key == "rules" && has.value.kind == list && e.value.kind == list:
			// The list may belong to an anchor that is used elsewhere.
			both := *has.value
			both.items = slices.Concat(both.items, e.value.items)
			has.value = &both
		case path != "workloads" && path != "upstreams" && has.value.kind == mapping && e.value.kind == mapping:
			both := *has.value
			both.entries = slices.Clone(both.entries)
			has.value = &both
			join(&both, e.value.entries, joined(path, e.key), r)
		case path == "workloads" || path == "upstreams":
			r.add(e.place, "%s %q is already defined at %s", strings.TrimSuffix(path, "s"), e.key, has.place)
		default:
			r.add(e.place, "%s is already set at %s", joined(path, e.key), has.place)
		}
	}
}

// joined writes a key with the path before it.
func joined(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// Hash identifies the effective configuration: the SHA-256 of Show, in hex.
func (c *Config) Hash() string {
	sum := sha256.Sum256(c.Show())
	return hex.EncodeToString(sum[:])
}

// quoted lists values for a message: a, b or c.
func quoted[T ~string](values []T) string {
	var b strings.Builder
	for i, v := range values {
		switch {
		case i == 0:
		case i == len(values)-1:
			b.WriteString(" or ")
		default:
			b.WriteString(", ")
		}
		if v == "" {
			b.WriteString(strconv.Quote(""))
		}
		b.WriteString(string(v))
	}
	return b.String()
}
