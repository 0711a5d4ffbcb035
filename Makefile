# LAIN: install, run, test. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DISTRIBUTIONS := shared sdk cli services/console services/deployd services/watcher
INSTALLED := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest

.PHONY: help packages install images up down hello lint format test test-fast e2e bench lock compose

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

packages: ## Debian packages a local cluster needs (as root, on Debian)
	@deploy/packages run

install: packages $(INSTALLED) ## the Python environment in .venv, exactly as locked

$(INSTALLED): constraints.txt $(DISTRIBUTIONS:%=%/pyproject.toml)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked Python packages"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r constraints.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation $(DISTRIBUTIONS:%=-e ./%)
	@touch $@

images: install ## the images of every part, those whose inputs changed
	@$(BIN)/python -m lain_cli.local.image_builds

up: install ## a cluster on this machine, with examples/hello running in it
	@$(BIN)/lain local up
	@deploy/hello

down: ## remove that cluster; nothing stays
	@$(BIN)/lain local down

hello: install ## ship examples/hello again
	@deploy/hello

lint: install ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff format --check -q .
	@$(BIN)/ruff check -q .
	@$(BIN)/mypy shared/lain_shared sdk/lain_sdk cli/lain_cli services/console/lain_console services/deployd/lain_deployd services/watcher/lain_watcher
	@$(BIN)/lint-imports

format: install
	@$(BIN)/ruff format -q .
	@$(BIN)/ruff check -q --fix .

test-fast: install ## pure tests, without any server; at most a minute
	@$(PYTEST) -m 'not etcd and not docker and not nginx and not cluster' tests/unit

test: ## everything: lint, unit, contract, integration, end to end
	@deploy/packages test
	@$(MAKE) --no-print-directory lint
	@$(PYTEST) tests

e2e: install ## the command line against a whole cluster
	@deploy/packages test
	@$(PYTEST) -m cluster tests/e2e

bench: install ## the proofs there are; run one by make bench-NAME or make proof-NAME
	@$(BIN)/python -m bench

bench-% proof-%: install ## one proof for the record: bench/results/NAME.json
	@deploy/packages bench
	@$(BIN)/python -m bench $*

lock: install ## resolve the dependencies anew (add UPGRADE=--upgrade to raise versions)
	@$(BIN)/python deploy/lock.py $(UPGRADE)

compose: install ## write deploy/compose.yaml from the table of parts
	@$(BIN)/python -m lain_cli.local.compose > deploy/compose.yaml.new && mv deploy/compose.yaml.new deploy/compose.yaml
