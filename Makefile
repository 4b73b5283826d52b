# xdptcp: `make help` lists the targets.

GO        ?= go
CLANG     := 19
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
BENCH     := userspace/bench
C_FILES   := $(wildcard bpf/*.c bpf/*.h bpf/testdata/*.c bpf/testdata/*.h vmtest/flood/*.c)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/xdptcp (needs Go alone: the BPF objects are committed)
	@mkdir -p bin
	$(GO) build -trimpath -ldflags "-X main.version=$(VERSION)" -o bin/xdptcp ./cmd/xdptcp

.PHONY: demo
demo: build ## show a handshake in a lab of network namespaces (as root)
	./bin/xdptcp demo --once

.PHONY: demo-stay
demo-stay: build ## the same, and keep the lab until Ctrl-C
	./bin/xdptcp demo

.PHONY: test
test: deps lint generate-check unit e2e bench-check kernels ## everything CI runs (as root)

.PHONY: deps
deps: ## install what the tests need and this machine lacks (apt)
	@vmtest/deps.sh

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, clang-format
	@test -z "$$(gofmt -l .)" || { echo "gofmt -w these:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	cd $(BENCH) && $(GO) vet ./... && $(GO) run $(STATICCHECK) ./...
	clang-format-$(CLANG) --dry-run --Werror $(C_FILES)

.PHONY: format
format: ## format Go and C in place
	gofmt -w .
	clang-format-$(CLANG) -i $(C_FILES)

.PHONY: generate
generate: ## compile the BPF programs (*.o and their Go side)
	$(GO) generate ./bpf ./vmtest/flood

.PHONY: generate-check
generate-check: ## fail if the committed BPF objects are not what their source gives
	@vmtest/generate-check.sh

.PHONY: unit
unit: ## unit tests and packet tests of the XDP program, with the race detector
	$(GO) test -race -timeout 10m $$($(GO) list ./... | grep -v '/vmtest$$')

.PHONY: e2e
e2e: ## end-to-end tests in network namespaces, with the race detector
	$(GO) test -race -timeout 15m ./vmtest

.PHONY: kernels
kernels: ## packet tests on Debian's 6.1 and 6.12 kernels, in QEMU
	@vmtest/kernels.sh

# The BPF object of xdp_synproxy, which the benchmarks compare with; RIVAL= for none.
RIVAL = $$(vmtest/rivals.sh)

.PHONY: bench
bench: ## nanoseconds per packet, net of the harness: the XDP program, and beside it xdp_synproxy's (RIVAL= without)
	rival="$(RIVAL)" && $(GO) test -run '^$$' -bench '^BenchmarkXDP$$' ./bpf $${rival:+-args -rival "$$rival"}

.PHONY: bench-flood
bench-flood: build ## a SYN flood, live in a lab: answers, and honest clients beside it (as root; RIVAL= without SYNPROXYs)
	rival="$(RIVAL)" && ./bin/xdptcp bench flood --rival kernel $${rival:+--rival synproxy --rival "xdp_synproxy=$$rival"}

.PHONY: bench-engine
bench-engine: ## the engine beside gVisor's netstack and the kernel, over veth (as root, three minutes); ARGS=-help
	cd $(BENCH) && $(GO) build -o ../../bin/bench . && cd ../.. && ./bin/bench $(ARGS)

.PHONY: bench-check
bench-check: ## that bench-engine works: a moment of each of its figures (as root)
	cd $(BENCH) && $(GO) test -timeout 5m ./...

.PHONY: clean
clean: ## remove what build made
	rm -rf bin
