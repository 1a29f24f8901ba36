PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test lint bench bench-transfer clean

setup: $(VENV)/.ready

# The lock is installed without dependency resolution: the CPU build of vLLM asks for packages that text does not need.
$(VENV)/.ready: requirements/cpu.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/cpu.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	$(BIN)/icr iterate --rounds 2

# A file's tests stay in one process, which shares their slow fixtures; tests/conftest.py puts the longest files first.
test: setup
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks

# A real model, about 75 minutes on two CPU cores; MODEL=gemma for a multilingual one.
bench-transfer: setup
	$(BIN)/python -m benchmarks.transfer --model $(or $(MODEL),smollm2)

clean:
	rm -rf $(VENV) runs
