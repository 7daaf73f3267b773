# Everything a developer types. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

.PHONY: help demo test setup lint unit upgrade model planted web fmt openapi load push bench bench-peers chaos guarantees deny

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

demo: ## Try it: everything in one process, with a simulated cluster
	cargo run --release -- demo

test: setup lint unit web ## Install what is missing, then run every check and every test

setup:
	@scripts/setup.sh

lint: ## Formatting and lints; warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

unit: setup ## Unit, contract, multi-process and browser tests
	PREVIOUS_MILEPOST="$$(scripts/previous.sh)" cargo test --workspace --locked

upgrade: setup ## A rolling upgrade from the commit before, and back, under load
	PREVIOUS_MILEPOST="$$(scripts/previous.sh)" cargo test --locked --test it faults::upgrade

model: ## Interleavings of crashes, lost replies and late writes over the memory backends (PROPTEST_CASES=50000 for a long run)
	cargo test --locked --test it -- --nocapture model::

planted: setup ## Plant each known bug and demand that a test notices it; takes some minutes
	@scripts/planted.sh

web: setup ## Unit tests of the dashboard's modules, and of what judges and counts in loadtest/peers
	node --test web/tests/*.test.js loadtest/peers/tests/*.test.js

fmt: ## Format
	cargo fmt --all

openapi: ## Write docs/openapi.json anew after a change of the API
	MILEPOST_UPDATE=1 cargo test --locked --lib openapi

load: setup ## Load figures into loadtest/results/: make load SCENARIOS="progress burst" (see loadtest/README.md)
	cargo build --release --workspace --locked
	target/release/milepost-loadtest run $(or $(SCENARIOS),progress) --modes memory,redis,postgres,postgres-poll

bench-peers: setup ## BullMQ, Docket, Socket.IO, nchan and Milepost on the same work, into loadtest/results/peers.md (see loadtest/peers/README.md)
	loadtest/peers/setup.sh
	cargo build --release --locked
	node loadtest/peers/bench.js $(WORKS) --rounds $(or $(ROUNDS),5)

push: setup ## What an event and a socket cost a gateway, into loadtest/results/gateway.md: make push PARTS="crowd few fanout storm"
	cargo build --release --workspace --locked
	target/release/milepost-loadtest push $(PARTS)

bench: setup ## Time the hot parts alone: make bench ONLY=frame
	cargo bench --locked --bench hot --bench backends -- $(ONLY)

chaos: setup ## A random mix of faults under load: make chaos DURATION=600 SEED=7
	cargo build --workspace --locked
	target/debug/milepost-chaos run --duration $(or $(DURATION),600) --seed $(or $(SEED),7)

guarantees: setup ## Measure the figures of docs/guarantees.md and write them there
	cargo build --workspace --locked
	target/debug/milepost-chaos guarantees

deny: ## Licences, duplicate and banned crates (needs cargo-deny)
	cargo deny --all-features check bans licenses sources
