# `make` lists the targets. Set-up lives in .venv and is skipped while requirements.lock stays as it is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup run smoke test test-slow check lock status verify revouch gc publish push pull clean install-with-uv install-with-pip

PYTHON ?= python3
BIN := .venv/bin
STUDIES := . $(wildcard studies/*)
# DVC leaves empty folders where it found nothing to pull.
RUN_HERE = $(or $(patsubst %/data/prepared/,%/dvc.yaml,$(sort $(dir $(wildcard $(STUDIES:%=%/data/prepared/*))))),dvc.yaml)
FOLDER = $(if $(STUDY),studies/$(STUDY),.)

# Which build of PyTorch: cpu, or for a GPU cu130, cu126, rocm7.2, ... The choice of the last set-up stays.
TORCH ?= $(or $(patsubst .venv/installed-%,%,$(wildcard .venv/installed-*)),cpu)
INSTALLED = .venv/installed-$(TORCH)
TORCH_REQUIREMENT = $(shell grep '^torch==' requirements.lock)

# uv does not read pip's settings. A PyTorch in pip's find-links goes before PyTorch's own index, unless a GPU is asked for.
FIND_LINKS = $(or $(PIP_FIND_LINKS),$(shell $(BIN)/pip config get global.find-links 2>/dev/null))
TORCH_WHEEL = $(subst ==,-,$(TORCH_REQUIREMENT))*-$(shell $(BIN)/python -c 'import sys; print("cp%d%d" % sys.version_info[:2])')-*.whl
LOCAL_TORCH = $(if $(filter cpu,$(TORCH)),$(wildcard $(addsuffix /$(TORCH_WHEEL),$(FIND_LINKS:file://%=%))))
UV = $(or $(shell command -v uv),$(BIN)/uv)
UV_INSTALL = UV_FIND_LINKS="$$(tr ' ' , <<< "$(strip $(FIND_LINKS))")" \
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python
PIP_INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## install what requirements.lock lists into .venv (TORCH=cu130 for a GPU)

run: setup ## answer the default study in data/results/report.html
	@$(BIN)/snakemake --cores all

smoke: setup ## run the same chain, extended, in about two minutes, in studies/smoke
	@$(BIN)/snakemake --cores all --config study=smoke

# A file's tests stay together, as they share networks, and files in the order of tests/conftest.py. More processes than
# these wait for the slowest file.
test: setup ## run the tests, on up to four cores
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses logical --maxprocesses 4 \
		--dist loadfile --no-loadscope-reorder

test-slow: setup ## run the tests that take many minutes
	@$(BIN)/python -m pytest -m slow

check: setup ## check the style, and that each study's dvc.yaml is the plan of its params.yaml
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile
	$(BIN)/snakemake --lint
	@for study in $(STUDIES); do echo "$$study: python -m stages plan --check"; \
		(cd $$study && "$(CURDIR)/$(BIN)/python" -m stages plan --check) || exit 1; done

# The lock names no build of PyTorch and none of its GPU libraries: set-up chooses them.
lock: setup ## choose the newest versions that pyproject.toml allows, in requirements.lock
	@test -x "$(UV)" || $(PIP_INSTALL) uv
	@versions=$$(UV_FIND_LINKS="$$(tr ' ' , <<< "$(strip $(FIND_LINKS))")" $(UV) pip compile --quiet --upgrade pyproject.toml \
		--extra dev --universal --python-version 3.11 --no-header --no-annotate); \
	{ grep -vE '^(nvidia-|cuda-|triton==|torchvision==|torch==)' <<< "$$versions"; \
		grep -oE '^ *"torch==[0-9.]+' pyproject.toml | tr -d ' "'; } | LC_ALL=C sort -t= -k1,1 > requirements.lock

status: setup ## say what changed since results were made, in the studies that were run here
	@$(BIN)/dvc status $(RUN_HERE)

verify: setup ## check that all results are what dvc.lock says, and compute some scores again (STUDY=smoke: of that study)
	@cd $(FOLDER) && "$(CURDIR)/$(BIN)/python" -m stages verify $(if $(COUNT),--count $(COUNT))

revouch: setup ## keep results after a change of code that changes none: compute some again, and compare (COUNT=5, STUDY=, SINCE=HEAD, RULES=)
	@cd $(FOLDER) && "$(CURDIR)/$(BIN)/python" -m stages revouch $(if $(COUNT),--count $(COUNT)) $(if $(SINCE),--since $(SINCE)) $(if $(RULES),--rules $(RULES))

gc: setup ## say which unused results would be removed from the cache (DELETE=yes removes them, DAYS=30 is how old)
	@$(BIN)/python -m stages gc $(if $(filter yes,$(DELETE)),--delete) $(if $(DAYS),--days $(DAYS))

publish: setup ## copy networks, and other results that are small, into data/published, for git (STUDY=smoke, LIMIT=50 in kB)
	@cd $(FOLDER) && "$(CURDIR)/$(BIN)/python" -m stages publish $(if $(LIMIT),--limit $(LIMIT))

# Of the studies that were run here, and of those that anybody ran: DVC lists every file of the others as missing.
push: setup ## share results through the DVC remote (REMOTE=name, else the default one)
	@$(BIN)/dvc push --run-cache $(REMOTE:%=--remote %) $(RUN_HERE)

pull: setup ## get results that were shared; what the remote lacks is computed by the next run
	@$(BIN)/dvc pull --run-cache --allow-missing $(REMOTE:%=--remote %) \
		$(patsubst %/dvc.lock,%/dvc.yaml,$(wildcard $(addsuffix /dvc.lock,$(STUDIES))))

clean: ## remove results and logs (the cache in .dvc restores them) but for those in git
	@git clean -fdXq -- data studies logs benchmarks .snakemake .pytest_cache .ruff_cache

$(INSTALLED): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is $$($(PYTHON) --version), expected Python 3.11 or later; name another by PYTHON=..." >&2; exit 1; }
	@echo "Setting up .venv with $(TORCH_REQUIREMENT) ($(TORCH)): seconds with uv, minutes with pip"
	@$(PYTHON) -m venv --clear .venv
	@$(MAKE) --no-print-directory TORCH=$(TORCH) install-with-uv \
		|| { echo "uv did not work here, going on with pip" >&2; \
			$(MAKE) --no-print-directory TORCH=$(TORCH) install-with-pip; }
	@touch $@

# PyTorch first and with its dependencies, as its builds differ in them; the rest without, since torchattacks asks for
# a requests of 2021 and for a torchvision that it never imports.
install-with-uv:
	@test -x "$(UV)" || $(PIP_INSTALL) uv
	@$(UV_INSTALL) $(if $(LOCAL_TORCH),,--torch-backend=$(TORCH)) --constraint requirements.lock $(TORCH_REQUIREMENT)
	@$(UV_INSTALL) --no-deps --requirement requirements.lock
	@$(UV_INSTALL) --no-deps --no-build-isolation --editable .

install-with-pip:
	@test $(TORCH) != auto || { echo "TORCH=auto needs uv; name a build, such as TORCH=cu130" >&2; exit 1; }
	@$(PIP_INSTALL) --no-deps $(if $(LOCAL_TORCH),,--index-url https://download.pytorch.org/whl/$(TORCH)) $(TORCH_REQUIREMENT)
	@$(PIP_INSTALL) --constraint requirements.lock $(TORCH_REQUIREMENT)
	@$(PIP_INSTALL) --no-deps --requirement requirements.lock
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
