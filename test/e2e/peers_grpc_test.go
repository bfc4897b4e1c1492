package e2e

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // the server answers in the client's encoding
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A grpcPeer is grpc-go's server with the service of its own interoperability
// tests, and counters that tell what it noticed.
type grpcPeer struct {
	testpb.UnimplementedTestServiceServer
	// cancelled counts calls that were given up, slowSent the messages of the
	// last call with the metadatum x-slow.
	cancelled, slowSent, refused atomic.Int64
}

// serveGRPC starts the server with TLS, without, and one that ends each of its
// connections soon.
func (n *internet) serveGRPC() *grpcPeer {
	n.t.Helper()
	g := &grpcPeer{}
	secure := grpc.Creds(credentials.NewTLS(&tls.Config{GetCertificate: n.ca.Certificate}))
	big := grpc.MaxRecvMsgSize(16 << 20)
	for port, opts := range map[string][]grpc.ServerOption{
		portGRPC:     {big, secure},
		portGRPCText: {big},
		portGRPCOld:  {big, secure, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 200 * time.Millisecond, MaxConnectionAgeGrace: 10 * time.Second})},
	} {
		server := grpc.NewServer(opts...)
		testpb.RegisterTestServiceServer(server, g)
		var ln net.Listener
		inNetns(n.t, n.ns, func() { ln = n.listen(":" + port) })
		go server.Serve(ln)
		n.t.Cleanup(server.Stop)
	}
	return g
}

func (g *grpcPeer) payload(seed, size int) *testpb.Payload {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(seed + i*31)
	}
	return &testpb.Payload{Body: b}
}

func (g *grpcPeer) EmptyCall(ctx context.Context, _ *testpb.Empty) (*testpb.Empty, error) {
	grpc.SetHeader(ctx, metadata.Pairs("x-cancelled", strconv.FormatInt(g.cancelled.Load(), 10), "x-slow-sent", strconv.FormatInt(g.slowSent.Load(), 10)))
	return &testpb.Empty{}, nil
}

func (g *grpcPeer) UnaryCall(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	grpc.SetHeader(ctx, metadata.MD{"x-echo": md["x-echo"]})
	grpc.SetTrailer(ctx, metadata.MD{"x-echo-bin": md["x-echo-bin"]})
	if e := req.ResponseStatus; e != nil && e.Code != 0 {
		s := status.New(codes.Code(e.Code), e.Message)
		if len(md["x-details"]) > 0 {
			s, _ = s.WithDetails(&errdetails.ErrorInfo{Reason: "DETAIL", Domain: "example.com"})
		}
		return nil, s.Err()
	}
	if b := req.Payload.GetBody(); len(b) == int(req.ResponseSize) {
		return &testpb.SimpleResponse{Payload: &testpb.Payload{Body: b}}, nil
	}
	return &testpb.SimpleResponse{Payload: g.payload(0, int(req.ResponseSize))}, nil
}

func (g *grpcPeer) UnimplementedCall(context.Context, *testpb.Empty) (*testpb.Empty, error) {
	g.refused.Add(1)
	return &testpb.Empty{}, nil
}

func (g *grpcPeer) StreamingInputCall(s grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
	total := 0
	for i := 0; ; i++ {
		m, err := s.Recv()
		if err == io.EOF {
			return s.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(total)})
		}
		if err != nil {
			return err
		}
		b := m.Payload.Body
		for j := range b {
			if b[j] != byte(i+j*31) {
				return status.Errorf(codes.DataLoss, "byte %d of message %d", j, i)
			}
		}
		total += len(b)
	}
}

func (g *grpcPeer) StreamingOutputCall(req *testpb.StreamingOutputCallRequest, s grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	md, _ := metadata.FromIncomingContext(s.Context())
	slow := len(md["x-slow"]) > 0
	for i, p := range req.ResponseParameters {
		if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: g.payload(i, int(p.Size))}); err != nil {
			g.cancelled.Add(1)
			return err
		}
		if slow {
			g.slowSent.Store(int64(i + 1))
		}
	}
	return nil
}

func (g *grpcPeer) FullDuplexCall(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	for {
		m, err := s.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			g.cancelled.Add(1)
			return err
		}
		if e := m.ResponseStatus; e != nil {
			return status.Error(codes.Code(e.Code), e.Message)
		}
		for i, p := range m.ResponseParameters {
			select {
			case <-time.After(time.Duration(p.IntervalUs) * time.Microsecond):
			case <-s.Context().Done():
				g.cancelled.Add(1)
				return s.Context().Err()
			}
			if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: g.payload(i, int(p.Size))}); err != nil {
				return err
			}
		}
	}
}

// tryGRPC: grpc-go on both sides, with TLS and without.
func (s *street) tryGRPC() {
	s.wantHTTP2()
	server := s.net.serveGRPC()
	client := s.peerProgram("goclient")
	s.checks(20, nil, client, "grpc", "grpc.example.com:"+portGRPC, "tls")
	s.checks(20, nil, client, "grpc", "grpc.example.com:"+portGRPCText, "text")
	s.checks(8, nil, client, "goaway", "grpc.example.com:"+portGRPCOld)
	if n := server.refused.Load(); n != 0 {
		s.t.Errorf("the server saw %d calls that the policy refused", n)
	}
	for _, e := range s.exchanges("/grpc.testing.TestService/") {
		switch {
		case e.HTTP.Version != "2" || e.HTTP.Method != "POST":
			s.t.Errorf("audit: %+v", e)
		case e.HTTP.Path == "/grpc.testing.TestService/UnimplementedCall" && (e.Verdict != "deny" || e.Reason != "rule_denied" || e.Rule != "secrets" || e.HTTP.Status != 200):
			s.t.Errorf("audit of a refused call: %+v", e)
		case e.HTTP.Path != "/grpc.testing.TestService/UnimplementedCall" && e.Verdict != "allow":
			s.t.Errorf("audit of an allowed call: %+v", e)
		}
	}
}

// tryNetHTTP: Go's own client.
func (s *street) tryNetHTTP() {
	client := s.peerProgram("goclient")
	s.checks(20, nil, client, "http", "https://go.example.com:"+portTLSOne, "HTTP/1.1")
	s.checks(19, nil, client, "http", "http://go.example.com:"+portClear, "HTTP/1.1")
	s.wantHTTP2()
	s.checks(20, nil, client, "http", "https://go.example.com:"+portTLS, "HTTP/2.0")
	s.checks(20, nil, client, "http", "http://go.example.com:"+portClear, "h2c")
}
