//go:build !profile

package admin

import "net/http"

func addProfile(*http.ServeMux) {}
