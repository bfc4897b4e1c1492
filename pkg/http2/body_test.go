package http2

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"sallyport/pkg/exchange"
)

// withBody runs f on the body of a request that the peer sends by send.
func withBody(t *testing.T, send func(p *peer), f func(b exchange.Body, p *peer)) {
	t.Helper()
	got, done := make(chan exchange.Body), make(chan struct{})
	p, _, _ := clientPeer(t, ServerOptions{}, func(s *ServerStream) {
		got <- s.Exchange().Request.Body
		<-done
		reply(s, 200, "")
	})
	p.post(1)
	send(p)
	p.sync()
	defer close(done)
	f(<-got, p)
}

func TestBody(t *testing.T) {
	hello := func(p *peer) { p.WriteData(1, true, []byte("hello")) }
	t.Run("short ones start anew", func(t *testing.T) {
		withBody(t, hello, func(b exchange.Body, p *peer) {
			for range 3 {
				all, err := io.ReadAll(b)
				if string(all) != "hello" || err != nil || b.Transferred() != 5 || !b.Complete() {
					t.Error(string(all), err, b.Transferred())
				}
				if !b.Rewind() || b.Transferred() != 0 {
					t.Fatal("cannot start anew")
				}
			}
			q, last := b.Buffered()
			if string(q) != "hello" || !last {
				t.Error(string(q), last)
			}
			b.Discard(2)
			if q, last = b.Buffered(); string(q) != "llo" || !last {
				t.Error(string(q), last)
			}
			b.Discard(3)
			if q, last = b.Buffered(); len(q) != 0 || !last {
				t.Error(string(q), last)
			}
		})
	})
	t.Run("long ones do not", func(t *testing.T) {
		data := bytes.Repeat([]byte("0123456789"), 4000)
		send := func(p *peer) {
			for i := 0; i < len(data); i += 10000 {
				p.WriteData(1, i+10000 == len(data), data[i:i+10000])
			}
		}
		withBody(t, send, func(b exchange.Body, p *peer) {
			b.Read(make([]byte, 1000))
			if !b.Rewind() {
				t.Error("nothing was dropped yet")
			}
			all, err := io.ReadAll(b)
			if !bytes.Equal(all, data) || err != nil {
				t.Error(len(all), err)
			}
			if b.Rewind() {
				t.Error("it starts anew without its begin")
			}
		})
	})
	t.Run("rewinding credits nothing twice", func(t *testing.T) {
		send := func(p *peer) { p.WriteData(1, false, make([]byte, 16000)) }
		withBody(t, send, func(b exchange.Body, p *peer) {
			for range 10 {
				io.ReadFull(b, make([]byte, 16000))
				b.Rewind()
			}
			p.WritePing(false, [8]byte{})
			if f := p.frame(); f != "pong" {
				t.Error(f)
			}
		})
	})
	t.Run("a full chunk that was read makes room", func(t *testing.T) {
		withBody(t, func(p *peer) { p.WriteData(1, false, make([]byte, 16384)) }, func(b exchange.Body, p *peer) {
			io.ReadFull(b, make([]byte, 16384))
			p.WriteData(1, true, []byte("more"))
			p.sync()
			if q, last := b.Buffered(); string(q) != "more" || !last {
				t.Error(string(q), last)
			}
			if all, err := io.ReadAll(b); string(all) != "more" || err != nil {
				t.Error(string(all), err)
			}
		})
	})
	t.Run("interrupt", func(t *testing.T) {
		withBody(t, func(p *peer) { p.WriteData(1, false, []byte("part")) }, func(b exchange.Body, p *peer) {
			time.AfterFunc(20*time.Millisecond, b.Interrupt)
			all, err := io.ReadAll(b)
			if string(all) != "part" || !errors.Is(err, exchange.ErrInterrupted) || b.Complete() {
				t.Error(string(all), err)
			}
		})
	})
	t.Run("waiting holds no memory", func(t *testing.T) {
		var codec *Codec
		withBody(t, func(p *peer) { p.WriteData(1, false, []byte("event")) }, func(b exchange.Body, p *peer) {
			codec = b.(*body).s.c.codec
			b.Read(make([]byte, 10))
			read := make(chan struct{})
			go func() { b.Read(make([]byte, 10)); close(read) }()
			waitFor(t, func() bool { return codec.Usage().Held == 0 })
			p.WriteData(1, true, []byte("event"))
			<-read // a body is good until handle returns
		})
	})
	t.Run("reset behind content", func(t *testing.T) {
		send := func(p *peer) { p.WriteData(1, false, []byte("part")); p.WriteRSTStream(1, xhttp2.ErrCodeCancel) }
		withBody(t, send, func(b exchange.Body, p *peer) {
			var reset *ResetError
			all, err := io.ReadAll(b)
			if string(all) != "part" || !errors.As(err, &reset) || b.Complete() {
				t.Error(string(all), err)
			}
		})
	})
}

