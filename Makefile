# instance-manager: `make` lists the targets. The first one used sets up .venv from the lock file.
# Nothing is written outside the checkout.

.DEFAULT_GOAL := help

BIN := .venv/bin
READY := .venv/ready
RUNTIME_LOCK := requirements.lock
DEVELOPMENT_LOCK := requirements-dev.lock
BUILD_LOCK := docker/operand/requirements-build.lock
BUNDLE_LOCK := docker/manager/requirements-build.lock
UV_VERSION := 0.13.9

export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export UV_CACHE_DIR := $(CURDIR)/.cache/uv
unexport PYTHONHOME PYTHONPATH PYTHONPYCACHEPREFIX

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: $(READY) ## run the main job on the embedded PostgreSQL, in .run; Ctrl-C stops it
	@$(BIN)/python -m compileall -q instance_manager
	@$(BIN)/python -m instance_manager.postgres.embedded .run && exec $(BIN)/python -m instance_manager run --config .run/config.yaml

# REQUIRE=--require-browser fails where chromium is missing, instead of leaving its tests out.
.PHONY: test
test: $(READY) ## run every test that needs no container
	$(BIN)/python -m pytest --require-postgres $(REQUIRE) tests/unit tests/process tests/integration

.PHONY: e2e
e2e: $(READY) image ## build the images and run the container tests (needs podman, root or rootless)
	$(BIN)/python -m pytest --require-containers tests/container

.PHONY: matrix
matrix: $(READY) image ## try real Debian packages as volumes, all of them, and write docs/compatibility.md
	$(BIN)/python -m pytest --require-containers --matrix -p no:randomly \
	  tests/container/test_packages.py tests/container/test_built_packages.py

.PHONY: lint
lint: $(READY) ## style, formatting and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

.PHONY: types
types: $(READY) ## both type checkers, strict
	$(BIN)/mypy
	$(BIN)/pyright

.PHONY: imports
imports: $(READY) ## the layers and the purity of the rooms
	$(BIN)/lint-imports --no-logo

.PHONY: check
check: lint types imports test e2e ## all of the above, as the CI does it

.PHONY: image
image: ## build the operand image and the pgvector volume with podman
	docker/build

# EXTENSIONS='pgvector geo' takes some of them; '--load localhost/extensions' gives them to podman.
.PHONY: extensions
extensions: $(READY) image ## build and test the set of extension images, into build/extensions
	$(BIN)/python docker/extensions/build.py $(EXTENSIONS)

.PHONY: bench
bench: $(READY) ## measure, beside bare postgres on this host
	$(BIN)/python tests/bench/run.py

# SOAK='-k "postmaster and idle"' takes some of them; the figures go to build/faults.csv.
.PHONY: soak
soak: $(READY) ## make each fault many times, for hours, and show the figures
	$(BIN)/python -m pytest --require-postgres --require-containers --soak --timeout 14400 $(SOAK) \
	  tests/process tests/integration tests/container

.PHONY: lock
lock: ## make the lock files anew with the newest versions
	@test -x .cache/uv-$(UV_VERSION)/bin/uv || python3 -m pip install --quiet --target .cache/uv-$(UV_VERSION) uv==$(UV_VERSION)
	$(compile) pyproject.toml --output-file $(RUNTIME_LOCK)
	$(compile) pyproject.toml --extra embedded --extra dev --constraint $(RUNTIME_LOCK) --output-file $(DEVELOPMENT_LOCK)
	python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	  | $(compile) - --constraint $(DEVELOPMENT_LOCK) --output-file $(BUILD_LOCK)
	$(compile) $(BUNDLE_LOCK:.lock=.in) --constraint $(DEVELOPMENT_LOCK) --output-file $(BUNDLE_LOCK)

# The lock serves every Python that we support, and knows nothing of this host's indexes and wheels.
compile = env --unset=UV_FIND_LINKS .cache/uv-$(UV_VERSION)/bin/uv pip compile --quiet --no-config --upgrade \
  --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

.PHONY: clean
clean: ## remove all that make made, the demonstration's data in .run included
	rm -rf .venv .run .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage* build dist
	find . -name __pycache__ -type d -not -path './.git/*' -exec rm -rf {} +

# Started by root, postgres runs as another user, who must be able to reach the interpreter: one below a
# home directory of mode 0700 (pyenv's, often) is the last choice. `make PYTHON=/path/to/python3` decides.
$(READY): $(DEVELOPMENT_LOCK)
	@set -eu; umask 022; \
	fits() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; }; \
	reachable() { \
	  path=$$("$$1" -c 'import os, sys; print(os.path.realpath(sys.executable))'); \
	  while [ "$$path" != / ]; do \
	    path=$$(dirname "$$path"); \
	    case $$(stat --format=%a "$$path") in *[1357]) ;; *) return 1 ;; esac; \
	  done; \
	}; \
	python='$(PYTHON)'; last=''; \
	for candidate in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do \
	  [ -z "$$python" ] || break; \
	  fits "$$candidate" || continue; \
	  if reachable "$$candidate"; then python=$$candidate; else last=$${last:-$$candidate}; fi; \
	done; \
	python=$${python:-$$last}; \
	if [ -z "$$python" ]; then \
	  echo 'cannot set up .venv: no Python 3.11 or newer found; install one, or name it: make PYTHON=/path/to/python3' >&2; exit 1; \
	elif ! fits "$$python"; then \
	  echo "cannot set up .venv: $$python is not a Python of 3.11 or newer" >&2; exit 1; \
	elif "$$python" -c 'import ensurepip' 2> /dev/null; then \
	  "$$python" -m venv --clear .venv; pip='$(BIN)/python -m pip'; \
	elif "$$python" -m pip --version > /dev/null 2>&1; then \
	  "$$python" -m venv --clear --without-pip .venv; pip="$$python -m pip --python $(BIN)/python"; \
	else \
	  echo "cannot set up .venv: $$python has neither ensurepip nor pip; install python3-venv" >&2; exit 1; \
	fi; \
	echo "setting up .venv with $$($(BIN)/python --version)"; \
	$$pip install --quiet --only-binary :all: --require-hashes --requirement $(DEVELOPMENT_LOCK); \
	$$pip install --quiet --no-deps --no-build-isolation --no-index --editable .; \
	touch $@
