# make demo        the main job, on real digits (two minutes after installation)
# make test        all tests
# make test-zoo    the long tests: every network of the zoo, spoiled input, faults
# make test-fuzz   2,000 random networks the whole way, FUZZ="--seed 7" others (under an hour)
# make test-lowest the tests with the oldest versions that setup.cfg admits, in an environment of their own
# make test-wheel  the wheel, built, installed in an empty environment and used
# make lint        ruff and mypy
# make bench       the benchmarks
# make coverage    docs/coverage.md: every network of torchvision and many of timm
# make docs        the documents as a site in build/site; a warning is an error
# make checkpoint  train the weights that ship with the zoo anew
# make clean       remove what these made, generated files excepted

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := build/lowest
# Each worker has one thread: threads of several would fight for the same cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
# What an installation depends on; a newer one of them installs again.
PACKAGING := setup.cfg pyproject.toml

.PHONY: demo test test-zoo test-fuzz test-lowest test-wheel lint bench coverage docs checkpoint clean
.DELETE_ON_ERROR:

# PASSIVE: threads that spin while they wait triple the time when something else runs, too.
demo: $(VENV)/.installed
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python app.py demo

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not zoo"

test-zoo: $(VENV)/.installed-dev
	$(PYTEST) -m zoo

test-fuzz: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(FUZZ)

# With the extras, whose bounds are tested as well.
test-lowest: | $(BIN)/pip
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet $$($(BIN)/python tests/lowest.py deploy timm bench)
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 -m "not zoo"

test-wheel: | $(BIN)/pip
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet build/wheel/*.whl
	cd build/wheel && venv/bin/python -I ../../tests/use_wheel.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks

coverage: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.coverage --family all --write

# Python puts this folder first where modules are looked for: the pages are of what lies here.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m mkdocs build --strict

checkpoint: $(VENV)/.installed
	$(BIN)/python -m models.train_checkpoint

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing that venv makes: an interrupted one is made again.
$(BIN)/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(PACKAGING) | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(PACKAGING) | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(VENV)/.installed $@

$(VENV)/.installed-docs: $(PACKAGING) | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $(VENV)/.installed $@
