# One command: `make up`. And one more: `make test`. Both set up `.venv` first,
# and again only after the lock file changed. Needs Python >= 3.12, and no uv.
ARGS ?=
SHELL := /bin/sh
BIN := .venv/bin
READY := .venv/.ready
SYNC := sync --frozen --all-extras

# uv must neither follow another active environment nor a user's setting to one
export UV_PROJECT_ENVIRONMENT := .venv
unexport VIRTUAL_ENV
# it trusts whom the machine trusts, where that is written down: an organisation's own
# certificate authority, say
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt),)
export UV_SYSTEM_CERTS ?= 1
endif

.PHONY: up test lint format cite bench docs clean
.DEFAULT_GOAL := up

# `exec`: a signal to make reaches the command itself, not a shell in between
up: $(READY)
	@exec $(BIN)/pygeoapi-prefect up $(ARGS)

# Two at a time: most tests wait for servers and workers. tests/scheduling.py says in which order
test: $(READY)
	@exec $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The OGC's conformance suite; needs Java 17 and Maven
cite: $(READY)
	@exec $(BIN)/python -m conformance $(ARGS)

bench: $(READY)
	@exec $(BIN)/python -m benchmarks $(ARGS)

# The documentation as a site, in site/; its tools are installed when they are first needed
docs: $(READY)
	@PATH="$$PATH:$(BIN)" NO_MKDOCS_2_WARNING=1 \
	  uv run --frozen --all-extras --group docs mkdocs build --strict

# Jobs and results of earlier runs (.pygeoapi-prefect) are kept
clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Without uv on PATH, it goes into the environment that it then fills; `--inexact` keeps it
# from removing itself. What was interrupted half-way has no $(READY) and is completed next time.
FITS := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 12))
PYTHONS := python3 python3.12 python3.13 python3.14 \
  $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.1[2-9].*/bin/python3)

$(READY): pyproject.toml uv.lock Makefile
	@if command -v uv >/dev/null 2>&1; then \
	  exec uv $(SYNC); \
	fi; \
	if ! $(BIN)/python -c 'import pip; $(FITS)' >/dev/null 2>&1; then \
	  for python in $(PYTHONS) ''; do \
	    if [ -z "$$python" ]; then \
	      echo 'error: found no Python >= 3.12 with its venv module: install it, or uv' >&2; exit 1; \
	    elif "$$python" -c '$(FITS)' >/dev/null 2>&1; then \
	      break; \
	    fi; \
	  done; \
	  echo "Creating .venv with $$python"; \
	  "$$python" -m venv --clear .venv || exit 1; \
	fi; \
	[ -x $(BIN)/uv ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv || exit 1; \
	$(BIN)/uv $(SYNC) --inexact
	@touch $@
