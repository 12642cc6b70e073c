# Works from a folder with spaces in its name, and without a network once installed.
# Tools run as `python -m …`: the scripts that pip writes name their interpreter by
# absolute path, which a folder that was moved breaks.

PYTHON  ?= $(shell python3.11 --version >/dev/null 2>&1 && echo python3.11 || echo python3)
WORKERS ?= 2# test processes; 0 runs the tests in one
ARGS    ?=# more arguments, as in `make test ARGS='-k wait'`, `make bench-postgres ARGS=--quick`
SECONDS ?= 60# how long `make chaos` and `make chaos-postgres` make trouble
SEED    ?=# what it does and when; empty for a new one. For `make simulate`, the only one to run
SEEDS   ?= 20000# how many `make simulate` runs
PHOTOS  ?=# the folder that `make demo` works on; empty for photos of its own

VENV   := .venv
# For the test of the README's Node client, which is skipped without npm, but not in CI.
NODE_PACKAGES := @grpc/grpc-js@1.14.7 @grpc/proto-loader@0.8.1
export NODE_PATH := $(CURDIR)/.venv/node/node_modules
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/installed
PEERS  := $(VENV)/peers-installed
BUF    := $(VENV)/bin/buf
PROTOS := $(shell find protos -path protos/third_party -prune -o -name '*.proto' -print | LC_ALL=C sort)

# The stamp says where the environment was installed. Elsewhere, or without a working
# interpreter, it says nothing.
STALE := $(shell [ -x $(PY) ] && [ "$$(cat $(STAMP) 2>/dev/null)" = "$$(pwd -P)" ] || echo FORCE)

# What `protos-check` compares the protos with: the last release, because that is what
# callers were promised, and before the first one the main branch. A detached checkout
# has no branch `main` of its own, and a shallow one may have neither.
PROTOS_BASE ?= $(shell { git describe --tags --abbrev=0 --match 'v*' \
	|| git rev-parse --verify --quiet --symbolic-full-name origin/main \
	|| git rev-parse --verify --quiet --symbolic-full-name main; } 2>/dev/null)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## Print this message
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "%-16s %s\n", $$1, $$2}' Makefile

.PHONY: install
install: $(STAMP) ## Create .venv with everything that the other targets need

# pip first: older ones do not know --group. No build isolation, because an isolated
# build fetches the build backend anew each time; some of the tests' tools have no wheel
# and need setuptools.
$(STAMP): pyproject.toml constraints.txt $(STALE)
	@echo "Installing into $(VENV), which takes about a minute and needs the network …"
	[ -x $(PY) ] || $(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --quiet -c constraints.txt pip hatchling setuptools
	$(PY) -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[imaging,postgres,uvloop]' --group dev
	@if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund --no-save \
	  --no-package-lock --prefix $(VENV)/node $(NODE_PACKAGES) \
	  || echo "The README's Node client will not be tested: npm could not install it."; fi
	@pwd -P > $(STAMP)

.PHONY: FORCE
FORCE:

# protoc starts its plug-ins as programs of their own.
PLUGINS := $(VENV)/plugins/main $(VENV)/plugins/grpc
$(PLUGINS): $(VENV)/plugins/%: $(STAMP)
	@mkdir -p $(@D)
	@printf '#!/bin/sh\nexec $(PY) -c "from mypy_protobuf.main import $* as run; run()"\n' > $@
	@chmod +x $@

define PROTOC
rm -rf generated.tmp && mkdir generated.tmp
$(PY) -m grpc_tools.protoc -Iprotos -Iprotos/third_party \
	--plugin=protoc-gen-mypy=$(VENV)/plugins/main --plugin=protoc-gen-mypy_grpc=$(VENV)/plugins/grpc \
	--python_out=generated.tmp --grpc_python_out=generated.tmp \
	--mypy_out=quiet:generated.tmp --mypy_grpc_out=quiet:generated.tmp $(PROTOS)
touch generated.tmp/outlastapi/py.typed
endef

.PHONY: generate
generate: $(PLUGINS) ## Write generated/ from protos/
	$(PROTOC)
	rm -rf generated && mv generated.tmp generated

.PHONY: generate-check
generate-check: $(PLUGINS) ## Fail if generated/ is not what protos/ says
	$(PROTOC)
	diff -r --exclude=__pycache__ generated.tmp generated
	@rm -rf generated.tmp

.PHONY: format
format: $(STAMP) ## Format and fix what can be fixed
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(BUF) format --write --path protos/outlastapi

.PHONY: lint
lint: $(STAMP) ## Lint the Python code
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

.PHONY: types
types: $(STAMP) ## Check the types
	$(PY) -m mypy src benchmarks $(wildcard tests/typing/*.py)

.PHONY: imports
imports: $(STAMP) ## Check that the layers import in one direction
	$(PY) -c 'from importlinter.cli import lint_imports_command as run; run()'

.PHONY: protos-check
protos-check: $(STAMP) ## Lint the protos and compare them with the last release
	$(BUF) lint
	$(BUF) format --diff --exit-code --path protos/outlastapi
	@if ! git cat-file -e '$(PROTOS_BASE):protos/outlastapi' 2>/dev/null; then \
	    echo 'buf breaking: skipped, no earlier protos to compare with'; \
	else \
	    echo '$(BUF) breaking --against $(PROTOS_BASE)' && \
	    rm -rf build/base && mkdir -p build/base/protos && cp buf.yaml build/base && \
	    cp -R protos/third_party build/base/protos && \
	    git archive '$(PROTOS_BASE)' protos/outlastapi | tar -x -C build/base && \
	    $(BUF) breaking --against build/base; \
	fi

.PHONY: check
check: lint types imports protos-check generate-check test ## Everything that CI runs

.PHONY: test
test: $(STAMP) ## Run the tests
	$(PY) -m pytest -n $(WORKERS) $(ARGS)

.PHONY: cover
cover: $(STAMP) ## Run the tests and print what they do not reach
	$(PY) -m coverage erase
	$(PY) -m coverage run -m pytest $(ARGS)
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report

.PHONY: demo
demo: $(STAMP) ## Process photos (yours: PHOTOS=folder) with a server that is killed; go on from data/demo
	$(PY) -m outlast_imaging.demo $(if $(PHOTOS),"$(PHOTOS)")

.PHONY: chaos
chaos: $(STAMP) ## Kill and pause servers under load and check what callers saw (SECONDS=60, SEED=random)
	$(PY) -m tests.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

.PHONY: chaos-postgres
chaos-postgres: $(STAMP) ## The same with a worker on PostgreSQL, which crashes too (SECONDS=60, SEED=random)
	$(PY) -m tests.chaos --store postgres --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

.PHONY: simulate
simulate: $(STAMP) ## Simulate the engine under faults (SEEDS=20000), or replay one seed (SEED=4711)
	$(PY) -m outlast.testing.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --jobs 2)

.PHONY: bench
bench: $(STAMP) ## Measure Outlast beside a bare server, and print the figures
	$(PY) -m benchmarks

# Installed for this only: nothing else needs what Outlast is measured beside.
$(PEERS): $(STAMP)
	$(PY) -m pip install --quiet -c constraints.txt --group bench
	@touch $@

.PHONY: bench-postgres
bench-postgres: $(PEERS) ## Measure it on PostgreSQL, beside other queues (ten minutes; ARGS=--quick, --help)
	$(PY) -m benchmarks.postgres $(ARGS)

.PHONY: clean
clean: ## Remove caches, builds and what the demo keeps in data/demo; .venv stays
	rm -rf data/demo build dist generated.tmp htmlcov .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
