# Entrega. Every target makes .venv when it is missing or out of date; nothing else needs to be installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The rivals that `make bench` compares with; only benchmarks use them.
RIVALS := .venv-bench
RIVALS_READY := $(RIVALS)/.ready
# Files that are tested at once. Most tests wait and do not compute, so more than there are cores.
JOBS ?= 4

define CHECK_PYTHON
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || { echo "Entrega needs Python 3.11 or newer; name one: make venv PYTHON=python3.12" >&2; exit 1; }; \
$(PYTHON) -c 'import ensurepip' 2>/dev/null \
  || { echo "This Python cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
endef

.DEFAULT_GOAL := help
.PHONY: help venv demo test install-check check up faults attack bench bench-quick bench-claims bench-fairness bench-growth bench-soak bench-start bench-submits outage requirements clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(READY) ## Make .venv with everything in it; the command line is .venv/bin/entrega

# One rule for both: exactly the packages of the file, each with its hash; nothing is resolved.
$(READY): requirements/dev.txt pyproject.toml
	@$(CHECK_PYTHON)
	@$(PYTHON) requirements/install.py $(VENV) requirements/dev.txt --project $(if $(PIP),--pip $(PIP))

demo: $(READY) ## Run the main job and its worst days, in under a minute
	@$(BIN)/entrega demo

test: $(READY) ## Run all tests on real embedded servers (JOBS=1 runs one file at a time)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered --cov-fail-under=90

install-check: $(READY) ## Install it and play the demo as strangers do: no network, Ctrl-C, another account (about 15 minutes)
	@$(BIN)/python -m tests.install.check $(CHECK)

# `make check` looks for what has the form of a credential. Detectors that guess from names and randomness are off. Unit tests
# reach no network, so that theirs are invented.
GUESSING := KeywordDetector Base64HighEntropyString HexHighEntropyString BasicAuthDetector IPPublicDetector

check: $(READY) ## Lint, types, import contracts, and no credential in a file
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@git ls-files -z ':!requirements/*.txt' ':!tests/unit' \
	  | xargs -0 $(BIN)/detect-secrets-hook --no-verify $(addprefix --disable-plugin ,$(GUESSING))

up: $(READY) ## Run the whole system here, with stand-in providers and Flower, until Ctrl-C
	@$(BIN)/entrega up --sandbox --flower

faults: $(READY) ## Prove the promises under seeded faults, and show that a naive worker breaks them (FAULTS="--seed 7")
	@$(BIN)/python -m tests.faults.run $(FAULTS)

attack: $(READY) ## Attack a running system in every known way, and show what happened (ATTACK="--only broker")
	@$(BIN)/python -m tests.attacks.run $(ATTACK)

$(RIVALS_READY): requirements/bench.txt
	@$(CHECK_PYTHON)
	@$(PYTHON) requirements/install.py $(RIVALS) requirements/bench.txt

bench: $(READY) $(RIVALS_READY) ## Measure us alone and beside our rivals; results under benchmarks/results (BENCH="--rounds 5")
	@$(BIN)/python -m benchmarks.inbound
	@$(BIN)/python -m benchmarks.compare $(BENCH)

bench-quick: $(READY) $(RIVALS_READY) ## See in three minutes that we and every rival still run side by side
	@$(BIN)/python -m benchmarks.compare --quick

bench-claims: $(READY) ## Measure a claim behind 1,000 and behind 1,000,000 waiting deliveries
	@$(BIN)/python -m benchmarks.claims

bench-fairness: $(READY) ## Measure how long a message waits behind a bulk of 100,000
	@$(BIN)/python -m benchmarks.fairness

bench-growth: $(READY) ## Measure what a delivery costs with more rows, processes and accounts (GROWTH="--rows 1000 100000")
	@$(BIN)/python -m benchmarks.growth $(GROWTH)

bench-soak: $(READY) ## Watch memory and disk over 200,000 deliveries, about half an hour (SOAK="--deliveries 20000")
	@$(BIN)/python -m benchmarks.soak $(SOAK)

bench-submits: $(READY) ## Measure how many durable submits one producer makes in a second
	@$(BIN)/python -m benchmarks.submits

bench-start: $(READY) ## Measure how long help, a worker and the whole system take to start
	@$(BIN)/python -m benchmarks.start

outage: $(READY) ## Let the CRM answer 503 for a minute under load, and see all of it arrive within the limit
	@ENTREGA_OUTAGE_S=60 $(BIN)/python -m pytest -q -s tests/e2e/test_e2e_outage.py

requirements: ## Write the requirements files anew from pyproject.toml; needs uv (UPGRADE=-U takes newer versions)
	@$(CHECK_PYTHON)
	@$(PYTHON) requirements/refresh.py $(UPGRADE)

clean: ## Remove what make and the tests left behind; keeps the data folder .entrega
	rm -rf $(VENV) $(RIVALS) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage *.egg-info
