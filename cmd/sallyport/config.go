package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"sallyport/pkg/config"
	"sallyport/pkg/keeper"
	"sallyport/pkg/policy"
)

// defaultConfig is read where no file is named and this one exists.
const defaultConfig = "/etc/sallyport/sallyport.yaml"

// configPath gives the file that a command should read; "" where none is named
// and the default does not exist.
func configPath(c *cobra.Command) (string, error) {
	path, err := c.Flags().GetString(configFlag)
	if err != nil {
		return "", err
	}
	if path != "" {
		return path, nil
	}
	if _, err := os.Stat(defaultConfig); err == nil {
		return defaultConfig, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("config: %w", err)
	}
	return "", nil
}

// loadConfig reads the configuration of a command; without a file it is the
// built-in one in the given mode.
func loadConfig(c *cobra.Command, builtin config.Mode) (*config.Config, error) {
	path, err := configPath(c)
	if err != nil {
		return nil, err
	}
	if path == "" {
		return config.Default(builtin), nil
	}
	return readConfig(path)
}

// readConfig reads and checks one file with its conf.d.
func readConfig(path string) (*config.Config, error) {
	conf, _, err := config.Load(path)
	if err != nil {
		return nil, configError(err)
	}
	return conf, nil
}

// mistaken makes mistakes in a file usage errors: they are the user's.
func mistaken(err error) error {
	if _, ok := errors.AsType[config.Errors](err); ok {
		return usageError{err}
	}
	return err
}

// configError tells a mistake in a file or its name, which is the user's, from a
// file that cannot be read.
func configError(err error) error {
	var missing *fs.PathError
	switch _, mistakes := errors.AsType[config.Errors](err); {
	case mistakes:
		return usageError{err}
	case errors.As(err, &missing) && errors.Is(err, fs.ErrNotExist):
		return usageError{fmt.Errorf("config: %s: %w; name another file with --config", missing.Path, missing.Err)}
	default:
		return fmt.Errorf("config: %w", err)
	}
}

func (e *env) configCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "config",
		Short:   "Check, describe or show the configuration",
		Example: "  sallyport config check /etc/sallyport/sallyport.yaml",
		Args:    usageArgs(cobra.NoArgs),
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(e.configCheckCommand(), e.configSchemaCommand(), e.configShowCommand())
	return c
}

// checked is what config check --json tells. Lists are [] and never null: a
// script may count them.
type checked struct {
	File     string   `json:"file"`
	Valid    bool     `json:"valid"`
	Errors   []string `json:"errors"`
	Warnings []string `json:"warnings"`
	// Late is what a match captures at its next start only, on this host now.
	Late []string `json:"late"`
}

func (e *env) configCheckCommand() *cobra.Command {
	var asJSON, strict bool
	c := &cobra.Command{
		Use:     "check [FILE]",
		Short:   "Validate a configuration and print every error with its line",
		Long:    "Validate a configuration and print every error with its line. Warnings tell what is allowed and can hardly be\nmeant, such as a rule that is never reached; with --strict they are failures. What a match captures on this host at its\nnext start only is listed as \"captured late\".",
		Example: "  sallyport config check\n  sallyport config check ./sallyport.yaml --strict\n  sallyport config check ./sallyport.yaml --json",
		Args:    usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			path, err := configPath(c)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				path = args[0]
			}
			if path == "" {
				return usageError{fmt.Errorf("config check: no file: %s does not exist; name one", defaultConfig)}
			}
			conf, warnings, err := checkConfig(path)
			if err == nil {
				_, err = policy.Compile(conf)
			}
			mistakes, ok := errors.AsType[config.Errors](err)
			late := []string{}
			if err == nil {
				lines, lateErr := keeper.Late(conf)
				if lateErr != nil {
					fmt.Fprintf(e.stderr, "sallyport: config check: what is captured late is not known: %v\n", lateErr)
				}
				late = append(late, lines...)
			}
			switch {
			case err != nil && !ok:
				return err
			case asJSON:
				out := checked{File: path, Valid: err == nil, Errors: []string{}, Warnings: []string{}, Late: late}
				for _, m := range mistakes {
					out.Errors = append(out.Errors, m.Error())
				}
				for _, w := range warnings {
					out.Warnings = append(out.Warnings, w.Error())
				}
				if err := json.NewEncoder(e.stdout).Encode(out); err != nil {
					return err
				}
			case err == nil:
				for _, w := range warnings {
					w.Message = "warning: " + w.Message
					fmt.Fprintln(e.stderr, w)
				}
				for _, l := range late {
					fmt.Fprintln(e.stderr, "captured late: "+l)
				}
				if _, err := fmt.Fprintf(e.stdout, "%s: valid: mode %s, workloads %d, rules %d\n", path, conf.Mode, len(conf.Workloads), len(conf.Rules)); err != nil {
					return err
				}
			default:
				// Editors and CI read FILE:LINE:COL at the start of a line.
				fmt.Fprintln(e.stderr, mistakes)
			}
			switch {
			case err != nil:
				return exitError(exitUsage)
			case strict && len(warnings) > 0:
				return exitError(exitFailed)
			default:
				return nil
			}
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&strict, "strict", false, "exit 1 for warnings too")
	return c
}

// checkConfig is readConfig with warnings.
func checkConfig(path string) (*config.Config, config.Errors, error) {
	files, err := config.ReadFiles(path)
	if err != nil {
		return nil, nil, configError(err)
	}
	conf, warnings, err := config.Check(files)
	if err != nil {
		return nil, nil, configError(err)
	}
	return conf, warnings, nil
}

func (e *env) configSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON Schema of the configuration",
		Example: "  sallyport config schema > sallyport.schema.json",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			_, err := e.stdout.Write(config.Schema())
			return err
		},
	}
}

func (e *env) configShowCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "show",
		Short:   "Print the effective configuration with every default",
		Example: "  sallyport config show --config ./sallyport.yaml",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := loadConfig(c, config.Enforce)
			if err != nil {
				return err
			}
			shown := conf.Show()
			if asJSON {
				shown = append(conf.ShowJSON(), '\n')
			}
			_, err = e.stdout.Write(shown)
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
