# make demo    the main job on real recordings          make test      what every change must pass
# make test-all  the slow tests too                     make bench     every claim of the README, hours
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
export HF_HUB_OFFLINE := 1

.PHONY: demo test test-all lint bench clean

demo: $(VENV)/.demo
	$(BIN)/python examples/digits/demo.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-report=term:skip-covered

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "slow or not slow" --cov --cov-report=term:skip-covered

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run_all.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Chorus needs Python 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable ".[evaluate,train]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf demo-output build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* .import_linter_cache
