# make demo: set up and run the main job, ending with a report.   make test: set up and pass the tests.
# Nothing has to be installed by hand but Python 3.11 and make; uv is fetched into .bootstrap/ when it is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORE ?= runs
# Processes that share the tests, a file to each at a time; 0: all in one, for a debugger.
TEST_WORKERS ?= 2
export OMP_NUM_THREADS ?= 1
unexport PYTHONDONTWRITEBYTECODE  # images set it, and each of a run's processes would compile all sources anew

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check bench gpu-check lock clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' Makefile | expand -t 14

$(VENV)/.ready: requirements.txt pyproject.toml
	@command -v uv >/dev/null 2>&1 || [ -x .bootstrap/bin/uv ] || \
	  { echo "setup: fetching uv"; $(PYTHON) -m venv .bootstrap && .bootstrap/bin/python -m pip install -q uv; }
	@PATH="$$PATH:$(CURDIR)/.bootstrap/bin"; set -e; \
	  [ -x $(BIN)/python ] || uv venv -q --python 3.11 $(VENV); \
	  echo "setup: installing the pinned packages"; \
	  uv pip sync -q --compile-bytecode --python $(BIN)/python --require-hashes requirements.txt; \
	  uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

setup: $(VENV)/.ready  ## install everything into .venv

demo: setup  ## compare one-step objectives on the embedded digits and write runs/studies/objectives/report.html
	$(BIN)/ablate run objectives --store $(STORE) --yes
	$(BIN)/ablate report objectives --store $(STORE) --html

test: setup  ## the test run (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile

test-all: setup  ## the test run with the slow studies
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile -m "not gpu"

check: setup  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup  ## the A/B programs that print ratios
	@for program in benchmarks/[a-z]*.py; do echo "== $$program"; $(BIN)/python $$program || exit 1; done

gpu-check:  ## the core on a CUDA device (needs torch, pydantic, numpy; no Ray)
	PYTHONPATH=core:$$PYTHONPATH $(PYTHON) benchmarks/gpu_check.py

lock:  ## pin the packages with hashes and without index addresses; UPGRADE=1 takes the newest versions
	uv pip compile pyproject.toml --group dev --generate-hashes --no-emit-index-url --python-version 3.11 \
	  --python-platform x86_64-unknown-linux-gnu $(if $(UPGRADE),--upgrade) -q -o requirements.txt

clean:  ## remove the environment and caches; never the runs
	rm -rf $(VENV) .bootstrap .mypy_cache .pytest_cache .ruff_cache dist
