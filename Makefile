# Needs Python 3.11 or later (with venv), git and make; everything else is installed into $(VENV).
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made

# The first of these that is at least 3.11 and able to make environments; or `make env PYTHON=/path/to/python`.
CANDIDATES := python3.13 python3.12 python3.11 python3
PYTHON ?= $(shell for p in $(CANDIDATES); do \
  $$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

# Passed on to pytest, e.g. make test TEST_FLAGS="--shuffle 7" for the random order of seed 7.
TEST_FLAGS ?=

# Passed on to Sphinx, e.g. make book BOOK_FLAGS="-W --keep-going" to fail on warnings.
BOOK_FLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help env book test test-book clean
.DELETE_ON_ERROR:

help:
	@echo "make env        make the environment $(VENV) with the exact versions of constraints.txt"
	@echo "make book       build the book; the result is _build/html/index.html"
	@echo "make test       check style and types, run the tests; the result is shown at the end"
	@echo "make test-book  build the book, then look at its pages in Chromium (which must be installed)"
	@echo "make clean      remove what the other targets made, except $(VENV)"

env: $(STAMP)
	@echo "The environment is $(VENV): source $(BIN)/activate"

# The constraints reach the isolated build of the project through the environment only: PIP_CONSTRAINT for
# pip before 25.3, PIP_BUILD_CONSTRAINT from then on. An environment that is there is brought up to date.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || test -n "$(PYTHON)" || { \
	  echo "Expected Python 3.11 or later with venv, found none of: $(CANDIDATES)." \
	    "Install one, or name it: make env PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing the packages of constraints.txt into $(VENV); the first time takes some minutes."
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/python -m pip install \
	  --quiet --disable-pip-version-check -c constraints.txt -e ".[book,test]"
	@touch $(STAMP)

book: $(STAMP)
	@echo "Building the book; notebooks whose code has changed are run first."
	@start=$$SECONDS; $(BIN)/jupyter-book build book/ $(BOOK_FLAGS) && \
	  echo "The book is _build/html/index.html ($$((SECONDS - start)) s)."

test: $(STAMP)
	@echo "Checking style (ruff)."
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "Checking words and the width of code in notebooks."
	@$(BIN)/python .ci/lint_text.py
	@echo "Checking types (mypy)."
	@$(BIN)/mypy
	@echo "Running the tests and the examples of the docstrings (pytest)."
	@$(BIN)/python -m pytest -n 2 $(TEST_FLAGS)
	@echo "Style, types, tests and examples are in order."

# Outside the environment's stamp: only this target needs it.
test-book: book
	@PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e ".[browser]"
	@echo "Opening the pages in Chromium (pytest)."
	@$(BIN)/python -m pytest tests/book/test_browser.py -n 2

clean:
	@echo "Removing the book's pages and all caches; $(VENV) and _build/earlier_runs stay."
	@if [ -d _build ]; then find _build -mindepth 1 -maxdepth 1 ! -name earlier_runs -exec rm -rf {} +; fi
	@rm -rf book/notebooks book/_build .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
	@echo "Clean."
