# The two commands of the README are `run` and `test`. Each sets itself up first: all it needs is GNU make (3.81 is
# enough, as on macOS) and Python 3.11 or newer. `make help` lists the rest.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
LINT := .links/slotproxy tests scripts

.DEFAULT_GOAL := help
.PHONY: help setup run test test-all check lint format types imports lock build smoke clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## the virtual environment, without running anything

# The stamp is written last, so a set-up that was cut off is done again.
$(READY): constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || \
	  { echo 'make: there is no "$(PYTHON)" here: install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'make: "$(PYTHON)" is older than Python 3.11, which slotproxy needs: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'make: "$(PYTHON)" cannot make virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv)' >&2; exit 1; }
	@echo 'Setting up $(VENV): pinned packages, every file checked by its hash ...'
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --quiet --require-hashes --requirement constraints.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

run: $(READY) ## serve the demo model on port 8080 (make run ARGS="--port 9000")
	@exec $(BIN)/slotproxy --model demo --instances auto $(ARGS)

test: $(READY) ## the default test run (make test ARGS="-k pool")
	@$(BIN)/python -m pytest $(ARGS)

test-all: $(READY) ## the default test run and the slow tests
	@$(BIN)/python -m pytest -m "slow or not slow" $(ARGS)

check: lint types imports test ## everything CI checks before it builds

lint: $(READY) ## ruff: rules and formatting
	@$(BIN)/ruff check $(LINT)
	@$(BIN)/ruff format --check $(LINT)

format: $(READY) ## let ruff repair what it can
	@$(BIN)/ruff check --fix $(LINT)
	@$(BIN)/ruff format $(LINT)

types: $(READY) ## mypy, strict
	@$(BIN)/mypy

imports: $(READY) ## who may import whom
	@$(BIN)/lint-imports

lock: $(READY) ## write constraints.txt anew from pyproject.toml (make lock ARGS=--upgrade)
	@$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet \
	  --output-file constraints.txt $(ARGS)

build: $(READY) ## dist/: the sdist, and the wheel built from it
	@rm -rf dist
	@$(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python --out-dir dist

smoke: build ## install the wheel in an empty place and let it answer one chat request
	@$(BIN)/python scripts/smoke.py dist

clean: ## remove what make made
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
