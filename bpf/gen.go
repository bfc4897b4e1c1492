// Package bpf holds the kernel programs: their C sources, the objects made of
// them, and the specification that a loader needs. It does nothing.
//
// The objects are committed, so that a build needs no clang; after a change of a
// source, `go generate ./bpf` makes them anew. The result depends on clang alone:
// the helpers are declared here and <asm/…> comes from include/.
package bpf

//go:generate go tool bpf2go -cc clang -strip llvm-strip -target amd64,arm64 -type sp_addr -type sp_endpoint -type sp_flow -type sp_tuple -type sp_asker_key -type sp_tag -type sp_listeners -type sp_config -type sp_share -type sp_direct_key -type sp_ranges -type sp_inbound_key -type sp_refusal_key -type sp_refusal -type sp_event Sallyport sallyport.c -- -O2 -g -Wall -Wextra -Werror -mcpu=v3 -Iinclude
