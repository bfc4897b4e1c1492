// Command nethttp does METHOD URL BODY triples with net/http's default client;
// one JSON line for each.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
)

type answer struct {
	Status int    `json:"status,omitempty"`
	Reason string `json:"reason,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	Text   string `json:"text,omitempty"`
	Error  string `json:"error,omitempty"`
}

func main() {
	out := json.NewEncoder(os.Stdout)
	for args := os.Args[1:]; len(args) >= 3; args = args[3:] {
		a, err := do(args[0], args[1], args[2])
		if err != nil {
			a = answer{Error: err.Error()}
		}
		out.Encode(a)
	}
}

func do(method, url, body string) (answer, error) {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, url, r)
	if err != nil {
		return answer{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	sum := sha256.Sum256(data)
	return answer{
		Status: resp.StatusCode, Reason: resp.Header.Get("X-Sallyport-Reason"),
		SHA256: hex.EncodeToString(sum[:]), Text: string(data[:min(len(data), 4096)]),
	}, nil
}
