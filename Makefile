# make         checks the system packages and builds .venv from requirements.txt
# make demo    then compresses and decodes the built-in samples into results/demo
# make page    writes results/page.html: the samples to look at and to listen to, beside other codecs
# make lint    checks style and format
# make check   lint and the fast tests: under a minute on two cores
# make test    every test: about 11 minutes on two cores
# make clean   removes caches, results/demo and the page; make distclean also .venv

PYTHON ?= python3
VENV ?= .venv
# More arguments for pip, for example an index of wheels without CUDA.
PIP_FLAGS ?=

# ltfatpy and pesq are compiled: a C compiler, Python's headers, FFTW and LAPACK.
PACKAGES := gcc libc6-dev libfftw3-dev liblapack-dev
STAMP := $(VENV)/.requirements-installed
TEST_STAMP := $(VENV)/.test-requirements-installed
# What `make page` shows: files or folders.
PAGE_INPUT ?= data/samples $$($(VENV)/bin/python -c \
    'import pathlib, sklearn.datasets as d; print(pathlib.Path(d.__file__).parent / "images")')

.PHONY: setup demo page lint check test system-packages clean distclean

setup: $(STAMP)

# Runs again only when requirements.txt changed.
$(STAMP): requirements.txt
	@$(MAKE) --no-print-directory system-packages
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install $(PIP_FLAGS) -r requirements.txt
	@# numba compiles coders, phase and the search's convolutions once, for some seconds: now, and not on the first file
	for coder in huffman context; do \
	    $(VENV)/bin/python Compression_ADMM.py --output results/setup/$$coder --entropy_coder $$coder --iterations 1 \
	        > /dev/null || exit 1; \
	done
	rm -r results/setup
	@touch $@

$(TEST_STAMP): requirements-test.txt $(STAMP)
	$(VENV)/bin/python -m pip install $(PIP_FLAGS) -r requirements-test.txt
	@touch $@

# Python's headers and venv are separate packages only for Debian's own Python.
system-packages:
	@if ! command -v dpkg-query >/dev/null; then \
	    echo "Not a Debian system: please see that these are there: $(PACKAGES)"; exit 0; \
	fi; \
	missing=; \
	for package in $(PACKAGES); do \
	    dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' \
	        || missing="$$missing $$package"; \
	done; \
	$(PYTHON) -c 'import os, sysconfig as s, sys; \
	    sys.exit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))' \
	    || missing="$$missing python3-dev"; \
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then as_root=; \
	elif sudo -n true 2>/dev/null; then as_root=sudo; \
	else \
	    echo "Packages are missing. Please run: sudo apt-get install$$missing"; exit 1; \
	fi; \
	$$as_root apt-get update -q && $$as_root apt-get install -q -y $$missing

demo: $(STAMP)
	$(VENV)/bin/python Compression_ADMM.py --output results/demo --iterations 25

page: $(STAMP)
	$(VENV)/bin/python -m benchmarks.page --input $(PAGE_INPUT) --iterations 25 --output results/page.html

lint: $(TEST_STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# Two processes of one thread each; a file's tests stay together, as they share what is set up once.
check: lint
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -m "not slow" -n 2 --dist loadfile

test: $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n 2 --dist loadfile

clean:
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
	rm -rf .pytest_cache .hypothesis .ruff_cache results/demo results/page.html

distclean: clean
	rm -rf $(VENV)
