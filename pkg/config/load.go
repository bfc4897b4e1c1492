package config

import "errors"

// A File is one source: the name that errors show, and its bytes.
type File struct {
	Name string
	Data []byte
}

// Load reads the file at path and conf.d/*.yaml beside it and parses them. It
// gives the sources back so that another process can parse the same bytes.
func Load(path string) (*Config, []File, error) {
	return nil, nil, errors.ErrUnsupported
}

// Parse parses the main file, files[0], and the files of conf.d that follow.
// The error is of type Errors and holds every mistake of every file.
func Parse(files []File) (*Config, error) {
	return nil, errors.ErrUnsupported
}

// Default gives the configuration that holds where there is no file, in the
// given mode. The caller may change it: nobody else has it.
func Default(mode Mode) *Config { return &Config{Mode: mode} }

// Hash identifies the effective configuration: the SHA-256 of Show, in hex.
func (c *Config) Hash() string { return "" }

// Show writes the effective configuration, defaults filled in, as YAML that
// Parse accepts and that gives the same Config.
func (c *Config) Show() []byte { return nil }

// Schema gives the JSON Schema (draft 2020-12) of the configuration file.
func Schema() []byte { return nil }
