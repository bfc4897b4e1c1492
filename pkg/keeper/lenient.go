package keeper

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"sallyport/pkg/config"
)

// scalar is a line of YAML that sets a key of the top level.
var scalar = regexp.MustCompile(`^(slice|nft_table|bpf_dir|runtime_dir):[ \t]+["']?([A-Za-z0-9_./@:-]+)["']?[ \t]*(?:#.*)?\r?$`)

// LenientPlaces gives the places that a configuration file names, also where the
// rest of it is wrong: a broken file must not keep the gate from being shut. What
// it does not clearly say is the default. The error says what is wrong with the
// file; the places are good all the same.
func LenientPlaces(path string) (Places, error) {
	conf, err := LenientConfig(path)
	return PlacesOf(conf), err
}

// LenientConfig is LenientPlaces for who takes things away: where the file is
// wrong all but the places is default.
func LenientConfig(path string) (*config.Config, error) {
	conf, _, err := LoadConfig(path, config.Enforce)
	if err == nil {
		return conf, nil
	}
	data, rerr := os.ReadFile(path)
	if rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = rerr
	}
	conf = config.Default(config.Enforce)
	for line := range strings.Lines(string(data)) {
		m := scalar.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			continue
		}
		switch key, value := m[1], m[2]; {
		case key == "slice" && !strings.ContainsAny(value, "/:"):
			conf.Slice = value
		case key == "nft_table" && !strings.ContainsAny(value, "./@:-"):
			conf.NFTTable = value
		case key == "bpf_dir" && filepath.IsAbs(value):
			conf.BPFDir = filepath.Clean(value)
		case key == "runtime_dir" && filepath.IsAbs(value):
			conf.RuntimeDir = filepath.Clean(value)
		}
	}
	return conf, err
}
