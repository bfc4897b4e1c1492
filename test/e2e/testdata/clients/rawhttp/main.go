// Command rawhttp sends requests byte for byte as they come. Standard input is
// a list of JSON objects {address, sni, requests: [text, …]}: one connection
// each, TLS where there is an sni; standard output is one JSON line for each
// request, in order.
package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

type conversation struct {
	Address, SNI string
	Requests     []string
}

type answer struct {
	Status int    `json:"status,omitempty"`
	Reason string `json:"reason,omitempty"`
	Text   string `json:"text,omitempty"`
	Error  string `json:"error,omitempty"`
}

func main() {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var c conversation
		if err := in.Decode(&c); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			out.Encode(answer{Error: err.Error()})
			os.Exit(2)
		}
		hold(c, out)
	}
}

func hold(c conversation, out *json.Encoder) {
	conn, err := dial(c)
	if err != nil {
		for range c.Requests {
			out.Encode(answer{Error: err.Error()})
		}
		return
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	for _, text := range c.Requests {
		a, err := ask(conn, r, text)
		if err != nil {
			a = answer{Error: err.Error()}
		}
		out.Encode(a)
	}
}

func dial(c conversation) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", c.Address, time.Minute)
	if err != nil || c.SNI == "" {
		return conn, err
	}
	conn.SetDeadline(time.Now().Add(time.Minute))
	t := tls.Client(conn, &tls.Config{ServerName: c.SNI, NextProtos: []string{"http/1.1"}})
	return t, t.Handshake()
}

func ask(conn net.Conn, r *bufio.Reader, text string) (answer, error) {
	conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, text); err != nil {
		return answer{}, err
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	return answer{Status: resp.StatusCode, Reason: resp.Header.Get("X-Sallyport-Reason"), Text: string(data[:min(len(data), 4096)])}, nil
}
