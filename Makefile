# The only entry point. Every target sets up what it needs and nothing is installed outside this checkout:
# the build tool lives in .tools, Python packages in .venv, Rust artefacts in target. `make help` lists the targets.
#
# Needed beforehand: Python ≥ 3.11 with venv, a Rust toolchain, a C compiler, make (tools/require.sh says what is missing).

.DEFAULT_GOAL := help

ifndef PYTHON
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
endif

UV_VERSION := 0.13.8
TOOLS := .tools/uv-$(UV_VERSION)
UV := $(TOOLS)/bin/uv
ENGINE := python/moretta/_engine.abi3.so
RUN := $(UV) run --no-sync
RELEASE_ENV := .tools/release

export UV_PYTHON_DOWNLOADS := never
# maturin looks uv up on PATH; the machine's own virtual environments must not be taken for ours.
export PATH := $(CURDIR)/$(TOOLS)/bin:$(PATH)
unexport VIRTUAL_ENV
unexport CONDA_PREFIX

## Start here

.PHONY: help
help: ## list the targets
	@$(or $(PYTHON),python3) tools/make_help.py Makefile

.PHONY: demo
demo: setup ## real HTTP/3 and real DNS through tunnels on loopback; exits 0 only if all of it held (ARGS="--keep --json")
	@$(RUN) moretta demo $(ARGS)

.PHONY: test
test: setup test-rust test-python ## the whole test suite; skips what this machine cannot do and says why

.PHONY: check
check: setup check-rust check-python check-house check-instructions ## format, lints, types, documentation, licences, lock files, advisories, instruction counts

.PHONY: gateway
gateway: setup-release ## a loopback gateway in the foreground, release build (PORT=4433 WORKERS=one per core)
	@$(RELEASE_ENV)/bin/python tools/gateway.py --port $(or $(PORT),4433) $(if $(WORKERS),--workers $(WORKERS))

.PHONY: bench
bench: setup-release ## measure the gateway beside its peers (ARGS="--list", "--only wire", "--quick"); results go to .bench/
	@$(RELEASE_ENV)/bin/python -m benches.run $(ARGS)

.PHONY: instructions
instructions: ## count the gateway's instructions per datagram and step; fails above the baseline (ARGS=--accept writes it)
	@$(or $(PYTHON),python3) tools/instructions.py $(ARGS)

.PHONY: bench-micro
bench-micro: ## the same traces in nanoseconds, by criterion (ARGS=up-1200)
	cargo bench --locked --quiet -p moretta-trace --bench traces -- $(ARGS)

# The package as it is installed, but with its symbols: maturin strips what it ships.
.PHONY: flame
flame: RELEASE_ENV := .tools/flame
flame: export MATURIN_PEP517_ARGS := --strip=false
flame: setup-release ## flame graph of a gateway under load, and its dearest functions (ARGS='"new connection and tunnel"'); needs perf
	@$(RELEASE_ENV)/bin/python -m benches.flame $(ARGS)

.PHONY: figures
figures: setup ## write the figures of the last make bench into README.md
	$(RUN) python tools/figures.py

.PHONY: interop
interop: setup ## tests against other implementations only; needs Go, and a curl with HTTP/3 proxy (CURL_BIN=path)
	$(RUN) pytest tests/interop $(ARGS)

.PHONY: fuzz
fuzz: ## run every fuzz target for a while (SECONDS_EACH=60); needs a nightly Rust toolchain
	@sh tools/fuzz.sh $(or $(SECONDS_EACH),60) $(TARGET)

.PHONY: worlds
worlds: ## simulated worlds that no run has seen, held against the reference model (SECONDS=60, SEED=first)
	WORLDS_SECONDS=$(or $(SECONDS),60) $(if $(SEED),SEED=$(SEED)) cargo test --locked -p moretta-sim --test random_worlds five_properties -- --nocapture

## Set-up

