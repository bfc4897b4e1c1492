package main
import "context"
func runInternet(ctx context.Context, args []string) error { return nil }
func runLoad(ctx context.Context, args []string) error { return nil }
