# make demo    the main job on real recordings          make test      what every change must pass
# make test-all  the slow tests too                     make bench     every claim of the README, hours
# make docs    the site of docs/, in build/site         make tables    the methods' page and table, from the registry
# make lint    style, types, import rules               make lowest    the tests on the lowest versions that we claim
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
export HF_HUB_OFFLINE := 1

.PHONY: demo test test-all lint bench docs tables lowest clean

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

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo build/site/index.html

tables: $(VENV)/.dev
	$(BIN)/python docs/generate.py

lowest: $(VENV)-lowest/.lowest
	$(VENV)-lowest/bin/python -m pytest -n 2 --dist loadgroup

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Chorus needs Python 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable ".[evaluate,train]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable ".[docs]"
	@touch $@

$(VENV)-lowest/.lowest: pyproject.toml
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/pip --disable-pip-version-check install --quiet uv
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct --editable ".[test]"
	@touch $@

clean:
	rm -rf demo-output build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* .import_linter_cache
