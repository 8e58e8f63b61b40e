# Everything is built with one profile and one set of flags, so that RocksDB (20 CPU-minutes) is compiled once.
# Setting RUSTFLAGS would override .cargo/config.toml and compile it again: don't.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/firn/target
export FIRN_NIX_DIR ?= $(HOME)/.cache/firn/nix
# cargo itself works too, and compiles RocksDB again for every other set of features.
CARGO := scripts/cargo
# Traces, and what their test needs; the features of everything that RocksDB needs stay as they are.
OTEL := firn-server/otel-test

.PHONY: help setup nix build test lint unit soak fuzz demo run bench fmt clean
.DEFAULT_GOAL := help

help: ## List what can be made
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1 \2/p' $(MAKEFILE_LIST) | awk '{ printf "  %-4s %-7s", $$1, $$2; $$1 = $$2 = ""; sub(/^ +/, ""); print }'

setup: ## Check for (as root: install) the system packages that the build needs
	@scripts/setup

nix: setup ## Unpack the Nix versions that the tests and the demo use
	@scripts/nix-for-tests

.PHONY: setup-tests
setup-tests: # What the tests need beside that: a browser
	@scripts/setup --tests

build: setup ## Build both programs, firnd and firn
	$(CARGO) build --release --locked --package firn-server --bin firnd --package firn-cli --bin firn

test: nix lint unit ## Run everything: format, lints, documentation, all tests, with real Nix

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --release --locked --workspace --all-targets --features $(OTEL) -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --workspace --no-deps

# Traces come first, so that what the other tests run is the usual program again. If they fail, the others run all the same.
unit: setup-tests nix build
	failed=0; \
	$(CARGO) test --release --locked --workspace --features $(OTEL) --test traces || failed=1; \
	FIRND=$(CARGO_TARGET_DIR)/release/firnd FIRN=$(CARGO_TARGET_DIR)/release/firn $(CARGO) test --release --locked --workspace --no-fail-fast || failed=1; \
	exit $$failed

# How many times longer than in `make test`: 20 are 3600 steps of the model, and 240 kills.
SOAK ?= 20
SOAK_ENV = FIRND=$(CARGO_TARGET_DIR)/release/firnd FIRN=$(CARGO_TARGET_DIR)/release/firn FIRN_SOAK=$(SOAK)

soak: nix build ## Run the model, the races, kills and flipped bytes for longer (SOAK=20 times, FIRN_SEED=0)
	$(SOAK_ENV) $(CARGO) test --release --locked --workspace --test suite -- model:: races:: bit_rot:: passes:: faults::
	$(SOAK_ENV) $(CARGO) test --release --locked --workspace --test kills --test crash

# How many seconds each target runs; TARGETS names some of them.
FUZZ ?= 60
fuzz: setup ## Fuzz everything that reads bytes of others (FUZZ=60 seconds a target, TARGETS="nar_decoder …")
	FUZZ=$(FUZZ) scripts/fuzz $(TARGETS)

demo: build ## Show the whole path with real Nix: build, upload, substitute, verify, sizes
	@scripts/nix-for-tests 2.26 >&2
	@scripts/demo

run: build ## Start a persistent server on ./data and print how to use it
	@scripts/run

bench: setup ## Run the benchmarks (ARGS="--help" says which)
	FIRND=$(CARGO_TARGET_DIR)/release/firnd $(CARGO) run --release --locked --package firn-benches -- $(ARGS)

fmt: ## Format the source
	$(CARGO) fmt --all

clean: ## Remove what was built (not ./data)
	$(CARGO) clean
