# `make train` trains the example model, `make test` checks everything; both set up .venv first.
# `make faults` breaks runs on purpose, a thousand times, and writes down what came of it.
# `make coverage` tells which branches of checkpoint, journal and config code no test beside them takes.
# `make benchmarks` measures, which takes most of an hour, with an environment of its own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(sort $(wildcard plugins/*/pyproject.toml))
INSTALLED := $(VENV)/.installed
BENCH := .venv-bench
COVERING := $(wildcard tests/unit/test_checkpoint_*.py tests/unit/test_config_*.py) \
    $(wildcard tests/unit/test_run*.py) tests/unit/test_resuming.py tests/unit/test_durable.py \
    tests/unit/test_export.py tests/unit/test_strange_files.py plugins/hookline-json/tests

.PHONY: train test lint types imports tests faults coverage reference docs benchmarks clean

train: $(INSTALLED)
	$(BIN)/hookline train examples/char_gpt/config.yaml $(ARGS)

test: lint types imports tests

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

imports: $(INSTALLED)
	$(BIN)/lint-imports

# The slowest tests stand side by side: a worker that has done its own takes from the other's.
tests: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal $(ARGS)

# Alone on the machine, and in one process: kills are drawn over the time that a run takes.
faults: $(INSTALLED)
	OMP_NUM_THREADS=1 HOOKLINE_FAULTS=long $(BIN)/pytest -n 0 --timeout 3600 $(or $(ARGS),tests/faults)
	$(BIN)/python tests/faults/results.py

# In one process: what is killed or forked has nothing to tell. What is measured is in pyproject.toml.
coverage: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -n 0 $(or $(ARGS),$(COVERING))
	$(BIN)/coverage report

# What the pages of the reference say of the code.
reference: $(INSTALLED)
	$(BIN)/python docs/_ext/generated.py

docs: $(INSTALLED)
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build/html

benchmarks: $(BENCH)/.installed
	$(BENCH)/bin/python -m benchmarks $(ARGS)

# torch is pinned here and a range in the metadata: without the pin pip fetches gigabytes of CUDA packages.
$(INSTALLED): pyproject.toml $(PLUGINS) Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 \
	    --editable '.[dev]' $(foreach plugin,$(PLUGINS),--editable $(dir $(plugin)))
	touch $@

# Apart from .venv: the trainers that hookline is compared with have many dependencies.
$(BENCH)/.installed: pyproject.toml Makefile
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 \
	    --editable '.[bench]' --editable plugins/hookline-json --editable plugins/hookline-tensorboard
	touch $@

clean:
	rm -rf $(VENV) $(BENCH) docs/_build .coverage
