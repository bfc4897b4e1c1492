//go:build profile

package admin

import (
	"net/http"
	"net/http/pprof"
)

// addProfile serves the processor's profile (scripts/profile). A profile tells
// what the process does, and taking it costs: no binary for use has this tag.
func addProfile(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
}
