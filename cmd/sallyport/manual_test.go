package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

//go:generate go test -count=1 -run=^TestManualIsCurrent$ . -args -update

var update = flag.Bool("update", false, "write manual pages and completions anew")

// Where the generated files are, for packages and `install`.
const (
	manualDir     = "../../systemd/man"
	completionDir = "../../systemd/completions"
)

// TestManualIsCurrent fails when manual pages and completions are not what the
// command tree gives. They are made here and not in the binary: what makes them
// is of no use on a host.
func TestManualIsCurrent(t *testing.T) {
	root := (&env{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}, getenv: func(string) string { return "" }}).root()
	root.InitDefaultHelpCmd()
	want := make(map[string][]byte)
	for _, c := range documented(root) {
		want[filepath.Join(manualDir, pageName(c)+".1")] = manualPage(c)
	}
	reference, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	want[filepath.Join(manualDir, "sallyport.yaml.5")] = configurationPage(string(reference))
	for name, generate := range map[string]func(*bytes.Buffer) error{
		"sallyport.bash": func(b *bytes.Buffer) error { return root.GenBashCompletionV2(b, true) },
		"sallyport.zsh":  func(b *bytes.Buffer) error { return root.GenZshCompletion(b) },
		"sallyport.fish": func(b *bytes.Buffer) error { return root.GenFishCompletion(b, true) },
	} {
		var b bytes.Buffer
		if err := generate(&b); err != nil {
			t.Fatal(err)
		}
		want[filepath.Join(completionDir, name)] = b.Bytes()
	}
	for _, dir := range []string{manualDir, completionDir} {
		entries, err := os.ReadDir(dir)
		if err != nil && !*update {
			t.Fatal(err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if _, ok := want[path]; ok {
				continue
			}
			if *update {
				os.Remove(path)
			} else {
				t.Errorf("%s is of a command that there is not: go generate ./cmd/sallyport", path)
			}
		}
	}
	for path, content := range want {
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, content, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, content) {
			t.Errorf("%s is not what the commands are: go generate ./cmd/sallyport", path)
		}
	}
}

// documented gives a command and all below it that people may use.
func documented(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" {
			all = append(all, documented(sub)...)
		}
	}
	return all
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// manualPage writes a page in the man macros (man(7)).
func manualPage(c *cobra.Command) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, ".TH %s 1 \"\" sallyport\n", strings.ToUpper(roff(pageName(c))))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(pageName(c)), roff(c.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(c.UseLine()))
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	fmt.Fprintf(&b, ".SH DESCRIPTION\n%s", paragraphs(text))
	if subs := documented(c)[1:]; len(subs) > 0 {
		b.WriteString(".SH COMMANDS\n")
		for _, sub := range c.Commands() {
			if slices.Contains(subs, sub) {
				fmt.Fprintf(&b, ".TP\n.BR %s (1)\n%s\n", roff(pageName(sub)), roff(sub.Short))
			}
		}
	}
	var flags bytes.Buffer
	describe := func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		names := "\\-\\-" + roff(f.Name)
		if f.Shorthand != "" {
			names = "\\-" + f.Shorthand + ", " + names
		}
		fmt.Fprintf(&flags, ".TP\n.B %s\\fR", names)
		if value != "" {
			fmt.Fprintf(&flags, " \\fI%s\\fR", roff(value))
		}
		fmt.Fprintf(&flags, "\n%s\n", roff(usage))
	}
	c.NonInheritedFlags().VisitAll(describe)
	c.InheritedFlags().VisitAll(describe)
	if flags.Len() > 0 {
		fmt.Fprintf(&b, ".SH OPTIONS\n%s", flags.Bytes())
	}
	if c.Example != "" {
		fmt.Fprintf(&b, ".SH EXAMPLE\n.nf\n%s\n.fi\n", roff(strings.Trim(c.Example, "\n")))
	}
	fmt.Fprintf(&b, ".SH EXIT STATUS\n0: done. 1: failed. 2: wrong use, or a mistake in the configuration.\n")
	b.WriteString(".SH SEE ALSO\n")
	if c.HasParent() {
		fmt.Fprintf(&b, ".BR %s (1),\n", roff(pageName(c.Parent())))
	}
	b.WriteString(".BR sallyport.yaml (5)\n")
	return b.Bytes()
}

// configurationPage makes a page of docs/configuration.md: headings, paragraphs
// and tables of four columns is all that it has.
func configurationPage(markdown string) []byte {
	var b bytes.Buffer
	b.WriteString(".TH SALLYPORT.YAML 5 \"\" sallyport\n.SH NAME\nsallyport.yaml \\- configuration of sallyport\n.SH DESCRIPTION\n")
	plain := strings.NewReplacer("`", "", `\|`, "|", "**", "")
	for line := range strings.Lines(markdown) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "# "), strings.HasPrefix(line, "<!--"), strings.HasPrefix(line, "|---"), strings.HasPrefix(line, "| key |"):
		case strings.HasPrefix(line, "#"):
			fmt.Fprintf(&b, ".SH %s\n", roff(plain.Replace(strings.TrimLeft(line, "# "))))
		case line == "":
			b.WriteString(".PP\n")
		case strings.HasPrefix(line, "| "):
			cells := strings.Split(strings.ReplaceAll(strings.Trim(line, "|"), `\|`, "\x00"), "|")
			for i, c := range cells {
				cells[i] = roff(plain.Replace(strings.ReplaceAll(strings.TrimSpace(c), "\x00", "|")))
			}
			if len(cells) < 4 {
				fmt.Fprintf(&b, "%s\n", strings.Join(cells, " "))
				continue
			}
			fmt.Fprintf(&b, ".TP\n.B %s\\fR  (%s", cells[0], cells[1])
			if cells[2] != "" {
				fmt.Fprintf(&b, "; default %s", cells[2])
			}
			fmt.Fprintf(&b, ")\n%s\n", cells[3])
		default:
			fmt.Fprintf(&b, "%s\n", roff(plain.Replace(line)))
		}
	}
	b.WriteString(".SH FILES\n/etc/sallyport/sallyport.yaml, /etc/sallyport/conf.d/*.yaml\n.SH SEE ALSO\n.BR sallyport (1)\n")
	return b.Bytes()
}

// paragraphs writes text whose paragraphs are parted by empty lines; lines that
// are set in keep their ends.
func paragraphs(text string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.Trim(text, "\n") + "\n") {
		switch {
		case line == "\n":
			b.WriteString(".PP\n")
		case strings.HasPrefix(line, "  "):
			fmt.Fprintf(&b, ".br\n%s", roff(line))
		default:
			b.WriteString(roff(line))
		}
	}
	return b.String()
}

// roff keeps troff from reading text as requests.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
