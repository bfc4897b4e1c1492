package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding/gzip"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// say sends the text in three ways and prints a line for each answer: the text
// that a server sent back, how much it sent in a stream, or the error.
func say(address, text string) {
	conn, err := dial(address, true)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	g := testpb.NewTestServiceClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	payload := &testpb.Payload{Body: []byte(text)}
	for _, opts := range [][]grpc.CallOption{nil, {grpc.UseCompressor(gzip.Name)}} {
		resp, err := g.UnaryCall(ctx, &testpb.SimpleRequest{ResponseSize: int32(len(text)), Payload: payload}, opts...)
		if err != nil {
			fmt.Printf("error %v\n", err)
			continue
		}
		fmt.Printf("%s\n", resp.Payload.GetBody())
	}
	stream, err := g.FullDuplexCall(ctx)
	if err != nil {
		fmt.Printf("error %v\n", err)
		return
	}
	for _, p := range []*testpb.Payload{{Body: []byte("first")}, payload} {
		if err := stream.Send(&testpb.StreamingOutputCallRequest{Payload: p, ResponseParameters: []*testpb.ResponseParameters{{Size: int32(len(p.Body))}}}); err != nil {
			break // Recv tells why
		}
		resp, err := stream.Recv()
		if err != nil {
			fmt.Printf("error %v\n", err)
			return
		}
		fmt.Printf("%d bytes\n", len(resp.Payload.GetBody()))
	}
}
