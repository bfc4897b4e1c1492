package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func dial(address string, secure bool) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if secure {
		creds = credentials.NewTLS(&tls.Config{})
	}
	return grpc.NewClient(address, grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
}

// payload is size bytes that depend on seed.
func payload(seed, size int) *testpb.Payload {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(seed + i*31)
	}
	return &testpb.Payload{Body: b}
}

func (r *report) grpc(address string, secure bool) {
	conn, err := dial(address, secure)
	if err != nil {
		r.check("dial", func() error { return err })
		return
	}
	defer conn.Close()
	g := &grpcClient{testpb.NewTestServiceClient(conn), conn}
	for _, c := range []struct {
		name string
		f    func(context.Context) error
	}{
		{"empty", func(ctx context.Context) error { _, err := g.EmptyCall(ctx, &testpb.Empty{}); return err }},
		{"unary", func(ctx context.Context) error { return g.unary(ctx, 1, 314159) }},
		{"unary-big", func(ctx context.Context) error { return g.unary(ctx, 2, 8<<20) }},
		{"unary-gzip", func(ctx context.Context) error { return g.unary(ctx, 3, 100_000, grpc.UseCompressor(gzip.Name)) }},
		{"client-stream", g.clientStream},
		{"server-stream", g.serverStream},
		{"ping-pong", g.pingPong},
		{"empty-stream", g.emptyStream},
		{"server-ends-first", g.serverEndsFirst},
		{"metadata", g.metadata},
		{"status-details", g.statusDetails},
		{"status-message", g.statusMessage},
		{"unimplemented", g.unimplemented},
		{"deadline", g.deadline},
		{"cancel", g.cancel},
		{"cancel-stream", g.cancelStream},
		{"slow-consumer", g.slowConsumer},
		{"concurrent", g.concurrent},
		{"refused", g.refused},
		{"refused-stream", g.refusedStream},
		{"after-refusal", func(ctx context.Context) error { return g.unary(ctx, 4, 1000) }},
	} {
		r.check(c.name, func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			return c.f(ctx)
		})
	}
}

type grpcClient struct {
	testpb.TestServiceClient
	conn *grpc.ClientConn
}

func (g *grpcClient) unary(ctx context.Context, seed, size int, opts ...grpc.CallOption) error {
	want := payload(seed, size)
	resp, err := g.UnaryCall(ctx, &testpb.SimpleRequest{ResponseSize: int32(size), Payload: want}, opts...)
	if err != nil {
		return err
	}
	if !bytes.Equal(resp.Payload.Body, want.Body) {
		return fmt.Errorf("another payload of %d bytes", len(resp.Payload.Body))
	}
	return nil
}

func (g *grpcClient) clientStream(ctx context.Context) error {
	s, err := g.StreamingInputCall(ctx)
	if err != nil {
		return err
	}
	total := 0
	for i := range 100 {
		size := i * 997
		total += size
		if err := s.Send(&testpb.StreamingInputCallRequest{Payload: payload(i, size)}); err != nil {
			return err
		}
	}
	resp, err := s.CloseAndRecv()
	if err != nil || int(resp.AggregatedPayloadSize) != total {
		return fmt.Errorf("%v of %d: %v", resp, total, err)
	}
	return nil
}

func (g *grpcClient) serverStream(ctx context.Context) error {
	req := &testpb.StreamingOutputCallRequest{}
	for i := range 100 {
		req.ResponseParameters = append(req.ResponseParameters, &testpb.ResponseParameters{Size: int32(i * 997)})
	}
	s, err := g.StreamingOutputCall(ctx, req)
	if err != nil {
		return err
	}
	for i := range 100 {
		m, err := s.Recv()
		if err != nil || !bytes.Equal(m.Payload.Body, payload(i, i*997).Body) {
			return fmt.Errorf("message %d: %v", i, err)
		}
	}
	if _, err := s.Recv(); err != io.EOF {
		return fmt.Errorf("end: %v", err)
	}
	return nil
}

func (g *grpcClient) pingPong(ctx context.Context) error {
	s, err := g.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for i := range 200 {
		size := (i * 7919) % 30_000
		if err := s.Send(&testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: int32(size)}}, Payload: payload(i, 10)}); err != nil {
			return err
		}
		if m, err := s.Recv(); err != nil || len(m.Payload.Body) != size {
			return fmt.Errorf("ball %d: %v", i, err)
		}
	}
	s.CloseSend()
	if _, err := s.Recv(); err != io.EOF {
		return fmt.Errorf("end: %v", err)
	}
	return nil
}