// TestRefusedRequestIsSentAgain sends a request with a body anew, on another
// stream, after the first one was refused.
func TestRefusedRequestIsSentAgain(t *testing.T) {
	p, cc, _ := serverPeer(t, ClientOptions{})
	g := &gate{upstream: cc}
	retried := make(chan error, 1)
	a, b := tcpPair(t)
	srv := g.codec.Server(a, ServerOptions{Exchanges: &g.exchanges})
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(t.Context(), func(s *ServerStream) {
			x := s.Exchange()
			for range 2 {
				cs, err := cc.Open()
				if err != nil {
					t.Error(err)
					return
				}
				err = cs.RoundTrip(&x.Request, &x.Response, exchange.Options{})
				var trip *exchange.RoundTripError
				if errors.As(err, &trip) && trip.Replayable && trip.Unprocessed {
					cs.Finish(&x.Request)
					continue
				}
				if err == nil {
					s.WriteResponse(&x.Request, &x.Response)
				}
				cs.Finish(&x.Request)
				retried <- err
			}
		})
		srv.Close()
	}()
	t.Cleanup(func() { b.Close(); <-done })
	client := newPeer(t, b)
	io.WriteString(b, preface)
	client.WriteSettings()
	// Head and content come together.
	var out bytes.Buffer
	f := xhttp2.NewFramer(&out, nil)
	f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: client.block(append(postFields[:8:8], "content-length", "5")...), EndHeaders: true})
	f.WriteData(1, true, []byte("hello"))
	b.Write(out.Bytes())
	head := " :method=POST :scheme=https :authority=a.test :path=/post content-length=5"
	p.want("headers 1"+head, "data 1 5 end")
	p.WriteRSTStream(1, xhttp2.ErrCodeRefusedStream)
	p.want("headers 3"+head, "data 3 5 end")
	p.status(3, true, "200")
	client.want("headers 1 :status=200 end")
	if err := <-retried; err != nil {
		t.Error(err)
	}
}

func TestBucket(t *testing.T) {
	var b bucket
	b.since = time.Now()
	for i := range 10 {
		if b.take(limit{10, 0}) {
			t.Fatal(i)
		}
	}
	if !b.take(limit{10, 0}) {
		t.Error("the eleventh of ten")
	}
	b.give(5)
	if b.take(limit{10, 0}) {
		t.Error("earned")
	}
	b.n, b.since = 10, time.Now().Add(-time.Second)
	if b.take(limit{10, 5}) || b.n > 7 {
		t.Error("a second earns five", b.n)
	}
}

func TestCodes(t *testing.T) {
	if s := Code(13).String() + " " + Code(99).String(); s != "HTTP_1_1_REQUIRED code 99" {
		t.Error(s)
	}
	for cause := range causes {
		if cause.String() == "" {
			t.Errorf("cause %d has no name", cause)
		}
	}
}
