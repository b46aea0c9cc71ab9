# The two commands of the README are `run` and `test`. Each sets itself up first: all it needs is GNU make (3.81 is
# enough, as on macOS) and Python 3.11 or newer. `make help` lists the rest.

PYTHON ?= python3
ARGS ?=
SECONDS ?= 60
SEED ?= 1
VENV := .venv
BIN := $(VENV)/bin
SERVE := $(VENV)/.serve
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# The pins are complete (make lock sees to it), so pip need not resolve anything: half the time.
INSTALL := $(PIP) install --quiet --no-deps
COMPILE := $(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
  --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet
# A recipe's last words: what went wrong and what to do.
SAY := sh -c 'echo "$$1" >&2; exit 1' make
NOT_INSTALLED := The packages could not be installed, see above: check the network (and the package index that pip uses).
# The folders, not .links/: ruff follows no links there and would check none of the product.
SOURCES := proxy instances tests scripts

.DEFAULT_GOAL := help
.PHONY: help run test test-all test-aiohttp check lint format types imports setup lock build smoke clean \
  fuzz fuzz-load laboratory bench bench-peers bench-engines bench-instructions bench-memory bench-conversations \
  chaos chaos-kill chaos-soak \
  engines-llama-server engines-mlx-lm

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

run: $(SERVE) ## serve the demo model on port 8080 (make run ARGS="--port 9000")
	@exec $(BIN)/slotproxy --model demo --instances auto $(ARGS)

test: $(READY) ## the default test run, two at a time (make test ARGS="-k pool", one at a time: ARGS="-n 0")
	@exec $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-all: $(READY) ## the default test run and the slow tests
	@exec $(BIN)/python -m pytest -m "slow or not slow" $(ARGS)

test-aiohttp: $(READY) ## the tests of what uses aiohttp, with its lowest and its newest release, a minute
	@exec $(BIN)/python -m scripts.aiohttp_releases

check: lint types imports test ## what CI checks of the source

lint: $(READY) ## ruff: rules and formatting
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)

format: $(READY) ## let ruff repair what it can
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

types: $(READY) ## mypy, strict, for both systems
	@$(BIN)/mypy --platform linux --cache-dir .mypy_cache/linux
	@$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin

imports: $(READY) ## who may import whom
	@$(BIN)/lint-imports --no-logo

setup: $(READY) ## the virtual environment with every tool, without running anything

lock: $(READY) ## write the pins anew from pyproject.toml (make lock ARGS=--upgrade)
	@$(COMPILE) --group dev --output-file constraints.txt $(ARGS)
	@$(COMPILE) --group build --constraint constraints.txt --output-file constraints-run.txt --upgrade

build: $(SERVE) ## dist/: the sdist, and the wheel built from it
	@rm -rf dist
	@$(BIN)/python -m hatchling build --target sdist --directory dist
	@$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist dist/slotproxy-*.tar.gz

smoke: build ## install the wheel in an empty place and let it answer one chat request
	@$(BIN)/python scripts/smoke.py dist

bench: $(READY) ## slotproxy beside nginx, HAProxy and others, 10 to 30 minutes (make bench ARGS=--quick)
	@exec $(BIN)/python -m tests.benchmarks $(ARGS)

bench-peers: $(READY) ## install the peers that are Python packages, and what draws the chart, into the cache
	@exec $(BIN)/python -m tests.benchmarks.install

bench-engines: $(READY) ## through slotproxy against direct, on real engines
	@exec $(BIN)/python -m tests.benchmarks.engines $(ARGS)

bench-conversations: $(READY) ## conversations on real engines, beside HAProxy and what was promised, an hour or two
	@exec $(BIN)/python -m tests.conversations $(ARGS)

bench-instructions: $(READY) ## machine instructions per event and per request, against docs/performance.md
	@exec $(BIN)/python -m tests.benchmarks.instructions $(ARGS)

chaos: $(READY) ## faults at random while clients work (make chaos SECONDS=600 SEED=7)
	@exec $(BIN)/python -m tests.chaos --seconds $(SECONDS) --seed $(SEED) $(ARGS)

chaos-kill: $(READY) ## kill -9 of the proxy at 100 random moments, 5 minutes
	@exec $(BIN)/python -m tests.chaos.kill --seed $(SEED) $(ARGS)

chaos-soak: $(READY) ## memory and descriptors after 10,000 requests and 2,000 that were left, 5 minutes
	@exec $(BIN)/python -m tests.chaos.soak $(ARGS)

fuzz: $(READY) ## random requests at the client's side and at aiohttp's parser (make fuzz SECONDS=600 SEED=7)
	@exec $(BIN)/python -m tests.fuzz --seconds $(SECONDS) --seed $(SEED) $(ARGS)

fuzz-load: $(READY) ## clients that pipeline, leave, read slowly and talk nonsense: every answer is checked
	@exec $(BIN)/python -m tests.fuzz.load --seconds $(SECONDS) --seed $(SEED) $(ARGS)

laboratory: $(READY) ## who is served where and when, simulated: policies beside each other (ARGS=--help)
	@exec $(BIN)/python -m tests.laboratory $(ARGS)

bench-memory: $(READY) ## --instances auto on real engines against its limit, 30 to 60 minutes (RUNS=3 make bench-memory)
	@exec $(BIN)/python -m pytest -m slow tests/acceptance/test_auto.py $(ARGS)

engines-llama-server: $(READY) ## build llama-server, old and new, into the cache: up to an hour each, for slow tests
	@exec $(BIN)/python -m scripts.llama_server $(ARGS)

engines-mlx-lm: $(READY) ## install mlx-lm's server into the cache, for slow tests
	@exec $(BIN)/python -m scripts.mlx_lm_server

clean: ## remove what make made
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is written last, so a set-up that was cut off is done again.
$(SERVE): constraints-run.txt pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || \
	  $(SAY) 'There is no "$(PYTHON)" here: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3 ...'
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  $(SAY) '"$(PYTHON)" is older than Python 3.11, which slotproxy needs: make PYTHON=/path/to/python3.11 ...'
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
	  $(SAY) '"$(PYTHON)" has no venv module: install it (on Debian and Ubuntu: apt install python3-venv) and try again.'
	@echo 'Setting up $(VENV): pinned packages, every file checked by its hash (once, under a minute) ...'
	@$(BIN)/python -c 'import pip' 2>/dev/null || "$(PYTHON)" -m venv --clear $(VENV)
	@$(INSTALL) --require-hashes --requirement constraints-run.txt || $(SAY) '$(NOT_INSTALLED)'
	@$(INSTALL) --no-build-isolation --editable .
	@touch $@

$(READY): $(SERVE) constraints.txt
	@echo 'Adding the tools for tests and checks ...'
	@$(INSTALL) --require-hashes --requirement constraints.txt || $(SAY) '$(NOT_INSTALLED)'
	@touch $@
