# Every target sets up what it needs; `make` alone lists them.
SUPPORTED := import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))
PYTHON ?= $(or $(shell for p in python3 python3.12 python3.11; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done),python3)
TORCH ?= cpu
VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=

# Matrices are small here: more BLAS threads would only disturb the 100 Hz loops.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help setup build demo test test-fast lint format docs bench bench-gpu bench-control bench-chunking fuzz-safety mutate-safety fault-matrix fuzz-bus soak ros-env clean clean-all

help:
	@echo "make demo        set up what is missing, run the simulated arm, show the result in out/demo"
	@echo "make test        set up what is missing, run the whole test suite"
	@echo "make test-fast   only the tests that need no ROS graph"
	@echo "make setup       only the set-up (TORCH=cuda for a GPU build, PYTHON=python3.12)"
	@echo "make build       only the colcon build"
	@echo "make bench       measure speed and timing, print a table, write out/bench"
	@echo "make bench-gpu   one inference of the full-size model on a CUDA GPU, stage by stage"
	@echo "make bench-control  compare the chunk tracker with what others do (minutes; plots in out/bench)"
	@echo "make bench-chunking  what it brings to tell a chunk what the arm will do meanwhile (half an hour)"
	@echo "make fuzz-safety a million random steps against the safety layer, independently judged"
	@echo "make mutate-safety  does a test fail for every small change of the safety core?"
	@echo "make fault-matrix the driver against every fault of the bus; writes docs/fault-matrix.md"
	@echo "make fuzz-bus    a million broken byte sequences into the codec, independently judged"
	@echo "make soak        half an hour of driving with random faults (ARGS='--minutes 5')"
	@echo "make docs        regenerate the parameter files and reference pages"
	@echo "make format      format the code"
	@echo "make ros-env     beside a sourced ROS installation: .ros-env with torch and mujoco"
	@echo "make clean       remove build products and out/ (clean-all: the environments too)"

setup:
	@$(PYTHON) tools/setup_env.py --torch $(TORCH)

build:
	@$(PYTHON) tools/setup_env.py build

demo: setup
	@$(VENV)/bin/wallx demo $(ARGS)

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

test: lint
	$(PY) -m pytest $(ARGS)

test-fast: setup
	$(PY) -m pytest -m "not ros and not e2e" $(ARGS)

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: setup
	$(PY) -m wallx_bringup.parameter_docs

bench: setup
	$(PY) tools/bench.py $(ARGS)

bench-gpu: setup
	$(PY) tools/bench_gpu.py $(ARGS)

fuzz-safety: setup
	$(PY) tools/fuzz_safety.py $(ARGS)

mutate-safety: setup
	$(PY) tools/mutate_safety.py $(ARGS)

fault-matrix: setup
	$(PY) tools/fault_matrix.py $(ARGS)

fuzz-bus: setup
	$(PY) tools/fuzz_bus.py $(ARGS)

soak: setup
	$(PY) tools/soak.py $(ARGS)

bench-control: setup
	$(PY) tools/bench_control.py $(ARGS)

bench-chunking: setup
	$(PY) tools/bench_chunking.py $(ARGS)

ros-env:
	@$(PYTHON) tools/setup_env.py ros-env

clean:
	rm -rf build log out

clean-all: clean
	rm -rf $(VENV) .ros-env install
