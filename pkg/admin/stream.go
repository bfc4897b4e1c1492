package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"sallyport/pkg/audit"
)

// The query parameters of flows and tail, beside those of the filter.
const (
	paramFollow = "follow"
	paramRecent = "recent"
)

// MaxRecent bounds the lines that tail gives before it follows.
const MaxRecent = 10000

// flowList is the answer of flows without follow.
type flowList struct {
	Flows []Flow `json:"flows"`
}

// flows lists the open flows; with follow=1 it then gives each flow that opens
// or closes, as JSON lines.
func (s *Server) flows(w http.ResponseWriter, r *http.Request) {
	filter, err := audit.ParseFilter(r.URL.Query(), time.Now())
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	follow := r.URL.Query().Get(paramFollow) != ""
	var sub *audit.Subscription
	if follow {
		// Before the list, so that nothing falls between.
		if sub, err = s.o.Backend.Follow(0); err != nil {
			fail(w, http.StatusServiceUnavailable, err)
			return
		}
		defer sub.Close()
	}
	all, err := s.o.Backend.Flows(r.Context())
	if err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	list := make([]Flow, 0, len(all))
	for i := range all {
		if wanted(&all[i], &filter) {
			list = append(list, all[i])
		}
	}
	if !follow {
		answer(w, http.StatusOK, flowList{Flows: list})
		return
	}
	out, err := s.newStream(w, r)
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	listed := make(map[uint64]struct{}, len(all))
	for i := range all {
		listed[all[i].ID] = struct{}{}
	}
	for i := range list {
		if out.encode(&list[i]) != nil {
			return
		}
	}
	out.run(r.Context(), sub, func(line audit.Line) error {
		if line.JSON == nil {
			return nil // the figures of a missed flow come with its close
		}
		var e audit.Event
		if audit.Decode(line.JSON, &e) != nil || e.Kind != audit.FlowOpen && e.Kind != audit.FlowClose {
			return nil
		}
		if _, known := listed[e.Flow]; known && e.Kind == audit.FlowOpen {
			delete(listed, e.Flow)
			return nil
		}
		if f := flowOf(&e); wanted(&f, &filter) {
			return out.encode(&f)
		}
		return nil
	})
}

// tail gives audit lines that were written: the newest ones, and with follow=1
// each that comes.
func (s *Server) tail(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	filter, err := audit.ParseFilter(query, time.Now())
	recent := 0
	if text := query.Get(paramRecent); err == nil && text != "" {
		recent, err = strconv.Atoi(text)
		if err == nil && (recent < 0 || recent > MaxRecent) {
			err = fmt.Errorf("%s is %d; at most %d lines are possible", paramRecent, recent, MaxRecent)
		}
	}
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	// The newest lines that pass the filter are wanted, so all are looked at.
	sub, err := s.o.Backend.Follow(MaxRecent)
	if err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	defer sub.Close()
	out, err := s.newStream(w, r)
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	pass := func(line audit.Line) bool {
		var e audit.Event
		return line.JSON != nil && audit.Decode(line.JSON, &e) == nil && filter.Match(&e)
	}
	var past [][]byte
	for {
		line, waiting := sub.Waiting()
		if !waiting {
			break
		}
		if pass(line) {
			past = append(past, line.JSON)
		}
	}
	for _, line := range past[max(0, len(past)-recent):] {
		if out.line(line) != nil {
			return
		}
	}
	if query.Get(paramFollow) == "" {
		return
	}
	out.run(r.Context(), sub, func(line audit.Line) error {
		if line.JSON == nil {
			return out.line(missed(line.Missed))
		}
		if pass(line) {
			return out.line(line.JSON)
		}
		return nil
	})
}

// missed is the notice in the place of lines that a slow client did not take.
// It has no id and no hash: it is not in the audit.
func missed(n uint64) []byte {
	b, _ := json.Marshal(struct { // strings and numbers always have a form
		Time    time.Time `json:"time"`
		Kind    string    `json:"kind"`
		Count   uint64    `json:"count"`
		Message string    `json:"message"`
	}{time.Now().UTC(), audit.Lifecycle.String(), n,
		fmt.Sprintf("%d events are not shown here: this client is too slow; they are in the audit file", n)})
	return b
}

// A stream writes JSON lines to a client that may be slow.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	// timeout of one write; heartbeat while there is nothing to say.
	timeout, heartbeat time.Duration
}

func (s *Server) newStream(w http.ResponseWriter, r *http.Request) (*stream, error) {
	if r.ContentLength != 0 {
		return nil, errors.New("a stream takes no body")
	}
	out := &stream{w: w, control: http.NewResponseController(w), timeout: s.streamTimeout, heartbeat: s.heartbeat}
	// The connection is read to notice that the client goes away, for as long as
	// it follows.
	if err := out.control.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	w.Header().Set("Content-Type", typeLines)
	w.Header().Set("Cache-Control", "no-store")
	return out, nil
}

// run hands lines to show until the client or the log goes away.
func (s *stream) run(ctx context.Context, sub *audit.Subscription, show func(audit.Line) error) {
	if s.flush() != nil {
		return
	}
	for {
		wait, cancel := context.WithTimeout(ctx, s.heartbeat)
		line, err := sub.Next(wait)
		cancel()
		switch {
		case err == nil:
			err = show(line)
			for err == nil { // what waits goes out with it
				var waiting bool
				if line, waiting = sub.Waiting(); !waiting {
					break
				}
				err = show(line)
			}
		case errors.Is(err, io.EOF) || ctx.Err() != nil:
			return
		default:
			err = s.line(nil)
		}
		if err != nil || s.flush() != nil {
			return
		}
	}
}

func (s *stream) encode(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.line(b)
}

func (s *stream) line(b []byte) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
		return err
	}
	if _, err := s.w.Write(b); err != nil {
		return err
	}
	_, err := s.w.Write(newline)
	return err
}

func (s *stream) flush() error {
	if err := s.control.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
		return err
	}
	return s.control.Flush()
}

var newline = []byte{'\n'}
