package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A row is a shell script that runs inside. Its head says, in comments,
//
//	# kernels: 6.1 newest      on which it runs; all that a tagged host may have if absent
//	# short: 6.1              of those, the ones on which -short runs it, or none; all if absent
//	# timeout: 90s             after which it has failed; 60s if absent
//	# needs: package           dist's packages of two versions in /opt/vm/packages
//	# needs: attacker          test/bypass's program, linked statically, as /opt/vm/bin/attacker
//	# needs: keep              test/e2e's, which keeps a socket from outside, as /opt/vm/bin/keep
//	# needs: ./pkg/datapath    that package's tests, compiled, as /opt/vm/bin/pkg-datapath.test
type row struct {
	Name    string
	File    string // on this host
	Kernels []string
	Short   []string
	Timeout time.Duration
	Needs   []string
}

var (
	rowName = regexp.MustCompile(`^(?:[0-9]+-)?([a-z0-9-]+)\.sh$`)
	rowHead = regexp.MustCompile(`^# (kernels|short|timeout|needs): (.+)$`)
)

// readRows reads the heads of a directory's rows, in the order of their file
// names, which is the order in which they run.
func readRows(dir string) ([]row, error) {
	files, err := filepath.Glob(filepath.Join(dir, "[0-9]*.sh"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var rows []row
	for _, f := range files {
		r, err := readRow(f)
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func readRow(file string) (row, error) {
	name := rowName.FindStringSubmatch(filepath.Base(file))
	if name == nil {
		return row{}, fmt.Errorf("%s: a row's file is named NN-name.sh", file)
	}
	r := row{Name: name[1], File: file, Kernels: []string{"6.1", "6.12", "newest"}, Timeout: time.Minute}
	f, err := os.Open(file)
	if err != nil {
		return row{}, err
	}
	defer f.Close()
	head := bufio.NewScanner(f)
	for head.Scan() && strings.HasPrefix(head.Text(), "#") {
		m := rowHead.FindStringSubmatch(head.Text())
		if m == nil {
			continue
		}
		switch m[1] {
		case "kernels":
			if r.Kernels, err = kernelsOf(m[2]); err != nil {
				return row{}, fmt.Errorf("%s: %w", file, err)
			}
		case "short":
			if r.Short, err = kernelsOf(m[2]); err != nil {
				return row{}, fmt.Errorf("%s: %w", file, err)
			}
		case "timeout":
			if r.Timeout, err = time.ParseDuration(m[2]); err != nil {
				return row{}, fmt.Errorf("%s: %w", file, err)
			}
		case "needs":
			r.Needs = append(r.Needs, strings.Fields(m[2])...)
		}
	}
	if r.Short == nil {
		r.Short = r.Kernels
	}
	if err := head.Err(); err != nil {
		return row{}, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// kernelsOf reads a list of kernels, or the word none.
func kernelsOf(list string) ([]string, error) {
	if list == "none" {
		return []string{}, nil
	}
	names := strings.Fields(list)
	for _, k := range names {
		if !slices.Contains(kernels, k) {
			return nil, fmt.Errorf("no kernel %s: there are %s", k, strings.Join(kernels, ", "))
		}
	}
	return names, nil
}

// choose gives the rows for a kernel whose names match.
func choose(rows []row, kernel string, names *regexp.Regexp, short bool) []row {
	var chosen []row
	for _, r := range rows {
		if slices.Contains(r.Kernels, kernel) && (!short || slices.Contains(r.Short, kernel)) && names.MatchString(r.Name) {
			chosen = append(chosen, r)
		}
	}
	return chosen
}

// story is the file name with which the rows begin that tell of one host, each
// where the one before left it.
const story = "50-"

// apart gives the rows that tell of one host, and those that stand for themselves.
func apart(rows []row) (told, others []row) {
	at := slices.IndexFunc(rows, func(r row) bool { return filepath.Base(r.File) >= story })
	if at < 0 {
		at = len(rows)
	}
	return rows[at:], rows[:at]
}
