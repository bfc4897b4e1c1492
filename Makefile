# sallyport: build, test, measure, show. Targets that touch the kernel need root.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build
# sudo resets PATH; Go's own installer puts it here.
export PATH := $(PATH):/usr/local/go/bin
export CGO_ENABLED := 0
# Go keeps what it has built there; a service manager may not set it.
export HOME ?= $(shell getent passwd $$(id -u) | cut -d: -f6)
# What proves something has the machine to itself, whatever -j says.
.NOTPARALLEL:

VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)
# The entry point notes the signals that the caller ignores or blocks before Go's
# runtime changes them: exec hands them on (pkg/confine/entry_*.s).
GO_LDFLAGS := -s -w -E _rt0_sallyport -X main.version=$(VERSION)
SOURCES := $(shell find cmd pkg bpf systemd -name '*.go' -o -name '*.o' -o -name '*.json' -o -name '*.pgo' -o -path 'systemd/*' -type f) go.mod go.sum

.PHONY: help packages build generate drift test test-vm vm unit e2e lint fuzz bench profile redirected soak demo clean setup setup-test setup-demo

# Only scripts/profile has another place, and more to tell go build.
BINARY := bin/sallyport
GO_BUILDFLAGS :=

build: setup $(BINARY) ## the binary, bin/sallyport

# go build takes cmd/sallyport/default.pgo by itself.
$(BINARY): $(SOURCES)
	go build -trimpath $(GO_BUILDFLAGS) -ldflags='$(GO_LDFLAGS)' -o $@ ./cmd/sallyport

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## what building needs, installed where it is missing
	@scripts/setup build

setup-test:
	@scripts/setup test

setup-demo:
	@scripts/setup demo

generate: ## BPF objects, their Go bindings, the JSON Schema and its reference
	@scripts/setup generate
	go generate ./...

# Changes that are not committed yet are no drift: what counts is whether
# generating changes anything.
drift: ## fails when what is generated is not what the sources give
	@before=$$(git diff -- bpf pkg docs systemd | sha256sum); $(MAKE) --no-print-directory generate; \
	if [ "$$before" != "$$(git diff -- bpf pkg docs systemd | sha256sum)" ]; then \
		git diff --stat -- bpf pkg docs systemd >&2; echo "make generate has changed the files above: commit them" >&2; exit 1; fi

test: setup-test build lint drift unit e2e test-vm ## everything that proves something

# A package with a profile has all that it uses compiled anew for it, which
# changes nothing of what these look at.
unit lint: export GOFLAGS += -pgo=off

# Property tests (pgregory.net/rapid) draw the same each time here, so that what
# fails is what a change did; make fuzz draws anew. Another RAPID_SEED by hand
# needs go test -count=1: Go does not see that a cached result had another seed.
unit: export RAPID_SEED ?= 1

unit: bin/nfpm ## packages, with the seeds of the fuzz targets, on the real kernel
	go test ./bpf/... ./cmd/... ./pkg/... ./systemd/... ./test/architecture/... ./test/bench/... ./test/monitoring/... ./test/port/... ./test/outside/...

e2e: bin/sallyport ## real clients against the real binary on the real kernel
	go test -count=1 -timeout=20m ./test/e2e/...
	go test -count=1 -timeout=10m ./test/bypass/...

test-vm: build ## real Debian machines with systemd, one for each kernel, in qemu
	@scripts/setup vm
	go run ./test/vm -short

vm: build ## the same, with each row on every kernel
	@scripts/setup vm
	go run ./test/vm

lint: bin/staticcheck ## gofmt, go vet, staticcheck
	@unformatted=$$(git ls-files '*.go' | xargs gofmt -l); if [ -n "$$unformatted" ]; then echo "not gofmt-clean: $$unformatted" >&2; exit 1; fi
	go vet ./...
	go vet -tags=profile ./pkg/admin
	bin/staticcheck ./...
	bin/staticcheck -tags=profile ./pkg/admin

bin/staticcheck: scripts/tools/go.mod
	go -C scripts/tools build -o $(CURDIR)/$@ honnef.co/go/tools/cmd/staticcheck

FUZZTIME ?= 60s
FUZZCHECKS ?= 10000
fuzz: ## each property FUZZCHECKS times with a new seed, each fuzz target for FUZZTIME
	scripts/fuzz $(FUZZTIME) $(FUZZCHECKS)

bench: setup-test build ## what it costs beside others in the same run, each with its bar; exit 1 if one is missed
	scripts/bench

profile: setup-test ## a new cmd/sallyport/default.pgo, by which go build optimises
	scripts/profile

DIST ?= dist
packages: export GO_LDFLAGS := $(GO_LDFLAGS)
packages: setup bin/nfpm ## .deb and .rpm for amd64 and arm64, into DIST; BINARY=F packs that one
	@scripts/packages '$(VERSION)' '$(DIST)' $(if $(filter-out bin/sallyport,$(BINARY)),'$(BINARY)')

bin/nfpm: scripts/tools/go.mod
	go -C scripts/tools build -o $(CURDIR)/$@ github.com/goreleaser/nfpm/v2/cmd/nfpm

redirected: setup-test build ## 60,000 connections through a host without cgroup BPF; tests make a tenth of them
	SALLYPORT_CONNECTIONS=20000 go test -count=1 -v -timeout=30m -run='^TestRedirectedConnections$$' ./test/e2e

SOAKTIME ?= 10m
soak: setup-test build ## 2,000 mixed connections for SOAKTIME; nothing is lost, wrong or left behind
	scripts/soak $(SOAKTIME)

demo: setup-demo build ## the product in one screen
	test/demo/run

clean: ## removes what was built
	rm -rf bin dist
