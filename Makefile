# Every target is one line of what it runs; `make help` is made from the comments behind the colons.
.DEFAULT_GOAL := help
.PHONY: help demo test test-fast lint fmt clippy doc generated generate bench figures scale absence fuzz versions mesh mesh-down clean
CARGO ?= cargo
# Every program of the project. With a test beside them, crates have the features that `make test` gives them, so
# that nothing is compiled twice.
BUILD := $(CARGO) build --workspace --bins --test docs
PROGRAMS := $(or $(CARGO_TARGET_DIR),target)/debug

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Show it on a real mesh on this machine (root; KEEP=1 leaves the mesh running)
	@$(BUILD)
	@$(PROGRAMS)/demo

test: ## Run every test: unit, property, golden, docs, and the real mesh (root; says what it skips without)
	$(CARGO) test --workspace
	@[ "$$(id -u)" = 0 ] || echo 'Not root: everything was run but the tests on the real mesh.' >&2

test-fast: ## Run the tests that need neither root nor a mesh
	$(CARGO) test --package servicefence-crd --package servicefence-core --package servicefence

lint: fmt clippy doc generated ## Check formatting, clippy, rustdoc, and that generated files are up to date

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --workspace --all-targets -- --deny warnings

doc:
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps

generated:
	$(CARGO) test --workspace --test docs

generate: ## Write generated files anew: the CRD, the chart's copy of it, tables of the documentation
	UPDATE=1 $(CARGO) test --workspace --test docs

bench: ## Measure the hot paths
	$(CARGO) bench --package servicefence

figures: ## Measure on a real mesh: learning, transitions, growth, savings, Prometheus (root; about three quarters of an hour)
	$(CARGO) bench --package servicefence-e2e

scale: ## Measure the controller beside 10,000 Services and 2,000 fences (root; SCALE=--small for a tenth; half an hour, 24 GB)
	$(CARGO) run --release --package servicefence-e2e --bin scale -- $(SCALE)

absence: ## Call through an hour's changes of a mesh, with the controller stopped (root; about an hour)
	CHANGES=3600 $(CARGO) test --workspace --test operation -- a_fenced_caller_misses_nothing

fuzz: ## Play random meshes: a fenced caller must get the answers of an unscoped one (root; MINUTES=60, SEED=1)
	@$(BUILD)
	@$(PROGRAMS)/fuzz --minutes $(or $(MINUTES),60) --seed $(or $(SEED),1)

versions: ## Run a part of the scenarios on each istiod with each Envoy (root; VERSIONS="--istio istio-1.30 --envoy envoy-1.36" for one; about half an hour)
	@$(BUILD)
	@$(PROGRAMS)/versions $(VERSIONS)

mesh: ## Start a real mesh that stays, and say how to use it (root)
	@$(BUILD)
	@$(PROGRAMS)/mesh up

mesh-down: ## Take down every mesh of this checkout, and what killed runs left (root)
	@$(BUILD)
	@$(PROGRAMS)/mesh down --all

clean: ## Remove what cargo built; the programs of the mesh stay in .cache/tools
	$(CARGO) clean
