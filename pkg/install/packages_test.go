package install

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// TestPackages: packages put down what Files lists, and nothing else than the
// mark by which they are known.
func TestPackages(t *testing.T) {
	data, err := os.ReadFile("../../systemd/nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var packages struct {
		Contents []struct {
			Source      string `yaml:"src"`
			Destination string `yaml:"dst"`
			Type        string `yaml:"type"`
			Info        struct {
				Mode fs.FileMode `yaml:"mode"`
			} `yaml:"file_info"`
		} `yaml:"contents"`
	}
	if err := yaml.Unmarshal(data, &packages); err != nil {
		t.Fatal(err)
	}
	packed := make(map[string]File)
	for _, c := range packages.Contents {
		sources := []string{c.Source}
		if strings.Contains(c.Source, "*") {
			if sources, err = filepath.Glob("../../" + c.Source); err != nil {
				t.Fatal(err)
			}
		}
		for _, source := range sources {
			f := File{Path: c.Destination, Mode: c.Info.Mode, Config: c.Type == "config|noreplace"}
			if strings.HasSuffix(c.Destination, "/") {
				f.Path = c.Destination + path.Base(source)
			}
			if source != "${BINARY}" {
				f.Source = strings.TrimPrefix(strings.TrimPrefix(source, "../../"), "systemd/")
			}
			packed[f.Path] = f
		}
	}
	if packed[PackageMark].Source == "" {
		t.Errorf("packages do not have %s", PackageMark)
	}
	delete(packed, PackageMark)
	for _, f := range Files() {
		if packed[f.Path] != f {
			t.Errorf("packages put down %+v, install %+v", packed[f.Path], f)
		}
		delete(packed, f.Path)
	}
	for p := range packed {
		t.Errorf("packages put down %s, install does not", p)
	}
}

// TestPackageUnits: packages enable, start and forget the same units.
func TestPackageUnits(t *testing.T) {
	for script, want := range map[string]string{
		"postinst.sh": "systemctl enable --quiet " + strings.Join(Units(), " "),
		"prerm.sh":    "sallyport uninstall --package",
	} {
		data, err := os.ReadFile("../../systemd/package/" + script)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(data), want) {
			t.Errorf("%s does not %q", script, want)
		}
		if strings.Contains(string(data), "restart sallyport-lock") {
			t.Errorf("%s restarts the lock", script)
		}
	}
	data, err := os.ReadFile("../../systemd/package/postrm.sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range Units() {
		if !strings.Contains(string(data), "/etc/systemd/system/multi-user.target.wants/"+u) {
			t.Errorf("postrm.sh leaves %s enabled", u)
		}
	}
}
