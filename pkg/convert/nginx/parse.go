package nginx

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"sallyport/pkg/convert"
)

// Bounds of what is read: what nobody could review is a mistake or an attack.
const (
	maxDepth      = 64
	maxDirectives = 200_000
	maxFiles      = 1000
	maxTotal      = 32 << 20
)

// A directive is a name with its parameters, and a block where it has one.
type directive struct {
	convert.Place
	name  string
	args  []string
	block []*directive
	// hasBlock tells an empty block from none; foreign is one in another language.
	hasBlock, foreign bool
}

// arg gives a parameter, "" where there are fewer.
func (d *directive) arg(i int) string {
	if i >= 0 && i < len(d.args) {
		return d.args[i]
	}
	return ""
}

// Files are the sources that an include may name.
type Files struct {
	Read func(path string) ([]byte, error)
	// Glob gives the paths that match, as filepath.Glob does.
	Glob func(pattern string) ([]string, error)
}

// A parser reads a file and those that it includes.
type parser struct {
	files Files
	// dir is that of the main file, to which includes are relative.
	dir   string
	left  int
	read  int
	bytes int
	// open are the files that are being read.
	open []string
}

// parse gives the directives of the main file.
func parse(name string, data []byte, files Files) ([]*directive, error) {
	name, text, dumped := undump(name, string(data))
	p := &parser{files: files, dir: filepath.Dir(name), left: maxDirectives}
	if dumped != nil {
		p.files = Files{
			Read: func(path string) ([]byte, error) {
				if text, ok := dumped[path]; ok {
					return []byte(text), nil
				}
				return nil, errors.New("is not in the dump")
			},
			Glob: func(pattern string) (all []string, err error) {
				for path := range dumped {
					ok, err := filepath.Match(pattern, path)
					if err != nil {
						return nil, err
					}
					if ok {
						all = append(all, path)
					}
				}
				slices.Sort(all)
				return all, nil
			},
		}
	}
	return p.file(name, text)
}

// dumpMark begins each file in what nginx -T prints.
const dumpMark = "# configuration file "

// undump takes the output of nginx -T apart; of anything else dumped is nil.
func undump(name, text string) (string, string, map[string]string) {
	i := strings.Index(text, dumpMark)
	if i < 0 || i > 0 && text[i-1] != '\n' || strings.Contains(text[:i], "{") {
		return name, text, nil
	}
	dumped := make(map[string]string)
	main := ""
	for part := range strings.SplitSeq("\n"+text[i:], "\n"+dumpMark) {
		path, body, ok := strings.Cut(part, ":\n")
		if !ok || strings.Contains(path, "\n") {
			continue
		}
		if main == "" {
			main = path
		}
		dumped[path] = body
	}
	if main == "" {
		return name, text, nil
	}
	return main, dumped[main], dumped
}

// file reads the directives of one file.
func (p *parser) file(name, text string) ([]*directive, error) {
	p.read++
	p.bytes += len(text)
	s := &scanner{file: name, data: strings.TrimPrefix(text, "\ufeff"), line: 1}
	switch {
	case slices.Contains(p.open, name):
		return nil, s.wrong(1, "includes itself")
	case p.read > maxFiles || p.bytes > maxTotal:
		return nil, s.wrong(1, "more than %d files or %d bytes", maxFiles, maxTotal)
	}
	p.open = append(p.open, name)
	defer func() { p.open = p.open[:len(p.open)-1] }()
	all, closed, err := p.block(s, 0)
	if err == nil && closed {
		err = s.wrong(s.line, `unexpected "}"`)
	}
	return all, err
}

// block reads directives up to the closing brace or the end of the file.
func (p *parser) block(s *scanner, depth int) (all []*directive, closed bool, err error) {
	for {
		t, err := s.next()
		if err != nil {
			return nil, false, err
		}
		switch t.kind {
		case end:
			return all, false, nil
		case closing:
			return all, true, nil
		case word:
		default:
			return nil, false, s.wrong(t.line, "a directive without a name")
		}
		d, err := p.directive(s, t, depth)
		if err != nil {
			return nil, false, err
		}
		if d.name == "include" && !d.hasBlock {
			included, err := p.include(d)
			if err != nil {
				return nil, false, err
			}
			all = append(all, included...)
			continue
		}
		all = append(all, d)
	}
}

func (p *parser) directive(s *scanner, name token, depth int) (*directive, error) {
	d := &directive{Place: convert.Place{File: s.file, Line: name.line}, name: name.text}
	if p.left--; p.left < 0 {
		return nil, s.wrong(name.line, "more than %d directives", maxDirectives)
	}
	for {
		t, err := s.next()
		if err != nil {
			return nil, err
		}
		switch t.kind {
		case word:
			d.args = append(d.args, t.text)
		case semicolon:
			return d, nil
		case closing:
			return nil, s.wrong(t.line, `%s: unexpected "}": a semicolon may be missing`, d.name)
		case end:
			return nil, s.wrong(name.line, "%s: the file ends before the directive does", d.name)
		case opening:
			d.hasBlock = true
			if strings.HasSuffix(d.name, "_by_lua_block") {
				d.foreign = true
				return d, s.foreign(name.line)
			}
			if depth == maxDepth {
				return nil, s.wrong(t.line, "blocks nested deeper than %d", maxDepth)
			}
			block, closed, err := p.block(s, depth+1)
			if err == nil && !closed {
				err = s.wrong(name.line, `%s: its "}" is missing`, d.name)
			}
			d.block = block
			return d, err
		}
	}
}

// include reads what a directive names. What cannot be read stays as an include,
// so that nobody takes the file for whole.
func (p *parser) include(d *directive) ([]*directive, error) {
	pattern := d.arg(0)
	if pattern == "" {
		return []*directive{d}, nil
	}
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(p.dir, pattern)
	}
	paths := []string{pattern}
	if strings.ContainsAny(pattern, "*?[") {
		var err error
		// None at all is no mistake for nginx either.
		if paths, err = p.files.Glob(pattern); err != nil {
			return []*directive{d}, nil
		}
	}
	var all []*directive
	for _, path := range paths {
		data, err := p.files.Read(path)
		if err != nil {
			all = append(all, &directive{Place: d.Place, name: "include", args: []string{path, fmt.Sprint(err)}})
			continue
		}
		included, err := p.file(path, string(data))
		if err != nil {
			return nil, err
		}
		all = append(all, included...)
	}
	return all, nil
}
