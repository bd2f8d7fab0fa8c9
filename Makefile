# The everyday tasks of voxmim. Each one that needs it makes .venv and installs into it first.
PYTHON ?= python3
DEMO   ?= voxmim-demo

BIN     := .venv/bin
VERSIONS := pyproject.toml constraints.txt
# nnU-Net's networks, for the tests of imports: without torchvision, which breaks MONAI beside another build of torch.
FOREIGN := dynamic-network-architectures==0.4.4 timm==1.0.22

.DEFAULT_GOAL := help
.PHONY: help demo test check docs clean
.NOTPARALLEL:

help:  ## show these lines
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile

demo: .venv/installed  ## install, and run every step on generated scans; results in voxmim-demo/
	@$(BIN)/voxmim demo --out $(DEMO)

test: .venv/installed-dev  ## install with the development tools, and run the tests
	@$(BIN)/python -m pytest

check: .venv/installed-dev  ## lint, format, types and imports (changes nothing)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy src
	@$(BIN)/lint-imports

docs: .venv/installed-dev  ## build the documentation site into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:  ## remove .venv and what the tools left behind (results of runs stay)
	@rm -rf .venv site .import_linter_cache .pytest_cache .hypothesis .mypy_cache .ruff_cache build dist

.venv/installed: $(VERSIONS) | $(BIN)/pip
	@echo "Installing voxmim into .venv (the first time takes some minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

.venv/installed-dev: $(VERSIONS) | $(BIN)/pip
	@echo "Installing voxmim and its development tools into .venv (the first time takes some minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(FOREIGN)
	@touch $@ .venv/installed

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "voxmim needs Python 3.11 or newer, and '$(PYTHON)' was not found: install it or name another, as in 'make test PYTHON=python3.12'." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "voxmim needs Python 3.11 or newer, and '$(PYTHON)' is older: name another, as in 'make test PYTHON=python3.12'." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: install its venv module (Debian and Ubuntu: sudo apt install python3-venv)." >&2; exit 1; }
	@$(PYTHON) -m venv .venv
