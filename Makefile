# `make demo` and `make test` work on a fresh machine: they set up .venv first. `make help` lists everything.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := $(shell grep '^torch==' constraints.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
PYTEST := $(BIN)/python -m pytest
SOURCES := src packages tests benchmarks

.PHONY: help setup demo reproduce libero test test-slow lint format bench docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## install into .venv

# torch comes first: it is by far the largest part, and the rest then finds it in place.
$(STAMP): pyproject.toml packages/rdvla-client/pyproject.toml packages/rdvla-peers/pyproject.toml constraints.txt
	@test -x $(BIN)/python || { python=$$(bash scripts/find_python.sh); echo "creating $(VENV) with $$python"; \
		"$$python" -m venv $(VENV); }
	@bash scripts/system_packages.sh
	@echo "installing $(TORCH)"
	@$(PIP) install "$(TORCH)" -c constraints.txt
	@echo "installing rdvla and what it needs"
	@$(PIP) install -e packages/rdvla-client -e packages/rdvla-peers -e '.[all,dev,docs]' -c constraints.txt
	@# The real client and server of openpi, for the tests: their requirements exclude numpy 2, which they work with.
	@$(PIP) install --no-deps openpi-client==0.1.2 openpi-server==0.1.0
	@touch $@

demo: $(STAMP) ## evaluate the shipped policy at several depths and write the report
	$(BIN)/rdvla demo

# Each step of `make reproduce` is skipped when its result is there, and goes on where it was interrupted. A run has
# a policy from its first validation on, so a file of its own says that it is finished.
DATASET := datasets/metaworld/meta/info.json
PERCEPTION := runs/reproduce/perception/finished
HEADS := recurrent single_pass untied
RESULTS := $(HEADS:%=runs/reproduce/eval_%/results.json)

reproduce: $(RESULTS) ## demonstrations, training and evaluation from nothing (hours)
	$(BIN)/rdvla report $(RESULTS) --output runs/reproduce/report.html

$(DATASET): | $(STAMP)
	$(BIN)/rdvla demos --config reproduce/demos

$(PERCEPTION): | $(DATASET)
	$(BIN)/rdvla train --config reproduce/perception --resume true
	@touch $@

runs/reproduce/%/finished: | $(PERCEPTION)
	$(BIN)/rdvla train --config reproduce/$* --resume true
	@touch $@

$(RESULTS): runs/reproduce/eval_%/results.json: | runs/reproduce/%/finished
	$(BIN)/rdvla eval --config reproduce/eval_$*

# The same for LIBERO's four suites, one policy each; `make runs/libero/eval_goal/results.json` does one of them.
COMMA := ,
SPACE := $() $()
LIBERO_RESULTS := $(patsubst %,runs/libero/eval_%/results.json,spatial object goal 10)

libero: $(LIBERO_RESULTS) ## the same on LIBERO's suites spatial, object, goal and 10 (many hours)
	$(BIN)/rdvla report recurrent=$(subst $(SPACE),$(COMMA),$(LIBERO_RESULTS)) --output runs/libero/report.html

datasets/libero_%/meta/info.json: | $(STAMP)
	$(BIN)/rdvla demos --config libero/demos --env libero_$* --output datasets/libero_$*

runs/libero/perception_%/finished: | datasets/libero_%/meta/info.json
	$(BIN)/rdvla train --config libero/perception --dataset datasets/libero_$* \
		--output_dir runs/libero/perception_$* --resume true
	@touch $@

runs/libero/recurrent_%/finished: | runs/libero/perception_%/finished
	$(BIN)/rdvla train --config libero/recurrent --dataset datasets/libero_$* \
		--init_from runs/libero/perception_$*/policy --output_dir runs/libero/recurrent_$* --resume true
	@touch $@

$(LIBERO_RESULTS): runs/libero/eval_%/results.json: | runs/libero/recurrent_%/finished
	$(BIN)/rdvla eval --config libero/eval --env libero_$* --label recurrent \
		--policy runs/libero/recurrent_$*/policy --output runs/libero/eval_$*

.PRECIOUS: runs/reproduce/%/finished datasets/libero_%/meta/info.json \
	runs/libero/perception_%/finished runs/libero/recurrent_%/finished

test test-slow: export OMP_NUM_THREADS := 1  # the processes of pytest-xdist share the cores

test: $(STAMP) ## the fast tests
	$(PYTEST) -m "not slow" -n auto --dist loadfile

test-slow: $(STAMP) ## all tests
	$(PYTEST) -n auto --dist loadfile

lint: $(STAMP) ## style and types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: $(STAMP) ## reformat, and fix what can be fixed
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(STAMP) ## latency and memory of the head on this machine
	$(BIN)/rdvla bench --output runs/bench/head.json

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(STAMP) ## these pages as a site: build/site/index.html
	$(BIN)/mkdocs build --strict --quiet

clean: ## remove .venv and caches; runs/ and datasets/ stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
