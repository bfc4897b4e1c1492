package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"sallyport/pkg/config"
	"sallyport/pkg/convert"
	"sallyport/pkg/convert/kong"
	"sallyport/pkg/convert/nginx"
)

func (e *env) convertCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "convert",
		Short: "Turn the configuration of another gateway into one of ours",
		Long: `Turns the configuration of another gateway into one of ours. A program behind the
gate asks the origin itself, so what is written describes what the gateway sent
upstream, and nothing in it allows more than the gateway let through.

The YAML goes to standard output; what was not carried, or differently, to standard
error, each with its line and what to do.`,
		Example: `  sallyport convert kong kong.yml > sallyport.yaml
  sallyport convert nginx /etc/nginx/nginx.conf --strict > sallyport.yaml`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(
		e.convertFromCommand("kong", "Convert a declarative file of Kong", "  sallyport convert kong kong.yml > sallyport.yaml\n  deck gateway dump -o - | sallyport convert kong -",
			func(name string, data []byte) (*convert.Draft, *convert.Notes, error) {
				return kong.Convert(name, data)
			}),
		e.convertFromCommand("nginx", "Convert an nginx.conf with what it includes", "  sallyport convert nginx /etc/nginx/nginx.conf > sallyport.yaml\n  nginx -T 2>/dev/null | sallyport convert nginx -",
			func(name string, data []byte) (*convert.Draft, *convert.Notes, error) {
				return nginx.Convert(name, data, nginx.Files{Read: readSource, Glob: filepath.Glob})
			}),
	)
	return c
}

// A converter reads one kind of configuration.
type converter func(name string, data []byte) (*convert.Draft, *convert.Notes, error)

func (e *env) convertFromCommand(kind, short, example string, from converter) *cobra.Command {
	var strict bool
	c := &cobra.Command{
		Use:     kind + " FILE",
		Short:   short,
		Long:    short + `; "-" reads standard input.`,
		Example: example,
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			name, data, err := e.source(args[0])
			if err != nil {
				return fmt.Errorf("convert %s: %w", kind, err)
			}
			draft, notes, err := from(name, data)
			if err != nil {
				// Editors and CI read FILE:LINE at the start of a line.
				fmt.Fprintln(e.stderr, err)
				return exitError(exitUsage)
			}
			if err := convert.WriteYAML(e.stdout, draft); err != nil {
				return fmt.Errorf("convert %s: %w", kind, err)
			}
			for _, note := range notes.List() {
				fmt.Fprintln(e.stderr, note)
			}
			if strict && !notes.Complete() {
				return exitError(exitFailed)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&strict, "strict", false, "exit with 1 if anything was left out")
	return c
}

// source reads the file to convert, or standard input.
func (e *env) source(path string) (name string, data []byte, err error) {
	if path != "-" {
		data, err = readSource(path)
		if errors.Is(err, fs.ErrNotExist) {
			err = usageError{fmt.Errorf("%w; name another file", err)}
		}
		return path, data, err
	}
	data, err = io.ReadAll(io.LimitReader(e.stdin, config.MaxFileSize+1))
	if err == nil && len(data) > config.MaxFileSize {
		err = fmt.Errorf("standard input is larger than %d bytes", config.MaxFileSize)
	}
	return "-", data, err
}

// readSource reads a file of bounded size.
func readSource(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, config.MaxFileSize+1))
	if err == nil && len(data) > config.MaxFileSize {
		err = &os.PathError{Op: "read", Path: path, Err: fmt.Errorf("larger than %d bytes", config.MaxFileSize)}
	}
	return data, err
}
