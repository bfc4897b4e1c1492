package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"sallyport/pkg/audit"
	"sallyport/pkg/audit/journald"
	"sallyport/pkg/audit/syslog"
	"sallyport/pkg/config"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/wire"
)

// sinks are where the audit goes. The sockets of the journal and of a syslog on
// this host are connected by the worker itself: anybody may write to them.
type sinks struct {
	// file is nil where the configuration names none.
	file *audit.FileSink
	rest []io.Closer
}

func (w *worker) openAudit() error {
	c := w.config.Load().config.Audit
	var all []audit.Sink
	for _, name := range c.Sinks {
		switch name {
		case config.SinkFile:
			if w.files.audit == nil {
				return errors.New("start: the audit's descriptor is missing")
			}
			file, err := audit.NewFileSink(audit.FileSinkOptions{
				File: w.files.audit, Torn: w.args.AuditTorn, MaxSize: int64(c.File.MaxSize), Rotator: &rotator{w.keeper},
			})
			if err != nil {
				return err
			}
			w.sinks.file = file
			// The first one goes on with the chain, and is followed.
			all = append([]audit.Sink{file}, all...)
		case config.SinkJournald:
			s := journald.New(journald.Socket)
			all, w.sinks.rest = append(all, s), append(w.sinks.rest, s)
		case config.SinkSyslog:
			s := syslog.New(syslog.Options{Network: c.Syslog.Address.Network, Address: c.Syslog.Address.Address, Facility: c.Syslog.Facility.Code()})
			all, w.sinks.rest = append(all, s), append(w.sinks.rest, s)
		}
	}
	if len(all) == 0 {
		return errors.New("start: the audit has no sink")
	}
	onFailure := audit.Block
	if c.OnFailure == config.FailContinue {
		onFailure = audit.Continue
	}
	o := audit.Options{Sink: all[0], Beside: all[1:], OnFailure: onFailure}
	if w.sinks.file != nil {
		o.End = w.args.AuditEnd
	}
	var err error
	w.audit, err = audit.New(o)
	return err
}

// trouble is what does not keep events from the file but should be known.
func (s *sinks) trouble() error {
	if s.file == nil {
		return nil
	}
	return s.file.Trouble()
}

func (s *sinks) close() error {
	var errs []error
	if s.file != nil {
		errs = append(errs, s.file.Close())
	}
	for _, c := range s.rest {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// rotator asks the keeper for the next audit file.
type rotator struct{ keeper *wire.Peer }

func (r *rotator) Rotate(ctx context.Context) (*os.File, error) { return r.ask(ctx, protocol.Rotate) }
func (r *rotator) Reopen(ctx context.Context) (*os.File, error) { return r.ask(ctx, protocol.Reopen) }

func (r *rotator) ask(ctx context.Context, method string) (*os.File, error) {
	files, err := r.keeper.Call(ctx, method, nil, nil, nil)
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		for _, f := range files {
			f.Close()
		}
		return nil, fmt.Errorf("%s: %d descriptors, want 1", method, len(files))
	}
	return files[0], nil
}
