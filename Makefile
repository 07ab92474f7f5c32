# make demo   a demo on a fresh machine with Python 3.11 or newer and nothing else
# make test   format, lint, types, import contracts and all quick tests
# make mutants   mistakes made on purpose in the heart: how many of them do the tests see?
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The editable install is a farm of links: a new or removed file needs a new one, a changed file does not.
FILES  := $(shell find engine store adapters -type f -not -path '*/__pycache__/*' 2>/dev/null | LC_ALL=C sort | cksum | cut -d' ' -f1)
DEMO   := $(VENV)/.installed-$(FILES)-$(shell cksum < pyproject.toml | cut -d' ' -f1)
DEV    := $(DEMO)-dev
JOBS   ?= 2

.PHONY: demo test test-full check bench mutants clean

demo: $(DEMO)
	$(BIN)/towpath demo $(FOLDER)

test: check
	$(BIN)/python -m pytest -n $(JOBS) -m "not full"

test-full: $(DEV)
	$(BIN)/python -m pytest -m full

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

bench: $(DEV)
	$(BIN)/python -m benchmarks.steps_per_second
	$(BIN)/python -m benchmarks.growth

mutants: $(DEV)
	$(BIN)/python -m tests.mutants

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "towpath needs Python 3.11 or newer; name one with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77"

$(DEMO): $(VENV)/bin/python
	rm -rf build/__editable__.* $(VENV)/.installed-*
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-build-isolation --config-settings editable_mode=strict -e ".[demo]"
	@touch $@

$(DEV): $(DEMO)
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@
