# pipefail: the pipe below must not hide that pip has failed
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup lock demo test lint bench bench-transfer bench-rm gpu-smoke clean

setup: $(VENV)/.ready

UV := $(shell command -v uv 2>/dev/null)
PACKAGES = $(shell grep -c == requirements/cpu.txt)

# The lock is installed without dependency resolution: the CPU build of vLLM asks for packages that text does not need.
# uv is several times faster, and draws a bar; of pip's many lines, every twentieth package is shown. torch is pip's in any
# case, as uv does not read PIP_EXTRA_INDEX_URL, and not quiet: it is the largest file, and pip draws a bar for it.
$(VENV)/.ready: requirements/cpu.txt requirements/torch.txt pyproject.toml
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 15) or sys.exit("icr needs Python 3.11 to 3.14: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing $(PACKAGES) packages and torch, about 4 GB: two to five minutes with pip"
ifdef UV
	$(UV) pip install --python $(BIN)/python --no-deps -r requirements/cpu.txt
else
	$(BIN)/python -m pip install --no-deps -r requirements/cpu.txt | awk '/^(Collecting|Processing)/ && ++n % 20 == 0 \
	  { print "  " n " of $(PACKAGES)" } /^Installing/ { print "  unpacking" } { fflush() }'
endif
	$(BIN)/python -m pip install --no-deps -r requirements/torch.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'import torch' || { echo "this build of torch needs CUDA: set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU" \
	  "builds (pytorch.org, Get started, CPU), remove $(VENV), and run make setup again"; exit 1; }
	touch $@

# Hashes of the versions in requirements/cpu.txt, after one was changed there; needs uv.
lock:
	uv pip compile --quiet --no-deps --generate-hashes --no-emit-index-url --no-header --no-annotate \
	  requirements/cpu.txt -o requirements/cpu.new
	{ grep '^#' requirements/cpu.txt; grep -v '^#' requirements/cpu.new; } > requirements/cpu.merged
	mv requirements/cpu.merged requirements/cpu.txt && rm requirements/cpu.new

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

# Reward models across languages on a real encoder; SEAHORSE names a folder of Seahorse's validation.LANG.tsv files.
bench-rm: setup
	$(BIN)/python -m benchmarks.reward_evidence --seahorse $(or $(SEAHORSE),../shared/data/rm/seahorse)

# On a machine with CUDA GPUs, in an environment with the extra gpu: PYTHON=path/of/its/python. Minutes; ends with a table.
gpu-smoke:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu_smoke $(ARGS)

clean:
	rm -rf $(VENV) runs
