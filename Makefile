# The whole project from a fresh clone: `make quickstart` or `make test`. `make help` lists the rest.
#   PYTHON=python3.12              which Python makes .venv; default: the first of 3.11 to 3.13 that is found
#   PIP_ARGS="--extra-index-url …" passed to pip, for example to choose torch's CPU build
#   OUTPUT=DIR ARGS="--seed 1"     of quickstart, MINUTES=15 caps it: PPO ends early on a slow machine
#   PYTEST_ARGS="-k ppo"           of the tests; TEST_WORKERS=N run side by side (default 2), 0: one after the other
#   BENCH_OUTPUT=DIR ARGS="…"      of bench-gpu
OUTPUT ?= runs/quickstart
BENCH_OUTPUT ?= runs/bench-gpu
ARGS ?=
MINUTES ?=
PIP_ARGS ?=
PYTEST_ARGS ?=
TEST_WORKERS ?= 2
PYTHON ?=

# A file's tests stay together: they share what is costly to make.
PYTEST = $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-all bench-gpu docs check format clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

setup: $(INSTALLED) ## make .venv and install vlarl with its tested versions

# The stamp is written last, so an interrupted installation is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || scripts/make_venv.sh $(VENV) $(PYTHON)
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e '.[dev,cluster]'
	$(BIN)/python scripts/compile.py
	@touch $@

quickstart: setup ## LIBERO end to end: demonstrations, SFT, PPO, report
	$(BIN)/vlarl quickstart --output '$(OUTPUT)' $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)
	@echo 'Open $(abspath $(OUTPUT))/report.html in a browser.'

test: setup ## all tests but the slow ones
	$(PYTEST) -m 'not slow' $(PYTEST_ARGS)

test-all: setup ## all tests
	$(PYTEST) $(PYTEST_ARGS)

# Takes the Python that is there: torch, transformers and peft are enough, vlarl need not be installed.
bench-gpu: ## OpenVLA-7B with random weights on a GPU: decoding, PPO update, memory; writes JSON and Markdown
	PYTHONPATH=. $(or $(PYTHON),$(wildcard $(BIN)/python),python3) benchmarks/gpu.py --output '$(BENCH_OUTPUT)' $(ARGS)

docs: setup ## the documentation as a site in site/; fails on a broken link
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[docs]'
	$(BIN)/python -m pytest -q tests/test_docs_site.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

check: setup ## lint, format, types, import order
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/test_import_graph.py

format: setup ## put the code in its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
