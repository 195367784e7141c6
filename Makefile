# The two commands of a fresh machine: `make demo` and `make test`.
SHELL := bash
PYTHON := .venv/bin/python
BIN := .venv/bin
# Where the project lies on every worker's host.
ROOT ?= /opt/gx-backup
# What this machine is for: runtime (a protected host), rehearsal (one that rehearses restores too), test, or bench.
SET ?= test
# The Kubernetes for tests.
CLUSTER ?= ../shared/cluster
# What to test: make test TESTS=tests/unit
TESTS ?=
# How many test files at once; 0: one after the other, in this process, as `--pdb` wants it.
JOBS ?= 2

.PHONY: help setup demo test cluster-test check docs bench deploy keys lock

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10

setup: ## programs and Python packages that are missing; on a protected host: make setup SET=runtime
	@scripts/setup $(SET)

demo: setup ## back up a website through Prefect, destroy it, restore it, compare (KEEP=1 leaves the UI up)
	@$(PYTHON) scripts/demo.py

test: setup ## all tests
	@$(PYTHON) -m pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder $(TESTS)

cluster-test: setup ## tests on a real Kubernetes, which CLUSTER/up starts and CLUSTER/deploy fills
	@eval "$$($(CLUSTER)/up)" && GX_TICK=1 $(CLUSTER)/deploy && \
	$(PYTHON) -m pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder -m cluster tests/cluster

check: setup ## style, types, imports, schedules against promises, deployments and docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(PYTHON) -m gxbackup.schedules
	@$(PYTHON) -m pytest -q tests/test_*.py

docs: setup ## write the pages that come from the code
	@$(PYTHON) scripts/reference.py

bench: ## time and memory against the strategy's steps, restic, borg and the bare pipeline; with CLUSTER, of all kinds
	@scripts/setup bench
	@status=0; $(PYTHON) scripts/bench.py || status=$$?; \
	if [ -x $(CLUSTER)/up ]; then \
		eval "$$($(CLUSTER)/up)"; export PATH="$$(dirname "$$KUBECONFIG")/../bin:$$PATH"; \
		for part in databases ledger; do $(PYTHON) scripts/bench_$$part.py || status=$$?; done; \
	else echo "bench: no $(CLUSTER)/up: databases and ledgers are not measured"; fi; exit $$status

deploy: ## apply prefect.yaml to the server of PREFECT_API_URL; workers find the code in ROOT
	@scripts/setup runtime
	@$(PYTHON) scripts/deploy.py --root $(ROOT)

keys: ## make this host's signing key and print the line for the inventory: make keys HOST=vps1
	@scripts/setup runtime
	@$(PYTHON) -m gxbackup.signing $(HOST)

lock: ## pin every package anew in requirements.lock
	@scripts/lock
