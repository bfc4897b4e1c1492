package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"
)

// configSettle is how long the files must be quiet before they are read:
// editors and configuration management write in several steps.
const configSettle = 200 * time.Millisecond

// watchConfig applies the configuration when its files change. Directories are
// watched, not files: an editor's rename would end a watch of the file.
func (k *Keeper) watchConfig(ctx context.Context) error {
	if k.options.ConfigPath == "" || k.options.Standalone {
		<-ctx.Done()
		return nil
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch the configuration: %w", err)
	}
	defer w.Close()
	dir := filepath.Dir(k.options.ConfigPath)
	drop := filepath.Join(dir, "conf.d")
	if err := w.Add(dir); err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	if err := w.Add(drop); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("watch %s: %w", drop, err)
	}
	quiet := time.NewTimer(time.Hour)
	quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.Events:
			if !ok {
				return errors.New("watch of the configuration ended")
			}
			if e.Name == drop && e.Has(fsnotify.Create) {
				if err := w.Add(drop); err != nil {
					k.log.Warn("watch conf.d", zap.Error(err))
				}
			}
			if e.Name == k.options.ConfigPath || e.Name == drop || filepath.Dir(e.Name) == drop && filepath.Ext(e.Name) == ".yaml" {
				quiet.Reset(configSettle)
			}
		case err := <-w.Errors:
			// An overflow loses names: read the files to be sure.
			k.log.Warn("watch of the configuration", zap.Error(err))
			quiet.Reset(configSettle)
		case <-quiet.C:
			// Its errors are in the log, the status and the audit.
			_ = k.Reload()
		}
	}
}
