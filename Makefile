# Two commands are enough: `make demo` and `make test`. Both set up .venv first, once.
PYTHON ?= python3
VENV ?= .venv
PTYCHODUS_VENV ?= .venv-ptychodus
OUT ?= demo_output
BENCH_OUT ?= bench_output
SEED ?= 0

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-ptychodus lint bench bench-quality bench-dose bench-bound bench-race docs clean

help:
	@echo "make demo      simulate a scan, train, reconstruct, compare with the truth; results in OUT=$(OUT)"
	@echo "make test      the test suite without the slow acceptance tests"
	@echo "make test-slow the slow acceptance tests (the real scan needs SIEMENS_STAR_DIR)"
	@echo "make test-ptychodus  the tests with the real ptychodus, in an environment of their own"
	@echo "make lint      ruff and mypy"
	@echo "make bench     speed and memory of every part; the demo, and the real scan if SIEMENS_STAR_DIR is set"
	@echo "make bench-quality   networks against each other on all benchmark scans; takes an hour"
	@echo "make bench-dose bench-bound bench-race   against LSQML of ptychi, in an environment of its own; hours, minutes,"
	@echo "              minutes; the last two on the real scan, so that SIEMENS_STAR_DIR is needed"
	@echo "make docs      the documentation as a site, in site/"
	@echo "make setup     only make $(VENV) and install into it"
	@echo "make clean     remove results and caches (not $(VENV))"

setup: $(STAMP)

# torch goes first and alone: pip then takes the build that its own settings offer, and nothing replaces it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %d.%d. Try: make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/ptychopinn demo --output-dir "$(OUT)" --seed $(SEED) --overwrite

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

# Exit code 5 of pytest means that no test was selected, which is no failure here.
test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow || test $$? -eq 5

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks/parts.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/ptychopinn demo --output-dir "$(BENCH_OUT)/demo" --seed $(SEED) --overwrite
	@if [ -n "$$SIEMENS_STAR_DIR" ]; then \
	  $(BIN)/ptychopinn train "$$SIEMENS_STAR_DIR/scan.npz" --crop 64 --half 62 \
	    --reference "$$SIEMENS_STAR_DIR/lsqml_200_n64.npz" \
	    --output-dir "$(BENCH_OUT)/siemens_n64" --overwrite; \
	else echo "SIEMENS_STAR_DIR is not set: the real scan is left out."; fi

bench-quality: $(STAMP)
	$(BIN)/python benchmarks/quality.py

# Each makes the peer's environment, .venv-peer, when it is not there.
bench-dose bench-bound bench-race: bench-%: $(STAMP)
	$(BIN)/python benchmarks/$*.py

# A stamp of its own: who only runs the tests does not need these.
$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	@touch $@

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

# ptychodus brings more packages than this project has: they stay out of its environment.
$(PTYCHODUS_VENV)/.installed: pyproject.toml constraints.txt
	test -x $(PTYCHODUS_VENV)/bin/python || $(PYTHON) -m venv $(PTYCHODUS_VENV)
	$(PTYCHODUS_VENV)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(PTYCHODUS_VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,ptychodus]"
	@touch $@

test-ptychodus: $(PTYCHODUS_VENV)/.installed
	OMP_NUM_THREADS=1 $(PTYCHODUS_VENV)/bin/python -m pytest tests/contract -m "not slow"
	$(PTYCHODUS_VENV)/bin/python -m pytest tests/contract -m slow

clean:
	rm -rf demo_output bench_output site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find ptycho ptycho_torch tests -name __pycache__ -type d -prune -exec rm -rf {} +
