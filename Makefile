# Everything starts here: `make help`. Needs Python >= 3.11, g++, make and perl; the rest comes from PyPI.

SHELL  := /bin/bash
# A step that fails or is interrupted leaves no target behind.
.DELETE_ON_ERROR:
# The first on PATH that is new enough; python3 where none is, so that `make env` can say what is wrong.
NEW    := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(or $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	    if $$p -c '$(NEW)' 2>/dev/null; then echo $$p; break; fi; done),python3)
VENV   := .venv
BIN    := $(VENV)/bin
# An environment belongs to the project's metadata and to the list of its modules, because the editable install links
# them one by one (which is how editors and type checkers find them). Where either changes, it is brought up to date.
FILES  := $(shell find spec reference compiler hw sim host boards evidence tooling systolith \( -name '*.py' -o -name py.typed -o -path '*/native/*' \) | LC_ALL=C sort)
STATE  := $(shell { echo $(FILES); cat pyproject.toml; } | cksum | cut -d' ' -f1)
DEMO   := $(VENV)/.demo-$(STATE)
READY  := $(VENV)/.ready-$(STATE)
# Two workers: simulations are compiled by g++, which takes a core and a gigabyte each.
JOBS   ?= 2

.DEFAULT_GOAL := help
.PHONY: help env demo test test-all netlist bench record figures bitstream bitstreams fuzz formal lint types docs clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(READY)  ## create .venv with everything in it (PyPI only); instant the second time

# Installs the project with the extras EXTRAS. An installation that was interrupted begins again, in an empty
# environment.
define install
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) was not found: install Python 3.11 or later, or name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c '$(NEW)' || { echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1), but Python 3.11 or later is needed: name one with PYTHON=python3.11" >&2; exit 1; }
	@for tool in g++ make perl; do command -v $$tool >/dev/null || { echo "make: $$tool was not found: install it with the system's package manager (Debian: apt-get install g++ make perl)" >&2; exit 1; }; done
	@if [ -e $(VENV)/.installing ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    $(PYTHON) -m venv --clear $(VENV) || { echo "make: $(PYTHON) cannot create a virtual environment (Debian: apt-get install python3-venv)" >&2; exit 1; }; fi
	@touch $(VENV)/.installing
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=strict -e '.[$(EXTRAS)]'
	@rm -f $(VENV)/.installing $(VENV)/.demo-* $(VENV)/.ready-*
	@touch $(DEMO)
endef

# The links of an editable install lie in build/; without them it is made again.
LINKS  := $(if $(wildcard build/__editable__.*),,links)
.PHONY: links
links:

$(DEMO): EXTRAS := sim
$(DEMO): $(LINKS)
	$(install)

$(READY): EXTRAS := dev
$(READY): $(LINKS)
	$(install)
	@touch $@

demo: $(DEMO)  ## a CNN for digits on reference, machine and RTL, bit for bit
	$(BIN)/python examples/digits/demo.py

test: env  ## the quick suite
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not slow"

test-all: env  ## every test, the slow ones too
	$(BIN)/python -m pytest -q -n $(JOBS)

netlist: env  ## blocks and a small core after synthesis give the RTL's bits in the RTL's cycles
	$(BIN)/python -m pytest -q tests/sim/test_netlist.py tests/sim/test_cells.py

bench: env  ## speed of the simulation, models and recurrent layers on RTL; MODELS=FOLDER takes its *_qdq.onnx
	@mkdir -p build
	$(BIN)/python benchmarks/speed.py --json build/bench-speed.json
	$(BIN)/python benchmarks/models.py $(MODELS) --json build/bench-models.json
	$(BIN)/python benchmarks/recurrent.py --json build/bench-recurrent.json

record: env  ## measure what README and docs show: make record MODELS=FOLDER (MLPerf Tiny) VOICE=FOLDER (Silero VAD) FAMILIES="FOLDER..."
	@test -n "$(MODELS)" -a -n "$(VOICE)" -a -n "$(FAMILIES)" || { echo "make record: name the folders, as in make record MODELS=mlperf_tiny VOICE=silero_vad FAMILIES='survey zoo'" >&2; exit 2; }
	$(BIN)/python benchmarks/models.py $(MODELS) --memory 32:16 --memory 20:2 --record
	$(BIN)/python benchmarks/recurrent.py --record
	$(BIN)/python benchmarks/accuracy.py $(MODELS) --on rtl --arch array16 --record
	$(BIN)/python benchmarks/calibration.py $(MODELS) --record
	$(BIN)/python benchmarks/voice.py $(VOICE) --record
	$(BIN)/python benchmarks/families.py $(FAMILIES) --record
	$(BIN)/python benchmarks/speed.py --builds --record
	$(BIN)/python benchmarks/transcripts.py
	$(BIN)/python benchmarks/figures.py

figures: env  ## write the recorded figures into README and docs
	$(BIN)/python benchmarks/figures.py

bitstream: env  ## of one board: make bitstream BOARD=ulx3s_85f (a quarter of an hour)
	@test -n "$(BOARD)" || { echo "make bitstream: say which board, as in make bitstream BOARD=ulx3s_85f" >&2; exit 2; }
	$(BIN)/systolith build --board $(BOARD) --json build/$(BOARD).json

# MODELS=FOLDER (MLPerf Tiny): those that fit a board run on it in simulation; benchmarks/boards.py says which.
bitstreams: env  ## of all boards, one after another (an hour)
	set -e; for board in $$($(BIN)/python -c 'from systolith.boards.board import BOARDS; print(*BOARDS)'); do \
	    models=$(if $(MODELS),$$($(BIN)/python benchmarks/boards.py --options $$board $(MODELS))); \
	    $(BIN)/systolith build --board $$board $$models --json build/$$board.json; done

# An hour, or HOURS=8, or CASES=10000; SEED=7 gives other cases.
fuzz: env  ## hostile images, models, arrays, TOML and assembly: nothing may crash, hang or take much memory
	$(BIN)/python -m tests.fuzz $(if $(CASES),--cases $(CASES)) $(if $(HOURS),--hours $(HOURS)) --seed $(or $(SEED),0) --jobs $(JOBS)

# SLOW=1: beside Bitwuzla, yosys's own prover shows each, a quarter of an hour.
formal: env  ## proofs of the hardware for all inputs and runs, each seen to find its planted bugs
	$(BIN)/python -m pytest -q -n $(JOBS) $(if $(SLOW),,-m "not slow") tests/formal

lint: types  ## ruff (rules and formatting) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Run where the editable install links the packages under their import names.
types: env  ## mypy, strict, where the project has got so far
	cd build/__editable__.* && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache \
	    -p systolith.spec -p systolith.tooling -p systolith.reference -p systolith.host -p systolith.evidence

docs: env  ## regenerate docs/isa.md, docs/csr.md, docs/operators.md, docs/host-link.md
	$(BIN)/python -m systolith.docs_pages

clean:  ## remove builds and caches, keep .venv
	find build -mindepth 1 -maxdepth 1 -not -name '__editable__.*' -exec rm -rf {} + 2>/dev/null || true
	rm -rf sim_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
