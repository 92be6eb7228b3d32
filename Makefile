# What people type and what CI runs. `make` lists the targets. PYTHON=path/to/python chooses the environment.
PYTHON ?= python
PROBE ?= vif
BENCH ?= speed

QUICK = tests/repository/test_layering.py tests/repository/test_docs.py tests/repository/test_generated_docs.py \
  tests/repository/test_glossary.py tests/repository/test_habits.py
SLOW = tests/plugins tests/render tests/cli tests/checkpoint/test_large.py tests/probes/credit/test_utilisation.py \
  tests/repairs/test_repairing.py tests/repairs/test_together.py tests/accelerator tests/attacks tests/autoconfig \
  tests/benchmarks/test_coverage.py tests/benchmarks/test_library_families.py tests/benchmarks/test_planted.py \
  tests/repository tests/distributed tests/tasks tests/readouts tests/io/test_spill.py tests/test_real_data.py
# What reads files from strangers, and what writes: `make coverage` asks for every branch of it.
COVERED = tests/checkpoint tests/config tests/io tests/report tests/adapters/weights

.DEFAULT_GOAL := help
.PHONY: help dev format lint types spell docs-check site contract check test test-slow coverage test-all doc bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: ## install collapsekit for development, and what its tests and checks need (the only target that uses a network)
	$(PYTHON) -m pip install -c constraints.txt -e ".[test,lint]"

format: ## format the code, and fix what can be fixed
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

lint: ## style and format, without changing anything
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: ## types of the package and of the plugins
	$(PYTHON) -m mypy
	MYPYPATH=plugins/callbacks/src:plugins/pytest/src $(PYTHON) -m mypy -p collapsekit_callbacks -p collapsekit_pytest

spell: ## spelling of code and prose
	$(PYTHON) -m codespell_lib

docs-check: ## whether the pages are as `make doc` would write them
	$(PYTHON) docs/generate.py --check

site: ## the documentation as a site in build/site, warnings as errors; needs the extra docs
	$(PYTHON) -m sphinx -W --keep-going -q -c docs/site -b html . build/site

contract: ## what every probe promises, for one: PROBE=vif
	$(PYTHON) -m pytest -n 0 tests/probes/test_contract.py -k "[$(PROBE)]"

check: lint types spell docs-check ## the quick loop: all of the above, layering, docs, one probe's contract
	$(PYTHON) -m pytest -n 0 $(QUICK)
	@$(MAKE) --no-print-directory contract

test: ## every test but the slow ones, on every core
	$(PYTHON) -m pytest

test-slow: ## examples, plugins and whole commands, which take longer
	$(PYTHON) -m pytest -m slow $(SLOW)

coverage: ## every branch of what reads files from strangers, and of what writes
	$(PYTHON) -m coverage run -m pytest -q -n 0 -p no:cacheprovider $(COVERED)
	$(PYTHON) -m coverage report

test-all: test test-slow coverage ## everything that CI tests

doc: ## write anew what the docs take from the code
	$(PYTHON) docs/generate.py

bench: ## one benchmark: BENCH=speed, planted, coverage, gate, repair, callbacks, pipeline or gpu; ARGS="--help"
	$(PYTHON) -m benchmarks.$(BENCH) $(ARGS)
