# `make demo` and `make test` work from a fresh clone: each makes a virtual environment and installs what it needs.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test bench lint sanitize dist pythons clean

demo: $(VENV)/.demo
	$(BIN)/fastrnn demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto

# Compares with whatever peers pip can get here (half an hour), and writes the README's table and pictures anew.
bench: $(VENV)/.bench
	mkdir -p benchmarks/plots
	$(BIN)/fastrnn bench --json benchmarks/results.json --plot benchmarks/plots/bench.svg
	$(BIN)/python benchmarks/update_readme.py benchmarks/results.json README.md

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The extension's tests under AddressSanitizer and UndefinedBehaviorSanitizer, with the instruction sets that are named;
# "vectors" is the baseline in the compiler's own vector types, as on processors of other kinds, "loops" without any.
SANITIZE ?= avx2,baseline,vectors,loops
sanitize: $(VENV)/.sanitize
	$(BIN)/python tests/sanitize.py build/sanitize $(SANITIZE)

# Source distribution and wheel, and a look at what is in them.
dist: $(VENV)/.dist
	rm -rf dist build/lib build/bdist.*
	$(BIN)/python -m build
	$(BIN)/python tests/check_dist.py dist

# The suite on every Python that is here, on and built with the oldest versions, and without Numba. PYTHONS=3.12 chooses.
pythons: dist
	$(BIN)/python tests/pythons.py dist build/pythons $(PYTEST)

# What the extension is built from.
BUILT_FROM = $(wildcard fastrnn_ext/*.pyx fastrnn_ext/*.pxi fastrnn_ext/*.h fastrnn/*.py fastrnn/cells/*.py \
	fastrnn/backends/*.py fastrnn/backends/tiled/*.py fastrnn/backends/cython_/*.py)

# One stamp an extra: installed once, and again when the requirements or what the extension is built from change.
$(VENV)/.%: pyproject.toml setup.py $(BUILT_FROM)
	@echo "installing fastrnn[$*] into $(VENV): a few minutes, with a C compiler one more for the extension"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
