# make demo      a demo; needs only Python 3.11 or newer
# make test      format, lint, types, import contracts, the wheel, the examples, and all quick tests
# make docs      the site of the documentation, in build/site; SERVE=1 serves it
# make mutants   deliberate mistakes in the engine: how many of them do the tests find?
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The editable install is a folder of links: it is made again when a file is added or removed.
FILES  := $(shell find engine store adapters -type f -not -path '*/__pycache__/*' 2>/dev/null | LC_ALL=C sort | cksum | cut -d' ' -f1)
DEMO   := $(VENV)/.installed-$(FILES)-$(shell cat pyproject.toml requirements/*.txt | cksum | cut -d' ' -f1)
DEV    := $(DEMO)-dev
# Tests wait for servers and clocks most of the time: two workers for each core, at most eight.
JOBS   ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n < 4 ? 2 * n : 8)))

PYTEST := python -m pytest -n $(JOBS) --dist worksteal -m "not full"
CHECKS := check-types check-interface check-public check-imports check-lint check-format
# Print the output of each check in one piece, if this make can do that.
SYNC   := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

.PHONY: demo test test-full test-newest test-lowest check $(CHECKS) bench docs mutants lock clean

demo: $(DEMO)
	$(BIN)/towpath demo $(FOLDER)

test: check
	$(BIN)/$(PYTEST)

test-full: $(DEV)
	$(BIN)/python -m pytest -m full

check: $(DEV)
	@$(MAKE) --no-print-directory --keep-going --jobs $(JOBS) $(SYNC) $(CHECKS)

check-types:
	$(BIN)/mypy
check-interface:
	$(BIN)/pyright
check-public:
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pyright --verifytypes towpath --ignoreexternal --outputjson | \
	  $(BIN)/python -c '$(TYPED)'
# Of all modules, the inner ones too: how many symbols have a type that is written down?
TYPED := import json, sys; score = json.load(sys.stdin)["typeCompleteness"]["completenessScore"]; \
  print(f"{score:.1%} of all symbols have a type"); sys.exit(score < 0.9)
check-imports:
	$(BIN)/lint-imports --no-cache
check-lint:
	$(BIN)/ruff check .
check-format:
	$(BIN)/ruff format --check .

bench: $(DEV)
	$(BIN)/towpath bench --check $(BENCH)

# It is built without a network, and needs none to be read. The variables silence what has no say in it.
docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml
	@echo "build/site/index.html"
ifdef SERVE
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --config-file docs/site/mkdocs.yml --watch docs --watch engine
endif

mutants: $(DEV)
	$(BIN)/python -m tests.mutants

# For maintainers: only these three targets need uv and a package index.
UV     ?= uv
EXTRAS := --extra server --extra comfyui --extra temporal-dev --extra otel
TESTS  ?= tests
ifeq ($(BOUNDS),off)
BOUNDED := 's/,<[0-9.]*"/"/g'
else
BOUNDED := ''
endif

# One file is for all Python versions and platforms: where versions differ, a package is listed once for each, with a
# marker. The demo's file is a subset of the other one.
lock:
	$(LOCK) $(EXTRAS) --group build --group dev --output-file requirements/dev.txt
	$(LOCK) --extra demo --group build --constraints requirements/dev.txt --output-file requirements/demo.txt
LOCK := $(UV) pip compile --quiet --no-config --upgrade --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" pyproject.toml

# The tests with the newest releases that the bounds allow (BOUNDS=off: with the newest of all), and with the oldest.
# Before a release, for each Python: make test-lowest test-newest PYTHON=python3.12 TESTS="tests/engine tests/store"
test-newest:
	$(call resolved,newest,--resolution highest)
	.venv-newest/bin/$(PYTEST) $(TESTS)

test-lowest:
	$(call resolved,lowest,--resolution lowest-direct)
	.venv-lowest/bin/$(PYTEST) $(TESTS)

define resolved
rm -rf .venv-$(1)
$(UV) venv --quiet --no-config --seed --python $(PYTHON) .venv-$(1)
sed $(BOUNDED) pyproject.toml > .venv-$(1)/pyproject.toml
$(UV) pip compile --quiet --no-config $(2) --python .venv-$(1) $(EXTRAS) --group .venv-$(1)/pyproject.toml:build \
  --group .venv-$(1)/pyproject.toml:dev --output-file .venv-$(1)/requirements.txt .venv-$(1)/pyproject.toml
$(UV) pip install --quiet --no-config --python .venv-$(1) --requirements .venv-$(1)/requirements.txt
PYTHONWARNINGS=ignore .venv-$(1)/bin/python -m pip install $(EDITABLE)
endef

clean:
	rm -rf $(VENV) .venv-newest .venv-lowest build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

EDITABLE := --quiet --no-deps --no-build-isolation --config-settings editable_mode=strict --editable .

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "towpath needs Python 3.11 or newer; name one with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Only files with the listed hashes are installed, from any index. Packages without a wheel are built with the listed
# setuptools.
$(DEMO): $(VENV)/bin/python
	rm -rf build/__editable__.* $(VENV)/.installed-*
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/demo.txt
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install $(EDITABLE)
	@touch $@

$(DEV): $(DEMO)
	$(BIN)/python -m pip install --quiet --no-build-isolation --require-hashes --requirement requirements/dev.txt
	@touch $@
