# The commands of this project. `make` alone lists them.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install run test bench check lint types imports wheel format lock clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv and install everything the lock file names, by hash

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "Python 3.11 or newer is needed, and $(PYTHON) is none. Name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing what requirements.lock names into $(VENV): a minute or two, the first time only."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock \
	  || { echo "Not everything could be installed; pip says why above. It needs a network or a mirror (PIP_INDEX_URL). Then: make $(MAKECMDGOALS)"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@

run: install ## run everything on this machine: Valkey, SQLite, web, worker, a sandbox Flutterwave
	$(BIN)/paystate dev $(ARGS)

test: install ## run the tests on real servers (Valkey and PostgreSQL come from wheels)
# One process more than cores: the tests wait for servers nearly as often as they compute.
	$(BIN)/python -m pytest -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --maxprocesses 6 --dist worksteal $(ARGS)

BENCHES := streams race lookup scale reader ingest apply latency polls

bench: install ## measure everything, ten minutes; writes bench/results/ and the table in README.md
	for name in $(BENCHES); do $(BIN)/python -W ignore -m bench $$name || exit 1; done
	$(BIN)/python -m bench.summary

# Of every proof one part in so many; CI runs a tenth.
PORTION ?= 1
# The longest first.
PROOFS := prove-postgresql prove-sqlite prove-chance prove-hostile prove-model prove-removals prove-api
.PHONY: proof $(PROOFS)

proof: install ## prove the promises: model, interleavings, removals, hostile input (PORTION=10: a tenth)
	$(MAKE) --no-print-directory -j3 -Otarget $(PROOFS)

prove-model:
	$(BIN)/python -m tests.model $(if $(filter 1,$(PORTION)),--all)

# Each of them waits as much as it computes, so three share two cores well.
prove-sqlite:
	$(BIN)/python -W ignore -m tests.interleavings --schedules $$((20000 / $(PORTION)))

prove-chance:
	$(BIN)/python -W ignore -m tests.interleavings --by-chance \
	  --first-seed 2000000 --schedules $$((18000 / $(PORTION)))

# Who is cut off from the cache is so whatever the database: that story is proven on SQLite.
prove-postgresql:
	$(BIN)/python -W ignore -m tests.interleavings --database postgresql \
	  $(if $(filter 1,$(PORTION)),--leave-out cut-off,--by-chance) --first-seed 1000000 --schedules $$((12000 / $(PORTION)))

prove-removals:
	for mechanism in token mark incarnation version open_event near forestall wait unsent prepared; do \
	  $(BIN)/python -W ignore -m tests.interleavings --without $$mechanism || exit 1; \
	done
	$(BIN)/python -W ignore -m tests.interleavings --database postgresql --without writer

# In part: the same search each time. What a new one finds is for whoever looks for it, not for CI.
prove-hostile:
	PYTHONHASHSEED=$(if $(filter 1,$(PORTION)),random,0) $(BIN)/python -m tests.hostile \
	  $(if $(filter 1,$(PORTION)),--seconds 60,--runs 20000 --seed 1)

# In part: the same questions each time, as in `make test`.
prove-api:
	$(if $(filter 1,$(PORTION)),FUZZ_API_EXAMPLES=25) $(BIN)/python -m pytest -q -o faulthandler_timeout=0 tests/e2e/test_described.py

fuzz-api: install ## have schemathesis ask the API whatever it can think of (N=500 for each operation)
	FUZZ_API_EXAMPLES=$(or $(N),500) $(BIN)/python -m pytest -q -o faulthandler_timeout=0 tests/e2e/test_described.py $(ARGS)

.PHONY: fuzz-api

check: lint types imports deploy-check docs-check ## lint, formatting, types, import rules, deploy/, docs/reference

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

imports: install
	$(BIN)/lint-imports

.PHONY: deploy-check
deploy-check: install # what deploy/ says against the code; promtool, nginx, systemd and kubectl where they are
	$(BIN)/python -m deploy.check

docs: install ## write docs/reference anew from the code
	$(BIN)/python -m docs.generate

.PHONY: docs docs-check
docs-check: install # docs/reference is what the code makes
	$(BIN)/python -m docs.generate --check

wheel: install ## build the wheel and see that it holds the package alone
	$(BIN)/python -m hatchling build -t wheel
	@$(BIN)/python -m zipfile -l dist/paystate-*.whl | tail -n +2 | cut -d' ' -f1 \
	  | grep -vE '^paystate(/|-)' && { echo "the wheel holds more than paystate"; exit 1; } || true

format: install ## format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: install ## write requirements.lock anew from pyproject.toml (needs uv on the PATH)
	uv pip compile pyproject.toml --extra server --group dev --universal --upgrade \
	  --generate-hashes --no-emit-index-url --no-header --quiet -o requirements.lock

clean: ## remove what the commands above made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
