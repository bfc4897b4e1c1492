package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A step is one row as the guest is told of it.
type step struct {
	Row     string  `json:"row"`
	File    string  `json:"file"`
	Seconds float64 `json:"seconds"` // after which it has failed
}

// programs are what rows can need that is written in C, linked statically.
var programs = map[string]string{
	"attacker": "test/bypass/attacker/attacker.c",
	"keep":     "test/e2e/testdata/foreign/keep.c",
}

// pack builds what the rows need and writes it as a tar archive, which the
// machine sees as its second disk. What was built in dir before is kept.
func pack(ctx context.Context, dir, archive string, rows []row) error {
	root := filepath.Join(dir, "payload")
	for _, d := range []string{"bin", "rows", "packages"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	if err := buildOnce(ctx, filepath.Join(root, "guest"), "build", "-trimpath", "./test/vm/guest"); err != nil {
		return err
	}
	binary := os.Getenv("SALLYPORT_BINARY")
	if binary == "" {
		binary = "bin/sallyport"
	}
	var needs []string
	var steps []step
	members := []string{"guest", "plan.json", "rows", "bin/sallyport"}
	for _, r := range rows {
		file := "rows/" + filepath.Base(r.File)
		if err := copyFile(r.File, filepath.Join(root, file)); err != nil {
			return err
		}
		steps = append(steps, step{Row: r.Name, File: file, Seconds: r.Timeout.Seconds()})
		needs = append(needs, r.Needs...)
	}
	slices.Sort(needs)
	for _, n := range slices.Compact(needs) {
		if source, ok := programs[n]; ok {
			if err := command(ctx, nil, "gcc", "-O1", "-static", "-pthread", "-o", filepath.Join(root, "bin", n), source); err != nil {
				return err
			}
			members = append(members, "bin/"+n)
			continue
		}
		if n == "package" {
			if err := packages(ctx, filepath.Join(root, "packages")); err != nil {
				return err
			}
			members = append(members, "packages")
			continue
		}
		name := "bin/" + strings.ReplaceAll(strings.TrimPrefix(n, "./"), "/", "-") + ".test"
		if err := buildOnce(ctx, filepath.Join(root, name), "test", "-c", "-pgo=off", n); err != nil {
			return err
		}
		members = append(members, name)
	}
	if err := copyFile(binary, filepath.Join(root, "bin/sallyport")); err != nil {
		return fmt.Errorf("%w: make builds it", err)
	}
	if err := copyFile("test/vm/rows/lib.sh", filepath.Join(root, "rows/lib.sh")); err != nil {
		return err
	}
	plan, err := json.Marshal(steps)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "plan.json"), plan, 0o644); err != nil {
		return err
	}
	return command(ctx, nil, "tar", append([]string{"-C", root, "-cf", archive}, members...)...)
}

// buildOnce runs go with an output file, unless it is there already.
func buildOnce(ctx context.Context, output, verb string, args ...string) error {
	if _, err := os.Stat(output); err == nil {
		return nil
	}
	return command(ctx, []string{"CGO_ENABLED=0"}, "go", append([]string{verb, "-ldflags=-s -w", "-o", output}, args...)...)
}

// packages makes Debian packages of two versions, the second to upgrade to.
func packages(ctx context.Context, dir string) error {
	if old, err := filepath.Glob(filepath.Join(dir, "*.deb")); err != nil || len(old) == 2 {
		return err
	}
	for _, version := range []string{"0.0.1", "0.0.2"} {
		out := filepath.Join(dir, version)
		// The same sources and flags as bin/sallyport: only linking is new.
		binary := filepath.Join(out, "sallyport")
		arguments := []string{"--no-print-directory", "VERSION=" + version, "DIST=" + out, "BINARY=" + binary}
		for _, target := range []string{binary, "packages"} {
			if err := command(ctx, nil, "make", append(arguments, target)...); err != nil {
				return err
			}
		}
		debs, err := filepath.Glob(filepath.Join(out, "*.deb"))
		if err != nil || len(debs) != 1 {
			return fmt.Errorf("make packages left %q, want one .deb: %v", debs, err)
		}
		if err := os.Rename(debs[0], filepath.Join(dir, filepath.Base(debs[0]))); err != nil {
			return err
		}
		if err := os.RemoveAll(out); err != nil {
			return err
		}
	}
	return nil
}

func command(ctx context.Context, env []string, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append(os.Environ(), env...)
	// What a tool says is no verdict: standard output is for those.
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}
