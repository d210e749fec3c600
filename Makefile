# Everything here needs only Python >= 3.11 and make; the first call sets up .venv.
PYTHON ?= python3
CONFIG ?= configs/glyphs_metrix.yaml
ARGS ?=
BIN := .venv/bin
# One thread for each process: the small tensors of the default run and of the tests lose more by handing work from thread
# to thread than they gain (two short epochs of Glyphs on two busy cores: 26 CPU-seconds with one thread, 66 with two).
# Large images on many cores want more: make train CONFIG=... OMP_NUM_THREADS=16.
export OMP_NUM_THREADS ?= 1

.PHONY: train test test-all lint bench clean

train: .venv/.train-ready  ## train and evaluate CONFIG (default: the embedded Glyphs data set)
	$(BIN)/python -m metrixkit.train $(CONFIG) $(ARGS)

test: .venv/.dev-ready     ## the fast suite, files shared out to two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-all: .venv/.dev-ready ## everything: slow, several processes, gpu where there is one
	$(BIN)/python -m pytest -m "" $(ARGS)

lint: .venv/.dev-ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: .venv/.dev-ready    ## measure the losses beside pytorch-metric-learning
	$(BIN)/python benchmarks/losses.py

clean:
	rm -rf .venv build *.egg-info

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "metrixkit needs Python >= 3.11; set PYTHON=...")'
	$(PYTHON) -m venv .venv

.venv/.train-ready: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[cpu]'
	touch $@

.venv/.dev-ready: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[cpu,fast,video,dev]'
	touch $@ .venv/.train-ready
