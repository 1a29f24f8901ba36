PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test lint bench bench-transfer gpu-smoke clean

setup: $(VENV)/.ready

# The lock is installed without dependency resolution: the CPU build of vLLM asks for packages that text does not need.
$(VENV)/.ready: requirements/cpu.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("icr needs Python 3.11 or newer: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing $$(grep -c == requirements/cpu.txt) packages, about 4 GB: two to five minutes, most of it without output"
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

# On a machine with CUDA GPUs, in an environment with icr[gpu]: PYTHON=path/of/its/python. Minutes; ends with a table.
gpu-smoke:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu_smoke $(ARGS)

clean:
	rm -rf $(VENV) runs
