package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/audit"
)

// ErrBadRequest: the question itself is wrong; answered 400.
var ErrBadRequest = errors.New("bad request")

// The paths of the API. A later version gets another prefix.
const (
	pathStatus  = "/v1/status"
	pathFlows   = "/v1/flows"
	pathTail    = "/v1/tail"
	pathReload  = "/v1/reload"
	pathExplain = "/v1/explain"
	pathPurge   = "/v1/cache/purge"
	pathMetrics = "/metrics"
	pathHealthy = "/healthz"
	pathReady   = "/readyz"
)

const (
	typeJSON  = "application/json"
	typeLines = "application/x-ndjson"
	typeText  = "text/plain; charset=utf-8"
)

// A failure is the body of an answer that is no success.
type failure struct {
	Error string `json:"error"`
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathStatus, s.status)
	mux.HandleFunc("GET "+pathFlows, s.flows)
	mux.HandleFunc("GET "+pathTail, s.tail)
	mux.HandleFunc("POST "+pathReload, s.reload)
	mux.HandleFunc("POST "+pathExplain, s.explain)
	mux.HandleFunc("POST "+pathPurge, s.purge)
	mux.HandleFunc("GET "+pathHealthy, healthy)
	mux.HandleFunc("GET "+pathReady, ready(s.o.Backend.Ready))
	if s.o.Metrics != nil {
		mux.Handle("GET "+pathMetrics, s.o.Metrics)
	}
	return s.guarded(mux)
}

// guarded lets only those through who may read, and bounds every answer in
// time; streams take their bounds themselves.
func (s *Server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		now := time.Now()
		if err := errors.Join(control.SetReadDeadline(now.Add(bodyTimeout)), control.SetWriteDeadline(now.Add(answerTimeout))); err != nil {
			return
		}
		c := r.Context().Value(connKey{}).(*client)
		err := c.check(&s.o.Access)
		if err == nil {
			err = s.o.Access.mayRead(c.conn.peer)
		}
		if err != nil {
			s.refuse(w, r, c.conn.peer, err)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		next.ServeHTTP(w, r)
	})
}

func (s *Server) refuse(w http.ResponseWriter, r *http.Request, p *Peer, err error) {
	s.o.Log.Warn("admin request refused", zap.String("path", r.URL.Path), zap.Int("pid", p.PID), zap.Uint32("uid", p.UID), zap.Error(err))
	if n := s.refused.due(time.Now()); n > 0 {
		s.record(&audit.Event{
			Kind: audit.Admin, Verdict: "deny", Count: n,
			Workload: audit.Workload{PID: uint32(p.PID), UID: p.UID},
			Message:  r.Method + " " + r.URL.Path + ": " + err.Error(),
		})
	}
	w.Header().Set("Connection", "close")
	fail(w, http.StatusForbidden, err)
}

func (s *Server) record(e *audit.Event) {
	if s.o.Record != nil {
		s.o.Record(e)
	}
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	status, err := s.o.Backend.Status(r.Context())
	if err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	// Lists are [] and never null: a script may count them.
	if status.Workloads == nil {
		status.Workloads = []Workload{}
	}
	if status.Problems == nil {
		status.Problems = []string{}
	}
	if status.Pinned == nil {
		status.Pinned = []Pinned{}
	}
	if status.Maps == nil {
		status.Maps = map[string]Fill{}
	}
	answer(w, http.StatusOK, status)
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	peer := r.Context().Value(connKey{}).(*client).conn.peer
	if err := s.o.Access.mayChange(peer); err != nil {
		s.refuse(w, r, peer, err)
		return
	}
	result, err := s.o.Backend.Reload(r.Context())
	event := audit.Event{
		Kind: audit.Admin, Verdict: "allow",
		Workload: audit.Workload{PID: uint32(peer.PID), UID: peer.UID},
	}
	switch {
	case err != nil:
		event.Message = "reload failed: " + err.Error()
		fail(w, http.StatusInternalServerError, err)
	case len(result.Errors) > 0:
		event.Message = fmt.Sprintf("reload changed nothing: %s", result.Errors[0])
		answer(w, http.StatusUnprocessableEntity, result)
	default:
		event.Message = "reload: configuration " + result.Hash
		result.Errors = []string{}
		answer(w, http.StatusOK, result)
	}
	s.record(&event)
}

func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	var q ExplainRequest
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("the body is no question: %w", err))
		return
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		fail(w, http.StatusBadRequest, errors.New("something follows the question"))
		return
	}
	e, err := s.o.Backend.Explain(r.Context(), &q)
	switch {
	case errors.Is(err, ErrBadRequest):
		fail(w, http.StatusBadRequest, err)
	case err != nil:
		fail(w, http.StatusInternalServerError, err)
	default:
		if e.Steps == nil {
			e.Steps = []Step{}
		}
		answer(w, http.StatusOK, e)
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", typeJSON)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}

func fail(w http.ResponseWriter, status int, err error) {
	b, _ := json.Marshal(failure{Error: err.Error()}) // a string always has a form
	w.Header().Set("Content-Type", typeJSON)
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}