.PHONY: setup
setup: $(UV) ## virtual environment, locked dependencies, native module (development profile)
	@sh tools/require.sh "$(PYTHON)"
	@$(UV) sync --quiet --locked --python $(PYTHON) $(if $(wildcard $(ENGINE)),,--reinstall-package moretta)

# A second environment, so that a release build never replaces the module that tests and edits use. The package is
# installed there as a wheel; asking for its reinstallation makes cargo look for changes (a second when there are none).
.PHONY: setup-release
setup-release: $(UV) ## the same as an ordinary installation, release profile, in .tools/release
	@sh tools/require.sh "$(PYTHON)"
	@UV_PROJECT_ENVIRONMENT=$(RELEASE_ENV) $(UV) sync --quiet --locked --python $(PYTHON) --no-editable --no-dev --extra demo --reinstall-package moretta

.PHONY: install
install: $(UV) ## an ordinary installation, release profile, locked dependencies (PREFIX=/opt/moretta)
	@sh tools/require.sh "$(PYTHON)"
	@UV_PROJECT_ENVIRONMENT=$(or $(PREFIX),/opt/moretta) $(UV) sync --quiet --locked --python $(PYTHON) --no-editable --no-dev --reinstall-package moretta

$(UV):
	@sh tools/require.sh "$(PYTHON)"
	@echo "installing uv $(UV_VERSION) into .tools"
	@$(PYTHON) -m venv --clear $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r tools/uv.txt

.PHONY: lock
lock: $(UV) ## update uv.lock and Cargo.lock after a change of dependencies
	$(UV) lock --python $(PYTHON)
	cargo update --workspace
	cargo update --workspace --manifest-path fuzz/Cargo.toml

.PHONY: clean
clean: ## remove what make made, except caches outside the checkout
	rm -rf .venv .tools target fuzz/target fuzz/found .bench .interop .pytest_cache .mypy_cache .ruff_cache .hypothesis $(ENGINE)

## Parts of test and check

# moretta-py links against the Python that maturin builds it for; its tests are the Python ones.
# The seams of HTTP/3 are tried a second time with the adapter over h3wire in place of our own crate.
.PHONY: test-rust
test-rust: ## cargo test, then the simulated worlds once more on the h3wire adapter
	cargo test --locked --workspace --exclude moretta-py --quiet
	@sh tools/h3wire.sh test

.PHONY: test-python
test-python: setup ## pytest, then the conformance rows once more under the profile hardened
	$(RUN) pytest -n auto $(ARGS)
	$(RUN) pytest -n auto --profile hardened tests/conformance

.PHONY: check-rust
check-rust: ## rustfmt, clippy, rustdoc
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	PYO3_PYTHON=$(CURDIR)/.venv/bin/python cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
	@sh tools/h3wire.sh clippy
	PYO3_PYTHON=$(CURDIR)/.venv/bin/python RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet

.PHONY: check-python
check-python: setup ## ruff, mypy, stubtest, docstring examples
	$(RUN) ruff check --quiet
	$(RUN) ruff format --check --quiet
	$(RUN) mypy
	$(RUN) python -m mypy.stubtest moretta._engine --mypy-config-file pyproject.toml
	$(RUN) pytest -q -p no:cacheprovider --doctest-modules python/moretta || [ $$? -eq 5 ] # 5: no example yet

.PHONY: check-house
check-house: setup ## licences, lock files, generated pages, advisories
	$(RUN) python tools/licences.py
	$(RUN) python tools/lockstep.py
	$(RUN) python tools/advisories.py

# Here, because a check that nobody runs notices nothing. It costs a release build of one program and 20 s of counting;
# where the baseline is of another toolchain it costs nothing and says so.
.PHONY: check-instructions
check-instructions: ## instructions per datagram and step against the baseline
	@$(or $(PYTHON),python3) tools/instructions.py --if-comparable

.PHONY: fix
fix: setup ## format and apply safe lint fixes
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml
	$(RUN) ruff check --fix --quiet
	$(RUN) ruff format --quiet

.PHONY: reference
reference: setup ## write docs/reference from the schema, the error table and the command line
	$(RUN) python tools/reference.py
