# make demo    train a small MViTv2 on videos it makes itself, test it, write a report (about 5 minutes)
# make test    all tests                                        make lint    ruff and mypy
# make test-nightly  these and their longer forms
# make test-fast  tests that start no processes and compile nothing, for daily work
# make bench   short versions of the benchmarks                 make install just the environment
#
# Each of them makes the virtual environment $(VENV) first if it is not there.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TEST_ARGS ?= -n 3 --dist worksteal
FAST_TESTS := tests/config tests/evaluation tests/optim tests/weights \
	tests/models/test_layers.py tests/models/test_specs.py tests/models/test_mvit.py \
	tests/models/test_variants.py tests/rules/test_layering.py tests/data/test_sampling.py \
	tests/data/test_items.py tests/engine/test_train.py tests/engine/test_reporter.py \
	tests/test_errors.py tests/test_structures.py tests/test_randomness.py

.PHONY: install demo test test-nightly test-fast lint bench
install: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/slowfast-mvit demo --data-only
	$(BIN)/python tools/run_net.py --cfg configs/Demo/motion.yaml

# For two cores: one thread per process, and a third process, since tests wait for what they start.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TEST_ARGS)

test-nightly: $(VENV)/.installed-dev
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev,frameworks,export]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TEST_ARGS) -m ''

test-fast: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TEST_ARGS) $(FAST_TESTS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev runs/demo/report.html
	$(BIN)/python benchmarks/model.py --quick
	$(BIN)/python benchmarks/motion.py --quick
	$(BIN)/python benchmarks/decode.py --quick
	$(BIN)/python benchmarks/loader.py --quick
	$(BIN)/python benchmarks/end_to_end.py --quick

runs/demo/report.html:
	$(MAKE) demo
