package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"sallyport/pkg/audit"
)

// paramRule names the rule whose cache is purged; absent: all.
const paramRule = "rule"

// Purged is the answer of `cache purge`.
type Purged struct {
	// Entries is how many stored responses were dropped, Bytes what they took.
	Entries int   `json:"entries"`
	Bytes   int64 `json:"bytes"`
}

func (s *Server) purge(w http.ResponseWriter, r *http.Request) {
	peer := r.Context().Value(connKey{}).(*client).conn.peer
	if err := s.o.Access.mayChange(peer); err != nil {
		s.refuse(w, r, peer, err)
		return
	}
	rule := r.URL.Query().Get(paramRule)
	purged, err := s.o.Backend.PurgeCache(r.Context(), rule)
	switch {
	case errors.Is(err, ErrBadRequest):
		fail(w, http.StatusBadRequest, err)
		return
	case err != nil:
		fail(w, http.StatusInternalServerError, err)
		return
	}
	of := ""
	if rule != "" {
		of = " of rule " + rule
	}
	s.record(&audit.Event{
		Kind: audit.Admin, Verdict: "allow",
		Workload: audit.Workload{PID: uint32(peer.PID), UID: peer.UID},
		Message:  fmt.Sprintf("cache purge%s: %d responses, %d bytes", of, purged.Entries, purged.Bytes),
	})
	answer(w, http.StatusOK, purged)
}

// PurgeCache drops what a rule's cache has stored, "" for every rule; an unknown
// rule gives ErrBadRequest.
func (c *Client) PurgeCache(ctx context.Context, rule string) (*Purged, error) {
	query := url.Values{}
	if rule != "" {
		query.Set(paramRule, rule)
	}
	var p Purged
	return &p, c.ask(ctx, http.MethodPost, pathPurge, query, nil, &p)
}
