# The vocabulary of this project: `make help` lists it.
#
# Nothing has to be installed by hand before: each target brings what it needs, from apt (with sudo where that is
# needed) and from pip, and remembers it in stamp files, so that the next call does nothing.

PYTHON  ?= /usr/bin/python3
DESTDIR ?=
# Options for papad in `make run`, e.g. make run ARGS='-p 20303 -d'; RUN_ARGS says the same.
ARGS     ?=
RUN_ARGS ?= $(ARGS)

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run chaos fuzz bench growth plots demo docs unit coverage test check install uninstall deb dist clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(VENV)/.ready  ## make .venv with papad and papactl in its bin

setup-dev: $(VENV)/.ready-dev  ## the same, with what `check` and `test` need

# The system's own packages are visible inside: python3-systemd needs no compiler that way.
$(VENV)/.ready: pyproject.toml scripts/packages
	@scripts/packages run
	$(PYTHON) -m venv --system-site-packages --without-pip $(VENV)
	$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@scripts/packages test
	$(PIP) install --no-build-isolation --editable '.[dev]'
	@touch $@

$(VENV)/.ready-release: $(VENV)/.ready
	$(PIP) install --no-build-isolation --editable '.[release]'
	@touch $@

$(VENV)/.ready-plots: $(VENV)/.ready
	$(PIP) install --no-build-isolation --editable '.[plots]'
	@touch $@

run: setup  ## run papad in the foreground; ARGS= are its options
	@scripts/how-to-talk $(RUN_ARGS)
	@exec $(BIN)/papad $(RUN_ARGS)

check: setup-dev  ## ruff, strict mypy, spelling, generated docs, versions, the law of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python scripts/docs --check
	$(BIN)/python scripts/version --check
	$(BIN)/python -m pytest -q tests/unit/test_layers.py

chaos: setup-dev  ## kill papad at random for SECONDS= (60), with SEED=, on a booted systemd
	PAPAD_CHAOS_SECONDS=$(or $(SECONDS),60) PAPAD_CHAOS_SEED=$(SEED) $(BIN)/python -m pytest -s -o faulthandler_timeout=0 tests/system/test_chaos.py -k random

fuzz: setup-dev  ## COUNT= (1000000) damaged inputs to each part that takes some, with SEED=
	PAPAD_FUZZ_COUNT=$(or $(COUNT),1000000) PAPAD_FUZZ_SEED=$(SEED) $(BIN)/python -m pytest -s -q -o faulthandler_timeout=0 tests/fuzz

.PHONY: recount soak
recount: setup-dev  ## count anew what operations take, for the commit that changes it
	$(BIN)/python -m tests.guard.record

soak: setup-dev  ## use three papads for MINUTES= (60) or SECONDS=: nothing grows, nothing is lost; see build/soak.svg
	PAPAD_SOAK_SECONDS=$(or $(SECONDS),$(shell expr $(or $(MINUTES),60) '*' 60)) PAPAD_SOAK_RESULTS=build/soak.jsonl $(BIN)/python -m pytest -s -q -o faulthandler_timeout=0 tests/soak

bench: setup-dev  ## measure papad beside its peers, in ROUNDS= (3) of SECONDS= (0.3) each; ONLY= some questions
	@ROUNDS='$(ROUNDS)' SECONDS='$(SECONDS)' $(BIN)/python -m benchmarks $(ONLY)

# The figures are recorded beside the plots, so that these can be drawn again without measuring.
growth: setup-dev $(VENV)/.ready-plots  ## measure how costs grow with processes, clients and lines, ROUNDS= SECONDS= as above, and draw it
	@mkdir -p build docs/benchmarks
	@ROUNDS='$(ROUNDS)' SECONDS='$(SECONDS)' $(BIN)/python -m benchmarks.growth >build/growth.jsonl
	@mv build/growth.jsonl docs/benchmarks/growth.jsonl
	@$(BIN)/python -m benchmarks.plots

plots: $(VENV)/.ready-plots  ## draw docs/benchmarks/*.svg again from the figures that `growth` has recorded there
	@$(BIN)/python -m benchmarks.plots

demo: setup  ## see what papad survives, in two minutes (root)
	@scripts/packages test
	@$(PYTHON) scripts/demo

docs: setup  ## bring docs/protocol.md up to date with the command table
	$(BIN)/python scripts/docs

unit: setup-dev  ## the unit tests: no container, no root, under a minute
	$(BIN)/python -m pytest -q -n 2 tests/unit

coverage: setup-dev  ## branch coverage of the unit tests
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q tests/unit
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

# Two at a time: those on one booted Debian, and meanwhile those on the other, or on none. A worker that dies ends
# the run: with groups, xdist has been seen to wait for ever for its successor. The trees to boot are made first, for
# that may take longer than a test may; where nothing can be booted, the tests of that are skipped.
test: check  ## check, then every test, on a booted systemd too
	-@$(BIN)/python -m tests.system.trees
	$(BIN)/python -m pytest -n 2 --dist loadgroup --max-worker-restart=0

install:  ## put papad in place, or a newer one; honours DESTDIR=
	@scripts/install '$(PYTHON)' '$(DESTDIR)'

uninstall:  ## remove what `install` put in place; honours DESTDIR=
	@scripts/uninstall '$(DESTDIR)'

deb:  ## build the Debian packages into dist/, or with REVISION= those of an earlier commit
	@scripts/packages deb
	@scripts/deb $(REVISION)

dist: $(VENV)/.ready-release  ## build sdist and wheel into dist/, and check them as PyPI would
	@scripts/dist $(BIN)/python

clean:  ## remove what the other targets made in the checkout
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .coverage* .ruff_cache .hypothesis
	find papad tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
