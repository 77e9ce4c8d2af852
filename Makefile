PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Where this variable is set, as in many containers, each of the hundred processes of the tests compiles all that it imports.
export PYTHONDONTWRITEBYTECODE :=

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/ready ## the environment, from the lock file

$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

train: setup ## a small GPT that learns to find a pass key, extended four-fold; ends with a report (about 6 minutes on two cores)
	$(BIN)/python train.py experiment=retrieval

test: setup ## all tests but the full grids (about 7 minutes on two cores)
	$(BIN)/python -m pytest -n auto --dist worksteal

test-fast: setup ## without the tests that train, measure memory or take long otherwise (about 80 seconds)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-all: setup ## all tests with the full grids
	$(BIN)/python -m pytest -n auto --dist worksteal --grid 1

test-kernels: setup ## Liger's kernels against the layers of transformers, interpreted on the CPU (2 minutes, downloads 290 MB)
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --upgrade --target build/kernels liger-kernel==0.8.5 triton==3.9.0
	PYTHONPATH=build/kernels TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/models/test_kernels.py tests/objectives/test_softmax_kernel.py

test-pure: setup ## training in bfloat16 with torchao (a minute, downloads 3 MB)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/pure torchao==0.18.0
	PYTHONPATH=build/pure $(BIN)/python -m pytest tests/training/test_bf16_pure.py

test-gpu: setup ## the tests that need a CUDA device (about 90 seconds on one)
	$(BIN)/python -m pytest -m gpu tests/gpu

mutants: setup ## checks that the tests catch 64 planted faults (tests/mutants)
	$(BIN)/python -m tests.mutants

check: setup ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

smoke: setup ## every part once, in seconds
	$(BIN)/python train.py experiment=smoke overwrite=true

docs: setup ## the documentation as a site in build/site
	$(BIN)/python -m tests.reference
	$(BIN)/mkdocs build --strict --quiet

bench: setup ## compare training speed with transformers.Trainer, and time and memory of long sequences with it and TRL
	$(BIN)/python -m pip install --quiet accelerate==1.15.0 trl==1.16.0
	$(BIN)/python benchmarks/training_speed.py
	$(BIN)/python benchmarks/long_sequences.py

bench-gpu: setup ## compare a training step on one GPU with transformers.Trainer, Liger kernels and TRL (at most 8 minutes)
	$(BIN)/python -m pip install --quiet accelerate==1.15.0 trl==1.16.0 liger-kernel==0.8.5
	$(BIN)/python benchmarks/gpu.py

clean: ## the environment and everything that runs wrote
	rm -rf $(VENV) runs dist build .pytest_cache .mypy_cache .ruff_cache

.PHONY: help setup train test test-fast test-all test-kernels test-pure test-gpu mutants check smoke docs bench bench-gpu clean
