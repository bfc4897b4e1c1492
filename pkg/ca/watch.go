package ca

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	// settle waits for the end of a burst of changes; settleMax bounds the wait,
	// so that the workloads follow within a second.
	settle    = 100 * time.Millisecond
	settleMax = 500 * time.Millisecond
	// rescan finds what no notice told: a limit of inotify, a link that points
	// elsewhere now.
	rescan = time.Minute
	// rescanBlind is the same where nothing can be watched.
	rescanBlind = 2 * time.Second
	// retry follows a Build that found no bundle or could not write.
	retry = 300 * time.Millisecond
)

// maxWatches bounds the directories watched.
const maxWatches = 1024

// Run keeps the directories current until ctx ends, then returns nil. It starts
// with a Build, so that no change since the last one is missed. What goes wrong
// is logged and tried again: a stale directory is better than none.
func (t *Trust) Run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	every := rescan
	var events chan fsnotify.Event
	var errs chan error
	if err != nil {
		t.log.Warn("certificate directories cannot be watched; they are read every few seconds", zap.Error(err))
		every = rescanBlind
	} else {
		defer watcher.Close()
		events, errs = watcher.Events, watcher.Errors
	}

	timer := time.NewTimer(0)
	defer timer.Stop()
	var pendingSince time.Time
	var tops []string
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, ok := <-events:
			if !ok {
				return errors.New("watch of certificate directories ended")
			}
			// The parents have other children.
			if !slices.ContainsFunc(tops, func(top string) bool { _, in := within(top, event.Name); return in }) {
				continue
			}
			now := time.Now()
			if pendingSince.IsZero() {
				pendingSince = now
			}
			timer.Reset(max(0, min(settle, pendingSince.Add(settleMax).Sub(now))))
		case err := <-errs:
			// An overflow lost notices.
			t.log.Warn("watch of certificate directories", zap.Error(err))
			timer.Reset(settle)
		case <-timer.C:
			pendingSince = time.Time{}
			if watcher != nil {
				tops = t.watch(watcher)
			}
			timer.Reset(t.rebuild(every))
		}
	}
}

// rebuild gives the time until the next one if nothing changes.
func (t *Trust) rebuild(every time.Duration) time.Duration {
	err := t.Build()
	if err != nil {
		t.log.Error("trust directory could not be updated", zap.Error(err))
		return retry
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rootless {
		return retry // in the middle of an update, or not for long at this cost
	}
	return every
}

// watch adds the host's directories as they are now; those watched already stay
// so. The parents are watched for a directory that is replaced as a whole. It
// gives the directories whose changes matter.
func (t *Trust) watch(watcher *fsnotify.Watcher) (tops []string) {
	budget := maxWatches - len(watcher.WatchList())
	add := func(dir string) {
		if budget--; budget < 0 {
			return
		}
		if err := watcher.Add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.log.Warn("directory not watched", zap.String("path", dir), zap.Error(err))
		}
	}
	for _, place := range t.host.places() {
		top := t.host.real(place)
		tops = append(tops, top)
		add(filepath.Dir(top))
		err := filepath.WalkDir(top, func(p string, entry fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if entry.IsDir() {
				add(p)
			}
			return nil
		})
		if err != nil {
			t.log.Warn("directory not watched", zap.String("path", top), zap.Error(err))
		}
	}
	return tops
}

// openPlain opens a file of the user's choice without waiting for the other end
// of a pipe.
func openPlain(p string) (*os.File, error) {
	f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	return f, nil
}