func (g *grpcClient) emptyStream(ctx context.Context) error {
	s, err := g.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	s.CloseSend()
	if _, err := s.Recv(); err != io.EOF {
		return fmt.Errorf("end: %v", err)
	}
	return nil
}

// serverEndsFirst: the status comes while this side has not ended its own.
func (g *grpcClient) serverEndsFirst(ctx context.Context) error {
	s, err := g.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	if err := s.Send(&testpb.StreamingOutputCallRequest{ResponseStatus: &testpb.EchoStatus{Code: int32(codes.Aborted), Message: "enough"}}); err != nil {
		return err
	}
	if _, err := s.Recv(); status.Code(err) != codes.Aborted || status.Convert(err).Message() != "enough" {
		return fmt.Errorf("end: %v", err)
	}
	return nil
}

func (g *grpcClient) metadata(ctx context.Context) error {
	long, binary := strings.Repeat("m", 5000), string([]byte{0, 1, 2, 254, 255})
	ctx = metadata.AppendToOutgoingContext(ctx, "x-echo", "first", "x-echo", long, "x-echo-bin", binary)
	var head, trail metadata.MD
	if _, err := g.UnaryCall(ctx, &testpb.SimpleRequest{ResponseSize: 1}, grpc.Header(&head), grpc.Trailer(&trail)); err != nil {
		return err
	}
	if h := head["x-echo"]; len(h) != 2 || h[0] != "first" || h[1] != long || len(trail["x-echo-bin"]) != 1 || trail["x-echo-bin"][0] != binary {
		return fmt.Errorf("header %d, trailer %q", len(head["x-echo"]), trail)
	}
	return nil
}

func (g *grpcClient) statusDetails(ctx context.Context) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "x-details", "yes")
	_, err := g.UnaryCall(ctx, &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: int32(codes.FailedPrecondition), Message: "not so"}})
	s := status.Convert(err)
	if s.Code() != codes.FailedPrecondition || s.Message() != "not so" || len(s.Details()) != 1 {
		return fmt.Errorf("%v with %d details", err, len(s.Details()))
	}
	if d, ok := s.Details()[0].(*errdetails.ErrorInfo); !ok || d.Reason != "DETAIL" {
		return fmt.Errorf("detail %v", s.Details()[0])
	}
	return nil
}

func (g *grpcClient) statusMessage(ctx context.Context) error {
	const text = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
	_, err := g.UnaryCall(ctx, &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: int32(codes.Unknown), Message: text}})
	if status.Code(err) != codes.Unknown || status.Convert(err).Message() != text {
		return fmt.Errorf("%q", status.Convert(err).Message())
	}
	return nil
}

func (g *grpcClient) unimplemented(ctx context.Context) error {
	err := g.conn.Invoke(ctx, "/grpc.testing.UnimplementedService/Call", &testpb.Empty{}, &testpb.Empty{})
	return wantCode(err, codes.Unimplemented)
}

func wantCode(err error, want codes.Code) error {
	if status.Code(err) != want {
		return fmt.Errorf("%v, want %v", err, want)
	}
	return nil
}

// deadline: grpc-timeout reaches the server, and the client is not kept.
func (g *grpcClient) deadline(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	// It may be over before the call is under way.
	s, err := g.FullDuplexCall(ctx)
	if err == nil {
		s.Send(&testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: 1, IntervalUs: 10_000_000}}})
		_, err = s.Recv()
	}
	return wantCode(err, codes.DeadlineExceeded)
}

// gone waits until the server has noticed one more call that was given up.
func (g *grpcClient) gone(ctx context.Context, do func() error) error {
	before, err := g.figure(ctx, "x-cancelled")
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	for range 2000 {
		if after, err := g.figure(ctx, "x-cancelled"); err != nil || after > before {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("the server has not noticed that the call is over")
}

// figure asks the server for one of its counters.
func (g *grpcClient) figure(ctx context.Context, name string) (n int, err error) {
	var head metadata.MD
	if _, err := g.EmptyCall(ctx, &testpb.Empty{}, grpc.Header(&head)); err != nil {
		return 0, err
	}
	if v := head[name]; len(v) == 1 {
		_, err = fmt.Sscan(v[0], &n)
		return n, err
	}
	return 0, fmt.Errorf("no %s in %v", name, head)
}

func (g *grpcClient) cancel(ctx context.Context) error {
	return g.gone(ctx, func() error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s, err := g.FullDuplexCall(ctx)
		if err != nil {
			return err
		}
		s.Send(&testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: 10}}})
		if _, err := s.Recv(); err != nil {
			return err
		}
		cancel()
		_, err = s.Recv()
		return wantCode(err, codes.Canceled)
	})
}

