SHELL := bash
.DEFAULT_GOAL := help

STREAM   ?= default
GROUP    ?= default
COMMAND  ?= cat
FUZZTIME ?= 20s
BENCHTIME ?= 1s
BENCHTIMEOUT ?= 10m

VERSION = $(shell git describe --always --dirty --tags 2>/dev/null || echo dev)
LINT    = go tool -modfile=.ci/tools/go.mod golangci-lint

# Stages of ci, in order, each with its budget in seconds: 25 minutes in all, and
# 10 s more each before what is left is killed. go test gives up a minute earlier
# than its stage, after integration/walk.sh with two minutes of it, so that a hang
# shows its stacks.
# Fuzz targets run their seeds in test and race.
CI_STAGES := lint:400 verify:60 test:270 race:330 bench:110 integration:330

# On a terminal timeout must stay in the foreground for Ctrl-C to reach the
# stage; elsewhere it owns a process group, and ends servers the tests started.
TIMEOUT = timeout $(shell [ -t 0 ] && echo --foreground) -k 10

.PHONY: help build test race integration bench fuzz lint fmt fmt-check verify ci \
	worker worker-verbose worker-check clean need-redis

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## Build bin/penstock, stamped with the version from git
	go build -trimpath -ldflags "-X main.version=$(VERSION)" -o bin/penstock ./cmd/penstock

need-redis:
	@if [ -z "$${PENSTOCK_TEST_REDIS:-}" ] && ! command -v redis-server >/dev/null && ! command -v valkey-server >/dev/null; then \
		echo "The tests need a Redis or Valkey server to start. Install one:"; \
		echo "  apt-get install redis-server   (Debian, Ubuntu)"; \
		echo "  brew install redis             (macOS)"; \
		echo "or set PENSTOCK_TEST_REDIS to the URL of a running one."; \
		exit 1; \
	fi >&2

test: need-redis ## Run the tests
	go test -timeout=210s ./...

race: need-redis ## Run the tests under the race detector
	go test -race -timeout=270s ./...

integration: need-redis ## Run integration/walk.sh, then the integration module's tests
	bash integration/walk.sh
	@if [ -f integration/go.mod ]; then set -x; go -C integration test -timeout=150s ./...; fi

bench: need-redis ## Run every benchmark for BENCHTIME (1s; in ci just once)
	go test -timeout=$(BENCHTIMEOUT) -run=^$$ -bench=. -benchmem -benchtime=$(BENCHTIME) ./...

fuzz: ## Run each fuzz target for FUZZTIME (20s)
	@set -euo pipefail; packages=$$(go list ./...); \
	for package in $$packages; do \
		listed=$$(go test -list '^Fuzz' $$package); \
		for target in $$(grep '^Fuzz' <<<"$$listed" || true); do \
			echo "$$package $$target"; \
			go test -run='^$$' -fuzz="^$$target$$" -fuzztime=$(FUZZTIME) $$package; \
		done; \
	done

lint: fmt-check ## Check formatting, go vet and golangci-lint
	go vet ./...
	$(LINT) run ./...

fmt: ## Format every Go file
	gofmt -w .

fmt-check:
	@files=$$(gofmt -l .) || exit 1; \
	if [ -n "$$files" ]; then printf 'not formatted, run make fmt:\n%s\n' "$$files" >&2; exit 1; fi

verify: fmt-check ## Check that go.mod is tidy, modules are unaltered, code is formatted
	go mod tidy -diff
	go mod verify

ci: ## Run lint, verify, test, race, bench and integration, each within its time budget
	@for stage in $(CI_STAGES); do \
		name=$${stage%:*} budget=$${stage#*:} start=$$SECONDS status=0; \
		echo "==> $$name (at most $${budget}s)"; \
		$(TIMEOUT) $$budget $(MAKE) --no-print-directory $$name BENCHTIME=1x BENCHTIMEOUT=50s || status=$$?; \
		took=$$((SECONDS - start)); \
		case $$status in \
			0) echo "<== $$name passed in $${took}s" ;; \
			124|137) echo "<== $$name ran out of its $${budget}s" >&2; exit 1 ;; \
			*) echo "<== $$name failed after $${took}s" >&2; exit 1 ;; \
		esac; \
	done

worker: build ## Run a worker on STREAM as GROUP: each job is COMMAND, with its data on standard input
	exec bin/penstock worker $(STREAM) --group $(GROUP) -- $(COMMAND)

worker-verbose: build ## The same, logging each job and what its command wrote
	exec bin/penstock worker $(STREAM) --group $(GROUP) -v -- $(COMMAND)

worker-check: build ## Check the settings and the Redis that a worker would use
	exec bin/penstock check

clean: ## Remove what build, test and bench leave behind
	rm -rf bin coverage.out
	find . -name .git -prune -o -type f \( -name '*.test' -o -name '*.prof' \) -exec rm -f {} +
