# `make demo` and `make test` are all one needs on a fresh machine with Python 3.11 or later; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := demo
# One of each class, from a seed that the demo does not train on.
DEMO_IMAGES := $(addprefix data/samples/,p0001-1.png p0002-1.png p0008-1.png)

# Tests without Ray run in as many processes, each with one thread; those on Ray one after the other, since each Ray
# takes the whole machine.
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
ON_RAY = $(shell grep -rl "mark.ray" tests)
PARALLEL := --numprocesses=$(JOBS) --dist=loadfile

.PHONY: help setup demo lint test test-all pictures docs format clean

help: ## List these targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' Makefile

setup: $(INSTALLED) ## Install the package and its tools into .venv.

# Installs again only when the project's dependencies change.
$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: setup ## Draw phantoms, search, combine, report and predict.
	test -f $(DEMO)/phantoms/metadata.csv || $(BIN)/consilia data phantoms $(DEMO)/phantoms
	$(BIN)/consilia search examples/phantoms.yaml --set data.path=$(DEMO)/phantoms \
		--studies $(DEMO)/studies --stores $(DEMO)/stores
	$(BIN)/consilia predict $(DEMO)/studies/phantoms/ensembles/greedy_calibrated $(DEMO_IMAGES)
	@echo "The report of the study, for a browser: $(DEMO)/studies/phantoms/report.html"
	@echo "A page to try its ensemble: $(BIN)/consilia serve $(DEMO)/studies/phantoms/ensembles/greedy_calibrated"

lint: setup ## Check style, format, types and the order of imports.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint ## Lint, every fast test, and one pass through a real Ray: eight minutes on two cores.
	$(PYTEST) -m "not slow and not ray" $(PARALLEL)
	$(PYTEST) -m "not slow and ray" $(ON_RAY)

test-all: lint ## Lint and every test there is, with all counts.
	$(PYTEST) -m "not ray" --hypothesis-profile=thorough $(PARALLEL)
	$(PYTEST) -m ray --hypothesis-profile=thorough $(ON_RAY)

pictures: demo ## Make the pictures of the README from the demo, with an installed Chromium.
	$(BIN)/python docs/make_pictures.py --demo $(DEMO)

# Material warns of mkdocs 2, which pyproject.toml excludes.
docs: $(VENV)/.installed-docs ## Build the documentation site into site/; a dead link fails.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.installed-docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

format: setup ## Let ruff correct what it can.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what demo, builds and tools have left.
	rm -rf $(DEMO) build dist site .mypy_cache .ruff_cache .pytest_cache
