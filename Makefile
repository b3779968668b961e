# `make demo` and `make test` need only Python 3.11+ and make: everything else is installed into .venv from the lock file.
.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that runs and is new enough (a name on the PATH may be a stub that does not run).
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
STAMP := $(VENV)/.installed
# For the fast tests: more than two, because most of them spend much time waiting for a server or a disk.
WORKERS ?= 4
# Tests start hundreds of processes; without bytecode each would compile the whole package again.
unexport PYTHONDONTWRITEBYTECODE
# For the property tests of the slow suite; printed, so that a failure can be repeated with SEED=…
SEED ?= $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')

.PHONY: help setup run demo test test-lowest test-slow test-search test-faults chaos peers chromium check format bench lock docs picture screenshots vendor clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Jobledger needs Python 3.11 or newer; set PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON) (once; about a minute)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

setup: $(STAMP) ## install everything into .venv

run: $(STAMP) ## start the service (RUN="--port 8080" adds flags)
	@exec $(BIN)/jobledger serve $(RUN)

demo: $(STAMP) ## a self-checking tour: real specs, a real nats-server, a real SQLite file
	@$(BIN)/jobledger demo

test: $(STAMP) ## the test suite, in parallel, with fixed seeds
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(ONLY)

# Tests that use each dependency, to run with the lowest versions that pyproject.toml allows.
LOWEST := .venv-lowest
LOWEST_TESTS := $(addprefix tests/,service/cli/test_cli_events.py service/cli/test_cli_terminal.py \
	service/server/test_settings.py service/webhooks/test_webhook_sending.py \
	service/webhooks/test_webhook_targets.py service/server/test_metrics.py \
	service/export/test_replay_command.py service/audit/test_audit_commands.py store/spec/test_spec_parsing.py \
	store/model/test_events.py store/embedded/test_embedded.py store/test_log_contract.py \
	projections/test_view_file.py service/api/test_openapi.py)

test-lowest: $(STAMP) ## a part of the test suite with the lowest allowed version of every dependency
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LOWEST)
	@$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --require-hashes --no-deps -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --require-hashes --no-deps -r tests/lowest.lock
	@$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps --no-build-isolation -e .
	@$(LOWEST)/bin/python -m pytest -q -p no:cacheprovider -n $(WORKERS) --dist worksteal $(LOWEST_TESTS)

# The libraries of other stores, for `python -m benchmarks peers`.
PEERS := .venv-peers

peers: $(STAMP) ## install the libraries of `benchmarks peers`; then: .venv-peers/bin/python -m benchmarks peers
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(PEERS)
	@$(BIN)/uv pip install --quiet --python $(PEERS)/bin/python --require-hashes --no-deps -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(PEERS)/bin/python --no-deps --no-build-isolation -e .
	@$(BIN)/uv pip install --quiet --python $(PEERS)/bin/python -r benchmarks/peers.txt

chromium: ## install the browser of the browser tests (Debian, Ubuntu)
	@sh tests/install_chromium.sh

test-slow: test-search test-faults ## chaos, clusters, real clients, a browser, long fuzzing, property tests with a random SEED

test-search: $(STAMP) ## the property tests with many examples and a random SEED
	@echo "property tests: SEED=$(SEED)"
	@$(BIN)/python -m pytest -q -m 'hypothesis and not slow' -n 2 --dist worksteal \
		--hypothesis-profile search --hypothesis-seed $(SEED)

# nats-py leaves its socket open when an attempt to connect is cancelled or fails halfway, as in these tests.
test-faults: $(STAMP) ## the slow tests: chaos, clusters, real clients, a browser (ONLY=--last-failed repeats failures)
	@$(BIN)/python -m pytest -q -m slow --timeout 900 -W "ignore:unclosed:ResourceWarning" $(ONLY)

chaos: $(STAMP) ## faults against the whole system (CHAOS="--rounds 200 --seed 7 --topology cluster"), see docs/RELIABILITY.md
	@$(BIN)/python -m tests.chaos $(CHAOS)

check: $(STAMP) ## ruff, mypy (strict), import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP) ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP) ## the benchmarks, each with its baseline (BENCH="append --quick" narrows it)
	@$(BIN)/python -m benchmarks $(BENCH)

docs: $(STAMP) ## regenerate the generated pages
	@$(BIN)/python -m docs.generate

picture: $(STAMP) ## redraw the picture in the README, from a real run
	@$(BIN)/python -m docs.picture

screenshots: $(STAMP) ## redraw the pictures of the web UI, from a real service (needs Chromium: make chromium)
	@$(BIN)/python -m docs.screenshots $(SHOTS)

vendor: $(STAMP) ## fetch the libraries of the web UI at their pinned versions (needs npm)
	@$(BIN)/python -m docs.vendor

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock"

lock: $(STAMP) ## pin every dependency, with hashes
	@$(COMPILE) --extra dev pyproject.toml -o requirements.lock
	@$(COMPILE) --extra server --constraint requirements.lock pyproject.toml -o deploy/requirements.lock
	@$(COMPILE) --resolution lowest-direct --extra audit --extra embedded --extra parquet --extra server \
		pyproject.toml -o tests/lowest.lock
	@echo "hatchling>=1.27" | $(COMPILE) - -o deploy/build.lock

clean: ## remove everything that `make` created
	rm -rf $(VENV) $(LOWEST) $(PEERS) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
