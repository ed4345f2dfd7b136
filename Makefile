# Everything runs in .venv, which the first target builds from constraints.txt.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Ray starts a process for every part of a job, and each would compile what it imports anew: images
# often have this variable set. So pip need not compile either, least of all what is never imported.
export PYTHONDONTWRITEBYTECODE :=

# The first Python that Ray and this project support; give another as `make demo PYTHON=/path`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null \
	&& { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.ready-bench
TESTS := $(sort $(dir $(wildcard tests/*/test_*.py)))
ARGS ?=
# Of `make results`: where its runs are kept, and its files of real data.
STORAGE ?= langalign-storage
MINI_DATA ?= langalign-storage/mini-data

.PHONY: help demo serve s3 rehearse results test test-fast lint format bench clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1|/' | \
		while IFS='|' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

demo: $(READY) ## Run the embedded demo: no data, no download, no GPU (ARGS="seed=1" changes it)
	@$(BIN)/python jobs/train.py $(ARGS)

serve: $(READY) ## Serve the demo's model on this machine (ARGS="model=ROOT/models/NAME" another)
	@$(BIN)/python -m serve $(ARGS)

s3: $(READY) ## Start an S3 store on this machine and print what to export
	@$(BIN)/python -m cluster s3 $(ARGS)

rehearse: $(READY) ## Rehearse a cluster on this machine: scale up, sweep, train, serve, scale down
	@$(BIN)/python -m cluster rehearse $(ARGS)

results: $(READY) ## Run what docs/results.md reports and put it there (DATA=FOLDER ENCODER=FOLDER)
	@if [ -z "$(DATA)" ] || [ -z "$(ENCODER)" ]; then
		echo "error: name the public data sets and a small encoder: make results DATA=FOLDER ENCODER=FOLDER" >&2
		exit 1
	fi
	# Cells that are there are not made again.
	run() { $(BIN)/python jobs/benchmark.py --config "jobs/configs/$$1.yaml" "storage=$(STORAGE)" "$${@:2}"; }
	$(BIN)/python benchmarks/mini_data.py "$(DATA)" "$(MINI_DATA)"
	run benchmark-demo
	run benchmark-mini "data=$(MINI_DATA)" "encoder.name=$(ENCODER)"
	run benchmark-align-mlm
	$(BIN)/python benchmarks/write_results.py "$(STORAGE)" benchmark-demo benchmark-mini benchmark-align-mlm

test: $(READY) ## Run all tests, with those that start a Ray cluster or an S3 server
	@$(BIN)/python -m pytest -m "slow or not slow" -n 2 --durations=40 --durations-min=5

test-fast: $(READY) ## Run the default tier: no network, no server, no cluster
	@$(BIN)/python -m pytest

lint: $(READY) ## Check style (ruff) and types (mypy --strict)
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	# Folders of tests have a conftest each, and mypy takes one module of a name at a time.
	for folder in $(TESTS); do MYPYPATH=tests $(BIN)/mypy "$$folder"; done

format: $(READY) ## Let ruff sort imports and lay out the code
	@$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

bench: $(BENCH_READY) ## List the benchmarks and run the quick ones
	@for file in $$(grep -l __main__ benchmarks/*.py); do
		printf '  %-24s %s\n' "$$file" "$$(sed -n '1s/"""//gp' "$$file")"
	done
	for quick in "embed.py --only tiny --rows 10000" "align.py --pairs 500 --epochs 1"; do
		echo
		echo "python benchmarks/$$quick"
		$(BIN)/python benchmarks/$$quick
	done

clean: ## Remove .venv and caches; langalign-storage/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then
		echo "error: no Python 3.11 or 3.12 found; install one, or name it: make PYTHON=/path/to/python3.11" >&2
		exit 1
	fi
	echo "setting up $(VENV) with $$($(PYTHON) --version), a minute or two" >&2
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(BENCH_READY): $(READY)
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@
