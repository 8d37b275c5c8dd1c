# Everything runs in .venv, which `install` makes once; `make help` lists the targets.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The first Python on the path that is new enough; or say make PYTHON=/path/to/python3.12
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$python; break; }; done)

# Options for pip, such as an index of CPU builds of torch.
PIP_ARGS ?=

# What a GPU machine that has PyTorch and the usual packages lacks, in wheels for its Python. If it
# has PyTorch alone: make gpu-wheels GPU_PACKAGES=all, 57 MB, most of it pyarrow.
GPU_PACKAGES ?= hydra-core omegaconf
ALL_GPU_PACKAGES := hydra-core omegaconf sentencepiece tokenizers safetensors pyarrow rich \
	markdown-it-py mdurl pygments charset-normalizer jinja2 markupsafe pyyaml packaging
GPU_PYTHON ?= 3.12

# One of two processes, each about half of the time; most tests keep to one core.
HALF_OF_THE_TESTS := tests/data tests/evaluate tests/hostile tests/model tests/report tests/scripts \
	tests/stages tests/text tests/train

.DEFAULT_GOAL := help
.PHONY: help install demo smoke test check pytest test-slow bench torture fuzz gpu-wheels

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv and install llmstages in it, with all extras

# The stamp is newer than what it was made from, so nothing is done twice.
$(INSTALLED): pyproject.toml constraints.txt
	@"$(or $(PYTHON),false)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "error: Python 3.11 or newer is needed: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]' $(PIP_ARGS)
	@touch $@

demo: $(INSTALLED) ## all stages on this machine's own text, in a few minutes
	$(BIN)/python scripts/demo.py

smoke: $(INSTALLED) ## every stage, tiny, in under a minute
	$(BIN)/python scripts/smoke.py

test: check pytest ## everything continuous integration runs

check: $(INSTALLED) ## lint, format, types, and which module may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

pytest: $(INSTALLED) ## the tests alone, in two processes
	@$(BIN)/python -m pytest --durations=25 $(HALF_OF_THE_TESTS) & half=$$!; \
	$(BIN)/python -m pytest --durations=25 tests $(HALF_OF_THE_TESTS:%=--ignore=%); rest=$$?; \
	wait $$half && exit $$rest

test-slow: $(INSTALLED) ## the tests that take half a minute and more
	LLMSTAGES_TEST_SLOW=1 $(BIN)/python -m pytest -m slow

bench: $(INSTALLED) ## pretraining speed of this machine
	$(BIN)/python scripts/bench_pretrain.py

torture: $(INSTALLED) ## runs killed 150 times, and compared with runs that were not
	$(BIN)/python scripts/torture.py

fuzz: $(INSTALLED) ## hostile input for every reader of files, for a minute
	$(BIN)/python scripts/fuzz.py

gpu-wheels: $(INSTALLED) ## wheels for scripts/bench_gpu.py on a GPU machine without network
	$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --dest .wheels \
		--python-version $(GPU_PYTHON) --platform manylinux_2_28_x86_64 \
		--platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
		--constraint constraints.txt $(GPU_PACKAGES:all=$(ALL_GPU_PACKAGES))
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir .wheels \
		--constraint constraints.txt antlr4-python3-runtime
	@du -ch .wheels/*.whl
