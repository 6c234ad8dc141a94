# `make help` explains the targets. Everything runs from a fresh clone; set-up goes into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OUTPUT ?= demo-output
MINUTES ?= 60
PROCESSES ?= 3
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo app test test-fast lint format chaos soak fuzz docs interop bench checkpoint clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s'|'

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sam3ray needs Python >= 3.11, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1); try: make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "Installing sam3ray into $(VENV) (about 6 GB, once; a few minutes)" >&2
	$(PIP) -c constraints.txt -e '.[app,eval]'
	$(PIP) -c constraints.txt --no-deps trackeval
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) -c constraints.txt -e '.[dev,s3,azure,gcs]'
	@touch $@

setup: $(VENV)/.dev  ## install everything into .venv

demo: $(VENV)/.run  ## label drawn clips with the embedded checkpoint and render them (OUTPUT=demo-output)
	$(BIN)/sam3ray demo --output $(OUTPUT)

app: $(VENV)/.run  ## serve the web page, with the embedded checkpoint and drawn clips (SOURCE="videos/ run ..." for your own)
	$(BIN)/sam3ray app $(SOURCE)

# One process more than the two cores of CI, since many tests wait for Ray or a browser. Each needs some 3 GB.
test: $(VENV)/.dev  ## run all tests, in three processes (PROCESSES=3)
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

# These folders are skipped before collection, because importing them takes longer than a test.
SKIPPED := e2e app engine training cameras
test-fast: $(VENV)/.dev  ## run the tests that need no Ray, no server and no model (under 90 s)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q --durations=5 -m 'not slow and not server and not long' \
	  $(addprefix --ignore=tests/,$(SKIPPED))

lint: $(VENV)/.dev  ## check style, types and imports between packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tools.check_imports

format: $(VENV)/.dev  ## format the code, and fix lint where possible
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

chaos: $(VENV)/.dev  ## kill processes at random and compare the results with an undisturbed run
	$(BIN)/python -m tests.e2e.chaos
	$(BIN)/python -m tests.e2e.clip_kills

soak: $(VENV)/.dev  ## watch live video for an hour and check that memory does not grow (MINUTES=60)
	$(BIN)/python -m tests.app.soak --minutes $(MINUTES)

fuzz: $(VENV)/.dev  ## read 200,000 damaged inputs of every kind (ten minutes; continues where it stopped)
	$(BIN)/python -m tools.fuzz

docs: $(VENV)/.dev  ## build the documentation site in build/docs
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet -f configs/mkdocs.yml
	@echo "open build/docs/index.html" >&2

interop: $(VENV)/.dev  ## check exports with the real tools, each in its own environment (NAMES="labelme ..."; some GB)
	$(BIN)/python -m tools.interop $(NAMES)

bench: $(VENV)/.dev  ## compare the engine's speed and memory with transformers' documented way
	$(BIN)/python -m benchmarks.engine

checkpoint: $(VENV)/.dev  ## train a checkpoint like the embedded one into build/checkpoint (3 hours on a CPU; resumes)
	$(BIN)/python -m tools.training train build/checkpoint --minutes 180

clean:  ## remove .venv, caches and the demo's output
	rm -rf $(VENV) $(OUTPUT) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