func (g *grpcClient) cancelStream(ctx context.Context) error {
	return g.gone(ctx, func() error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s, err := g.StreamingOutputCall(ctx, endless(1000))
		if err != nil {
			return err
		}
		for range 10 {
			if _, err := s.Recv(); err != nil {
				return err
			}
		}
		cancel()
		for err == nil {
			_, err = s.Recv()
		}
		return wantCode(err, codes.Canceled)
	})
}

// endless asks for 1,000 messages of 64 KiB.
func endless(n int) *testpb.StreamingOutputCallRequest {
	req := &testpb.StreamingOutputCallRequest{}
	for range n {
		req.ResponseParameters = append(req.ResponseParameters, &testpb.ResponseParameters{Size: 64 << 10})
	}
	return req
}

// slowConsumer: who does not read holds up the server, not the gate's memory
// and not the other calls.
func (g *grpcClient) slowConsumer(ctx context.Context) error {
	const messages = 640 // 40 MiB
	s, err := g.StreamingOutputCall(metadata.AppendToOutgoingContext(ctx, "x-slow", "yes"), endless(messages))
	if err != nil {
		return err
	}
	if _, err := s.Recv(); err != nil {
		return err
	}
	last := -1
	for same := 0; same < 10; {
		if err := g.unary(ctx, 5, 100_000); err != nil {
			return fmt.Errorf("beside a stalled stream: %w", err)
		}
		sent, err := g.figure(ctx, "x-slow-sent")
		if err != nil {
			return err
		}
		if same++; sent != last {
			same, last = 0, sent
		}
		time.Sleep(10 * time.Millisecond)
	}
	if last > messages/4 {
		return fmt.Errorf("the server could send %d of %d messages to a client that read one", last, messages)
	}
	for i := 1; i < messages; i++ {
		if m, err := s.Recv(); err != nil || !bytes.Equal(m.Payload.Body, payload(i, 64<<10).Body) {
			return fmt.Errorf("message %d: %v", i, err)
		}
	}
	if _, err := s.Recv(); err != io.EOF {
		return fmt.Errorf("end: %v", err)
	}
	return nil
}

func (g *grpcClient) concurrent(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make(chan error, 300)
	for i := range 300 {
		wg.Go(func() {
			var err error
			switch i % 10 {
			case 0:
				err = g.pingPong(ctx)
			case 1:
				err = g.serverStream(ctx)
			case 2:
				err = g.clientStream(ctx)
			default:
				err = g.unary(ctx, i, 100*i)
			}
			if err != nil {
				errs <- fmt.Errorf("call %d: %w", i, err)
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// refused: a policy's no has grpc's own shape.
func (g *grpcClient) refused(ctx context.Context) error {
	_, err := g.UnimplementedCall(ctx, &testpb.Empty{})
	if s := status.Convert(err); s.Code() != codes.PermissionDenied || !strings.Contains(s.Message(), "secrets") {
		return fmt.Errorf("%v, want PermissionDenied with the rule", err)
	}
	return nil
}

func (g *grpcClient) refusedStream(ctx context.Context) error {
	s, err := g.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/any.Service/Secret")
	if err != nil {
		return wantCode(err, codes.PermissionDenied)
	}
	for range 20 {
		if err = s.SendMsg(&testpb.SimpleRequest{Payload: payload(1, 60_000)}); err != nil {
			break
		}
	}
	return wantCode(s.RecvMsg(&testpb.Empty{}), codes.PermissionDenied)
}

// goaway makes calls through connections that their server ends all the time;
// none of them may fail (RFC 9113 section 6.8).
func (r *report) goaway(address string) {
	conn, err := dial(address, true)
	if err != nil {
		r.check("dial", func() error { return err })
		return
	}
	defer conn.Close()
	g := &grpcClient{testpb.NewTestServiceClient(conn), conn}
	var wg sync.WaitGroup
	until := time.Now().Add(1500 * time.Millisecond)
	for worker := range 8 {
		wg.Go(func() {
			r.check(fmt.Sprintf("goaway-%d", worker), func() error {
				for i := 0; time.Now().Before(until); i++ {
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					err := g.unary(ctx, i, 1000+i)
					cancel()
					if err != nil {
						return fmt.Errorf("call %d: %w", i, err)
					}
				}
				return nil
			})
		})
	}
	wg.Wait()
}
