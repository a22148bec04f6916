# make setup | run | twin | test | test-slow | test-engines | check | bench | blueprints | idp | locks
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
OUT := out
ACCASIM := .venv-accasim
IDP := .venv-idp
PEERS := .venv-peers
# Folders of the slow tests that are run.
SLOW ?= tests

.PHONY: idp setup run twin test test-slow engines test-engines check bench blueprints docs locks clean

setup: $(STAMP)

# The environment, from hash-pinned locks, then every kernel compiled once; Ray's bytecode too, for which its first start would wait.
$(STAMP): requirements-dev.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q $(VENV)/lib/python3*/site-packages/ray || true
	$(BIN)/dure compile
	touch $@

# A live alliance on this machine, with a tour through its API; `make run ONCE=1` ends after it with 0, or 1 where it failed.
run: setup
	$(BIN)/dure up --tour $(if $(ONCE),--once)

# Replays a trace (a recorded one where there is one) and a day of the 260,000-GPU reference alliance.
twin: setup
	$(BIN)/dure tour --out $(OUT)

# Four processes on the two cores that CI has, since most tests wait; in the order of their folders, the longest of which come first.
test: setup
	$(BIN)/python -m pytest -m "not slow" -n 4 --dist loadfile --no-loadscope-reorder

# Two processes: CI has two cores. What is skipped is named with the reason (most need the recorded traces).
test-slow: setup
	$(BIN)/python -m pytest $(SLOW) -m slow -n 2 -rs

# A real Slurm for the tests of engines, with its REST API and its accounting, from Debian's packages (Ray comes with `setup`); tests of
# what cannot be installed are skipped.
SLURM := slurm-wlm slurmrestd slurmdbd slurm-wlm-mysql-plugin mariadb-server
engines:
	@dpkg --status $(SLURM) > /dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq --no-install-recommends $(SLURM) > /dev/null; } \
	  || echo "Not all of Slurm is here or can be installed: tests of what is missing are skipped"

# Slurm and Ray, the quick and the slow.
test-engines: setup engines
	$(BIN)/python -m pytest tests/engines -n 2 --dist loadfile -rs

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A peer that is measured beside, in an environment of its own: nothing else needs it.
$(ACCASIM)/.ready: benchmarks/requirements-accasim.txt
	test -x $(ACCASIM)/bin/python || $(PYTHON) -m venv $(ACCASIM)
	$(ACCASIM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	touch $@

# A real OpenID Connect provider for the tests of signing in, which are skipped without it.
idp: $(IDP)/.ready

$(IDP)/.ready: tests/idp/requirements.txt
	test -x $(IDP)/bin/python || $(PYTHON) -m venv $(IDP)
	$(IDP)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

# HyperQueue and Ray, to be measured beside.
$(PEERS)/.ready: benchmarks/requirements-peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	$(PEERS)/bin/python -m compileall -q $(PEERS)/lib || true
	touch $@

# The libraries of the blueprints. PyTorch's build for CPUs, where pip finds it (on this machine, or in an index that PIP_EXTRA_INDEX_URL
# names); otherwise the package index's, which is for CUDA and needs CUDA's libraries beside it.
PIP_LOCKED := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes
blueprints: $(VENV)/.blueprints

$(VENV)/.blueprints: requirements-blueprints.txt requirements-torch-cpu.txt $(STAMP)
	$(PIP_LOCKED) -r $<
	$(PIP_LOCKED) -r requirements-torch-cpu.txt || $(PIP_LOCKED) -r requirements-torch-cuda.txt
	touch $@

bench: setup $(ACCASIM)/.ready $(PEERS)/.ready $(VENV)/.blueprints
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-json=benchmarks/latest.json
	$(BIN)/python benchmarks/table.py
	$(BIN)/python benchmarks/live/load.py
	$(BIN)/python benchmarks/live/peers.py
	$(BIN)/python benchmarks/live/slurm.py
	$(BIN)/python benchmarks/live/slurm.py --nodes 256 --jobs 768 --seconds 60 --gpus 8 --rounds 1 --ways "one by one" dure
	$(BIN)/python benchmarks/blueprints/leaving.py

# What blueprints take on the reference fleet (the twin is asked); the schemas, the key tables, the tables of Slurm's options and of the
# blueprints, from the models and the files.
docs: setup
	$(BIN)/python -m dure.cli.blueprint_fleet
	$(BIN)/python -m dure.twin.files
	$(BIN)/python -m dure.cli.slurm.docs
	$(BIN)/python -m dure.cli.blueprint_docs

TORCH := 2.13.0
COMPILE := $(BIN)/uv pip compile pyproject.toml --generate-hashes --no-header --no-emit-index-url --quiet

# The locks, newly resolved: what `setup` installs, what the blueprints need besides, and PyTorch's build for CUDA with its libraries.
# The package index does not have the build for CPUs: its lock, with the file's hash, is written by hand.
locks: setup
	$(COMPILE) --extra dev -o requirements-dev.txt
	mkdir -p $(OUT)
	{ echo torch==$(TORCH); sed 's/^\([A-Za-z0-9_.-]*\)\[[^]]*\]/\1/' requirements-dev.txt; } > $(OUT)/fixed.txt
	$(COMPILE) --extra blueprints -c $(OUT)/fixed.txt --no-annotate -o $(OUT)/blueprints.txt
	awk '/^[a-z]/ { of = /^(torch==|cuda|nvidia|triton)/ ? "torch-cuda" : "blueprints" } { print > ("requirements-" of ".txt") }' $(OUT)/blueprints.txt

clean:
	rm -rf $(VENV) $(ACCASIM) $(IDP) $(PEERS) $(OUT) build dist
