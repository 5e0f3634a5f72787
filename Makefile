# `make demo` and `make test` are all one needs on a fresh machine with Python 3.11 or later.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := demo
# One of each class, from a seed that the demo does not train on.
DEMO_IMAGES := $(addprefix data/samples/,p0001-1.png p0002-1.png p0008-1.png)

.PHONY: setup demo test format clean

setup: $(INSTALLED)

# Installs again only when the project's dependencies change.
$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: setup
	test -f $(DEMO)/phantoms/metadata.csv || $(BIN)/consilia data phantoms $(DEMO)/phantoms
	$(BIN)/consilia search examples/phantoms.yaml --set data.path=$(DEMO)/phantoms \
		--studies $(DEMO)/studies --stores $(DEMO)/stores
	$(BIN)/consilia predict $(DEMO)/studies/phantoms/ensembles/greedy_calibrated $(DEMO_IMAGES)

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(DEMO) build dist .mypy_cache .ruff_cache .pytest_cache
