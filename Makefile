# `make serve` and `make test` work on a machine that has only python3 (3.10-3.12, with venv), git and make.

PORT ?= 3000
BIN := .venv/bin
SOURCES := service.py pack_model.py guidance_core kernels benchmarks tests
PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$python && break; done)
# PyTorch for Linux may bring gigabytes of CUDA; set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU builds to avoid it.
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --prefer-binary

.PHONY: help serve model test check format bench browser clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

serve: .venv/serving model  ## serve the model on port 3000 (PORT=… for another one, ARGS='--arg name=value' for settings)
	@echo "==> Starting the service on http://127.0.0.1:$(PORT)"
	@$(BIN)/python -c 'import socket, sys; socket.create_server(("127.0.0.1", int(sys.argv[1])))' $(PORT) 2>/dev/null || \
		{ echo "error: port $(PORT) cannot be had: something else listens there. Choose another one: make serve PORT=3001"; exit 1; }
	@# Without a bound, a stream that runs would keep the service alive after Ctrl-C until it has ended.
	@exec $(BIN)/bentoml serve . --port $(PORT) --timeout-graceful-shutdown 5 $(ARGS)

model: .venv/serving  ## pack the default model into the Bento model store if it is missing
	@echo "==> Model"
	@$(BIN)/python pack_model.py --if-missing

test: .venv/developing model browser  ## run all tests (ARGS='tests/output -k stop' for some)
	@echo "==> Tests"
	@# Two at once, a file of tests to each: many wait for processes. ARGS='-n 0 …' runs and prints one after the other.
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: .venv/developing  ## lint, check the format and the types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: .venv/developing  ## format the code and mend what the linter can
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: .venv/developing model  ## measure; report in benchmarks/out (ARGS=--quick for a smoke test)
	@$(BIN)/python -m benchmarks $(ARGS)

# The test of the Swagger page drives a real browser; without one it skips and says so.
browser:
	@if ! command -v chromedriver >/dev/null && command -v apt-get >/dev/null && test "$$(id -u)" = 0; then \
		echo "==> Installing Chromium for the test of the Swagger page"; \
		(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
			chromium chromium-driver >/dev/null) || echo "Chromium could not be installed: its test will skip"; fi

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "error: Python 3.10, 3.11 or 3.12 is needed, and none was found. Name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "==> Making the environment .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv
	@# The pip that older Pythons bring takes minutes to choose versions, a newer one seconds.
	@$(INSTALL) --quiet --upgrade pip

.venv/serving: requirements.txt | .venv/bin/python
	@echo "==> Installing what serving needs (PyTorch is the large part)"
	@$(INSTALL) -r requirements.txt
	@touch $@

.venv/developing: requirements-dev.txt requirements-clients.txt .venv/serving | .venv/bin/python
	@echo "==> Installing what tests and checks need"
	@$(INSTALL) -r requirements-dev.txt
	@$(INSTALL) --no-deps -r requirements-clients.txt
	@touch $@

clean:  ## remove the environment and caches (models stay in the Bento store)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis benchmarks/out
