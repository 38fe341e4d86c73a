SHELL := bash
.DEFAULT_GOAL := help

STREAM   ?= default
GROUP    ?= default
COMMAND  ?= cat
FUZZTIME ?= 20s
BENCHTIME ?= 1s
BENCHTIMEOUT ?= 10m
FOR      ?= 75s
SEED     ?=
RATE     ?= 18
ROWS     ?=
BASE     ?=
COUNT    ?= 10
BENCH    ?= .

VERSION = $(shell git describe --always --dirty --tags 2>/dev/null || echo dev)
LINT    = go tool -modfile=$(CURDIR)/.ci/tools/go.mod golangci-lint

# Stages of ci, in order, each with its budget in seconds, which no run needs all of; and
# 10 s more before what is left of the one that ran out is killed. go test gives
# up earlier than its stage, so that a hang shows its stacks.
# Fuzz targets run their seeds in test and race.
CI_STAGES := lint:480 verify:40 test:360 race:600 microbench:120 integration:700 mutants:600

# On a terminal timeout must stay in the foreground for Ctrl-C to reach the
# stage; elsewhere it owns a process group, and ends servers the tests started.
TIMEOUT = timeout $(shell [ -t 0 ] && echo --foreground) -k 10

.PHONY: help build test race integration kill mutants bench perf microbench compare fuzz lint fmt fmt-check verify ci \
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
	go test -p 1 -parallel=6 -timeout=240s ./...

race: need-redis ## Run the tests under the race detector
	go test -race -p 1 -parallel=4 -timeout=540s ./...

integration: need-redis ## Run integration/walk.sh, then the integration module's tests
	bash integration/walk.sh
	go -C integration test -count=1 -timeout=480s ./...

kill: need-redis ## Kill, freeze and restart a fleet under load for FOR (75s), by the plan that SEED makes
	mkdir -p bin
	go -C integration test ./kill -run='^TestKill$$' -count=1 -v -timeout=0 -artifacts -outputdir=$(CURDIR)/bin \
		-for=$(FOR) -rate=$(RATE) $(if $(SEED),-seed=$(SEED))

mutants: need-redis ## Break the engine in one place at a time: a test must notice each
	go -C integration run ./mutants

bench: ## Measure ROWS (all): targets, other job engines, and what grows; some 20 minutes on an idle machine
	go -C integration run ./perf $(ROWS)

perf: ## The same, written into docs/PERFORMANCE.md
	go -C integration run ./perf --page ../docs/PERFORMANCE.md

microbench: need-redis ## Run every Go benchmark for BENCHTIME (1s; in ci just once)
	go test -timeout=$(BENCHTIMEOUT) -run=^$$ -bench=. -benchmem -benchtime=$(BENCHTIME) ./...

compare: need-redis ## Run the Go benchmarks (BENCH) of commit BASE and of this in turns, COUNT (10) times, and compare
	.ci/compare "$(BASE)" $(COUNT) '$(BENCH)'

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
	go -C integration vet ./...
	cd integration && $(LINT) run --config ../.golangci.yml ./...

fmt: ## Format every Go file
	gofmt -w .

fmt-check:
	@files=$$(gofmt -l .) || exit 1; \
	if [ -n "$$files" ]; then printf 'not formatted, run make fmt:\n%s\n' "$$files" >&2; exit 1; fi

verify: fmt-check ## Check that go.mod of both modules is tidy, modules are unaltered, code is formatted
	go mod tidy -diff
	go mod verify
	go -C integration mod tidy -diff
	go -C integration mod verify

ci: ## Run lint, verify, test, race, microbench, integration and mutants, each within its time budget
	@for stage in $(CI_STAGES); do \
		name=$${stage%:*} budget=$${stage#*:} start=$$SECONDS status=0; \
		echo "==> $$name (at most $${budget}s)"; \
		$(TIMEOUT) $$budget $(MAKE) --no-print-directory $$name BENCHTIME=1x BENCHTIMEOUT=60s || status=$$?; \
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
