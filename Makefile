# Every target makes .venv when it is missing. Nothing outside this folder is touched, but for private temporary folders.

.DEFAULT_GOAL := help
.PHONY: help venv demo test check check-deploy bench bench-filter deep servers fuzz lock clean
SHELL := /bin/sh

BIN := .venv/bin
# PYTHON=... takes another interpreter than the one that is found below.
PYTHON ?=
SOURCES := proxy tests $(wildcard bench tools deploy)
# Files of tests side by side: most of the time is spent waiting. PYTEST_ADDOPTS='-n 0' runs them one after the other.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile

help:
	@echo "make demo    a sample PostgreSQL behind SideCart: the quickest way to see it work"
	@echo "make check   format, lint, types, security lint, unit tests (under a minute)"
	@echo "make check-deploy  static checks of image, compose file, workflows, Terraform; names what it skips"
	@echo "make test    all tests that take less than ten minutes together"
	@echo "make deep    the long tests"
	@echo "make bench   the benchmark of the whole: throughput beside PgBouncer's"
	@echo "make bench-filter  what a verdict costs, beside pglast's own tree"
	@echo "make servers PostgreSQL 12 to 18 for make deep (Linux x86-64; needs npm)"
	@echo "make fuzz    the fuzzers of the filter, and of the resolver alone and beside a server, for SECONDS=3600 each"
	@echo "make lock    write requirements.lock anew (needs uv)"
	@echo "make clean   remove .venv and everything else that was made here"

venv: .venv/installed

# --no-build-isolation: setuptools comes from the lock file too, with its hash.
.venv/installed: pyproject.toml requirements.lock
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "SideCart needs Python 3.11 or newer, and none was found: install one, or name it with make PYTHON=..." >&2; exit 1; \
	fi; \
	rm -rf .venv; \
	echo "Making .venv with $$($$found --version) ..."; \
	if ! $$found -m venv .venv; then \
	    echo "$$found cannot make virtual environments: on Debian and Ubuntu, apt-get install python3-venv." >&2; rm -rf .venv; exit 1; \
	fi
	@echo "Installing the packages of requirements.lock ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: .venv/installed
	@exec $(BIN)/sidecart demo $(DEMO)

test: .venv/installed
	@$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) tests

check: .venv/installed
	@$(BIN)/ruff format --check -q $(SOURCES)
	@$(BIN)/ruff check -q $(SOURCES)
	@$(BIN)/mypy --strict
	@$(BIN)/bandit -q -r proxy
	@$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) tests/unit

# The tools are not those of the project: they live in .deploy-venv. INSTALL_SECONDS bounds their installation.
INSTALL_SECONDS ?= 600
check-deploy:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        exec $$python tools/checks/check_deploy.py --install-seconds $(INSTALL_SECONDS); fi; \
	done; echo "make check-deploy needs Python 3.11 or newer" >&2; exit 1

bench: .venv/installed
	@$(BIN)/python -m bench.pgbench $(BENCH)

bench-filter: .venv/installed
	@$(BIN)/python -m bench.filter

# Without them the tests that want every version run on the versions that are installed, and say what is missing.
servers: .servers/installed

.servers/installed: tools/servers/package.json tools/servers/package-lock.json
	@mkdir -p .servers && cp tools/servers/package.json tools/servers/package-lock.json tools/servers/.npmrc .servers/
	@cd .servers && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

SECONDS ?= 3600
fuzz: .venv/installed
	@$(BIN)/python -m tests.fuzz.fuzz_filter --seconds $(SECONDS)
	@$(BIN)/python -m tests.fuzz.fuzz_resolver --seconds $(SECONDS)
	@$(BIN)/python -m tests.fuzz.fuzz_names --seconds $(SECONDS)

deep: .venv/installed
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory servers; fi
	@$(BIN)/python -m pytest -q -m deep tests

# No header, no index: a lock file without host names. The image's is a part of the project's, at the same versions.
LOCK := uv pip compile -q --generate-hashes --universal --python-version 3.11 --no-header --no-annotate \
    --no-emit-index-url --no-emit-find-links
lock:
	$(LOCK) --upgrade --all-extras pyproject.toml -o requirements.lock
	$(LOCK) --upgrade --extra aws --constraint requirements.lock pyproject.toml -o requirements.runtime.lock
	for kind in checks checkov audit; do $(LOCK) --upgrade tools/checks/$$kind.in -o tools/checks/$$kind.lock; done

clean:
	rm -rf .venv .deploy-venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
