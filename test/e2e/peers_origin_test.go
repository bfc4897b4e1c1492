package e2e

import (
	"compress/gzip"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Ports of the peers' origins. 443 and 80 are the harness's own.
const (
	portTLS      = "9443" // HTTP/2 and HTTP/1.1, as the client likes
	portTLSOne   = "9444" // HTTP/1.1 only
	portClear    = "9080" // HTTP/1.1, and HTTP/2 by prior knowledge
	portNginx    = "9445"
	portNghttpd  = "9446"
	portGRPC     = "9447"
	portGRPCText = "9087" // gRPC without TLS
	portGRPCOld  = "9452" // gRPC, connections do not live long
	portSockets  = "9448" // WebSocket of Node's ws
	portTwoSocks = "9453" // WebSocket in streams of HTTP/2
	portMCP      = "9449"
	portGoMCP    = "9450"
	portGit      = "9451"
)

// A peerOrigin is a server of net/http with everything that clients stumble
// over. Its bodies are newStream(1), so that both ends know them.
type peerOrigin struct {
	// cancelled counts the requests to /wait that their client gave up.
	cancelled atomic.Int64
	// versions counts requests by protocol version, HTTP/1.1 and HTTP/2.
	one, two atomic.Int64
}

func (n *internet) servePeerOrigin() *peerOrigin {
	n.t.Helper()
	o := &peerOrigin{}
	server := &http.Server{Handler: o.mux()}
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	inNetns(n.t, n.ns, func() {
		go server.Serve(n.listen(":" + portClear))
		go server.Serve(tls.NewListener(n.listen(":"+portTLS), &tls.Config{GetCertificate: n.ca.Certificate, NextProtos: []string{"h2", "http/1.1"}}))
		go server.Serve(tls.NewListener(n.listen(":"+portTLSOne), &tls.Config{GetCertificate: n.ca.Certificate, NextProtos: []string{"http/1.1"}}))
	})
	n.t.Cleanup(func() { server.Close() })
	return o
}

func (o *peerOrigin) mux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/sum", answerSum)
	mux.HandleFunc("/echo", answerEcho)
	mux.HandleFunc("/bytes/{count}", answerBytes)
	mux.HandleFunc("/early", func(w http.ResponseWriter, r *http.Request) {
		// The body is neither read nor refused.
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, "early")
	})
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.PathValue("code"))
		w.WriteHeader(code)
	})
	mux.HandleFunc("/hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		io.WriteString(w, "after hints")
	})
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) {
		w.Header()["X-Twice"] = []string{"one", "two"}
		w.Header().Set("X-Empty", "")
		w.Header().Set("X-Long", strings.Repeat("v", 6000))
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.Header().Set("Alt-Svc", `h3=":443"`)
		json.NewEncoder(w).Encode(map[string]any{"cookie": r.Header.Get("Cookie"), "x-many": r.Header["X-Many"], "te": r.Header.Get("Te"), "long": len(r.Header.Get("X-Long"))})
	})
	mux.HandleFunc("/gzip", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		io.CopyN(z, newStream(1), 300_000)
		z.Close()
	})
	mux.HandleFunc("/range", func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 100_000)
		io.ReadFull(newStream(1), b)
		w.Header().Set("ETag", `"one"`)
		http.ServeContent(w, r, "file.bin", time.Unix(1_700_000_000, 0), strings.NewReader(string(b)))
	})
	mux.HandleFunc("/events", answerEvents)
	mux.HandleFunc("/drip", func(w http.ResponseWriter, r *http.Request) {
		for i := range 5 {
			fmt.Fprintf(w, "drop %d\n", i)
			http.NewResponseController(w).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	})
	mux.HandleFunc("/wait", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
			o.cancelled.Add(1)
		case <-time.After(20 * time.Second):
		}
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, r *http.Request) {
		io.CopyN(w, newStream(1), 50_000)
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // never looks like an end
	})
	mux.HandleFunc("/cancelled", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, o.cancelled.Load()) })
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/sum", http.StatusTemporaryRedirect)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 {
			o.two.Add(1)
		} else {
			o.one.Add(1)
		}
		mux.ServeHTTP(w, r)
	})
}

// answerSum tells what arrived.
func answerSum(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	size, err := io.Copy(sum, r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	trailer := map[string]string{}
	for name := range r.Trailer {
		trailer[name] = r.Trailer.Get(name)
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{
		"sha256": hex.EncodeToString(sum.Sum(nil)), "bytes": size, "length": r.ContentLength, "method": r.Method,
		"proto": r.Proto, "host": r.Host, "path": r.URL.RequestURI(), "trailer": trailer, "expect": r.Header.Get("Expect"),
	})
}

// answerEcho gives the body back while it is still coming, and its sum in a
// trailer.
func answerEcho(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	rc.EnableFullDuplex()
	w.Header().Set("Trailer", "X-Sum")
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(http.StatusOK)
	rc.Flush()
	sum, buf := sha256.New(), make([]byte, 16<<10)
	for {
		k, err := r.Body.Read(buf)
		sum.Write(buf[:k])
		if k > 0 {
			if _, werr := w.Write(buf[:k]); werr != nil {
				return
			}
			rc.Flush()
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	w.Header().Set("X-Sum", hex.EncodeToString(sum.Sum(nil)))
}

// answerBytes sends so many bytes: with their length, or without when asked
// for ?chunked; then a trailer has the sum.
func answerBytes(w http.ResponseWriter, r *http.Request) {
	count, err := strconv.ParseInt(r.PathValue("count"), 10, 64)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if !r.URL.Query().Has("chunked") {
		w.Header().Set("Content-Length", strconv.FormatInt(count, 10))
		if r.Method != "HEAD" {
			io.CopyN(w, newStream(1), count)
		}
		return
	}
	w.Header().Set("Trailer", "X-Sum")
	sum := sha256.New()
	io.CopyN(io.MultiWriter(w, sum), newStream(1), count)
	w.Header().Set("X-Sum", hex.EncodeToString(sum.Sum(nil)))
}

// answerEvents is a stream of server-sent events: ?count of them, ?every
// milliseconds apart, numbered on from Last-Event-ID. It then ends, which makes
// a client come back; at the last one it says 204, which makes it stop.
func answerEvents(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	count, _ := strconv.Atoi(q.Get("count"))
	every, _ := strconv.Atoi(q.Get("every"))
	total, _ := strconv.Atoi(q.Get("total"))
	last, _ := strconv.Atoi(r.Header.Get("Last-Event-ID"))
	if total > 0 && last >= total {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	rc := http.NewResponseController(w)
	fmt.Fprint(w, "retry: 10\n\n")
	rc.Flush()
	for i := last + 1; i <= last+count && (total == 0 || i <= total); i++ {
		fmt.Fprintf(w, "id: %d\nevent: tick\ndata: {\"number\":%d,\"sent\":%d}\ndata: second line\n\n", i, i, time.Now().UnixMicro())
		if rc.Flush() != nil {
			return
		}
		time.Sleep(time.Duration(every) * time.Millisecond)
	}
}

// streamSum is the sum of the first bytes of newStream(1).
func streamSum(count int64) string {
	sum := sha256.New()
	io.CopyN(sum, newStream(1), count)
	return hex.EncodeToString(sum.Sum(nil))
}
