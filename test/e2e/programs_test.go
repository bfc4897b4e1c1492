package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// npmClients installs what test/e2e/testdata/clients/package-lock.json names
// into the user's cache directory, once for each content of that file, and
// gives the directory. Without a network it works when it did so before.
var npmClients = sync.OnceValues(func() (string, error) {
	lock, err := os.ReadFile("testdata/clients/package-lock.json")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = "/var/cache"
	}
	sum := sha256.Sum256(lock)
	dir := filepath.Join(cache, "sallyport-test", "clients-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), "installing-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	for _, name := range []string{"package.json", "package-lock.json"} {
		b, err := os.ReadFile(filepath.Join("testdata/clients", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(temp, name), b, 0o644)
		}
		if err != nil {
			return "", err
		}
	}
	// A registry fails now and then.
	for try := 0; ; try++ {
		c := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error")
		c.Dir = temp
		out, err := c.CombinedOutput()
		if err == nil {
			break
		}
		if try == 2 {
			return "", fmt.Errorf("npm ci: %v: %s", err, out)
		}
		time.Sleep(10 * time.Second)
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return "", err
	}
	// Another run of the tests may have been faster: its directory is as good.
	if err := os.Rename(temp, dir); err != nil {
		if _, statErr := os.Stat(dir); statErr != nil {
			return "", err
		}
	}
	return dir, nil
})

// nodeModules gives the directory in which Node finds the npm packages of the
// tests. It is visible on every host, wherever the cache directory lies.
func (h *host) nodeModules() string {
	h.t.Helper()
	dir, err := npmClients()
	if err != nil {
		h.t.Fatal(err)
	}
	const seen = "/srv/npm"
	if err := os.MkdirAll(h.path(seen), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if _, err := os.Stat(h.path(seen + "/node_modules")); err == nil {
		return seen + "/node_modules"
	}
	// A copy by hard links is not possible across file systems; 55 MB are quick.
	if out, err := exec.Command("cp", "-a", dir+"/.", h.path(seen)).CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	return seen + "/node_modules"
}

// goPrograms builds the programs of testdata/clients that are Go, static.
var goPrograms = sync.OnceValues(func() (map[string][]byte, error) {
	dir, err := os.MkdirTemp("", "sallyport-clients-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	programs := map[string][]byte{}
	for _, name := range []string{"nethttp", "rawhttp"} {
		out := filepath.Join(dir, name)
		c := exec.Command("go", "build", "-o", out, "testdata/clients/"+name+"/main.go")
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if msg, err := c.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build %s: %v: %s", name, err, msg)
		}
		if programs[name], err = os.ReadFile(out); err != nil {
			return nil, err
		}
	}
	return programs, nil
})

// program puts a Go program of testdata/clients on the host and gives its path.
func (h *host) program(name string) string {
	h.t.Helper()
	all, err := goPrograms()
	if err != nil {
		h.t.Fatal(err)
	}
	p := "/srv/bin/" + name
	h.putProgram(p, all[name])
	return p
}

// testdata puts a file of testdata/clients on the host and gives its path.
func (h *host) testdata(name string) string {
	h.t.Helper()
	b, err := os.ReadFile("testdata/clients/" + name)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write("/srv/clients/"+name, string(b))
	return "/srv/clients/" + name
}
