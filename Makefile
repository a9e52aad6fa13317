# `make` alone prints the targets.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
MASTER ?= ci
JOBS ?= 4

.DEFAULT_GOAL = help
.PHONY: help run stop test test-unit lint types format docs site conformance crash fuzz
.PHONY: bench bench-short bench-history bench-move bench-projects package clean

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

# The stamps say which of the package's requirements the environment holds.
$(VENV)/.run: setup.py
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.test: setup.py
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,dev,docs]'
	@touch $@ $(VENV)/.run

run: $(VENV)/.run ## make a master in ./ci, start it, run one build and show its log and result
	@test -e $(MASTER)/buildbot.tac || $(BIN)/litebot create-master $(MASTER)
	@$(BIN)/litebot status $(MASTER) >/dev/null 2>&1 || $(BIN)/litebot start $(MASTER)
	@$(BIN)/litebot build hello $(MASTER)
	@$(BIN)/litebot status $(MASTER) | sed -n 's|^page *\(.*\)|\nall projects: \1litebot/|p'

stop: $(VENV)/.run ## stop what `make run` left running
	@$(BIN)/litebot stop $(MASTER)

# Most tests wait for masters, so several run at a time.  Those of a file stay together as long as
# there is enough to do, as they may share a master.  What is compiled is kept: commands that are run
# as users run them would compile all of litebot each time.
test test-unit: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/.test ## run every test (LITEBOT_TEST_ALL=1: a skipped one fails)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal --durations 10

test-unit: $(VENV)/.test ## run the tests that need no master, in less than a minute
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal --durations 3 tests/unit

lint: $(VENV)/.test ## look for mistakes and for what the formatter would change
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.test ## check the types
	$(BIN)/mypy

format: $(VENV)/.test ## format the code
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

docs: $(VENV)/.test ## write the generated page docs/reference/cli.md anew from the commands
	$(BIN)/python docs/write_cli.py

site: $(VENV)/.test ## build docs/ as a website in ./site; a warning, such as a dead link, fails
	$(BIN)/python -m mkdocs build --strict --quiet

conformance: $(VENV)/.test ## run Buildbot's own tests on litebot's store and on stock, and compare
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/conformance/requirements.txt
	$(BIN)/python -m pytest tests/conformance

bench: $(VENV)/.test ## measure litebot beside stock Buildbot (BENCH="--rounds 5")
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	$(BIN)/python -m bench.compare $(BENCH)

bench-short: $(VENV)/.test ## the same in short, failing where litebot is too slow
	$(BIN)/python -m bench.compare --short $(BENCH)

bench-history: $(VENV)/.test ## measure litebot with a million builds of history
	$(BIN)/python -m bench.growth $(BENCH)

bench-move: $(VENV)/.test ## measure how fast a database is moved to Postgres and back
	$(BIN)/python -m bench.moved $(BENCH)

bench-projects: $(VENV)/.test ## measure a master with 50 and with 500 projects
	$(BIN)/python -m bench.projects $(BENCH)

crash: $(VENV)/.test ## kill masters 600 times, lose power and fail a disk everywhere (hours)
	LITEBOT_CRASH_KILLS=$${LITEBOT_CRASH_KILLS:-200} $(BIN)/python -m pytest -s tests/crash/test_random_kills.py
	LITEBOT_POWER_TIMES=$${LITEBOT_POWER_TIMES:-4} $(BIN)/python -m pytest -s tests/crash/test_power_loss.py
	LITEBOT_DISK_CALLS=$${LITEBOT_DISK_CALLS:-0} $(BIN)/python -m pytest tests/unit/test_each_call_of_a_disk.py

fuzz: $(VENV)/.test ## send 200,000 hostile inputs to every door of a master
	LITEBOT_FUZZ_INPUTS=$${LITEBOT_FUZZ_INPUTS:-200000} $(BIN)/python -m pytest -s tests/security/test_fuzz.py

package: $(VENV)/.test ## build a wheel and a source archive into dist/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build
	$(BIN)/python -m build --outdir dist .

clean: ## remove what the targets made, but no master
	rm -rf $(VENV) .cache build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
