# make setup | test | test-reference | check | docs | demo | fuzz | soak | clean. All but clean set up first, which takes no time if it was done.
# PYTHON=python3.12 make setup    chooses the interpreter
# make demo INPUT=video.mp4       runs the demo on your own video
# make soak MINUTES=3             the node under random faults, for 20 minutes by default
# make test TESTS=test/core       runs a part of the tests
# make test WORKERS=1             one test at a time; by default two or three if there are two cores
# make docs                       builds the documentation as a site, in docs/_build/html; a test does so, too
# make test-reference             runs some of the tests with Ubuntu 24.04's NumPy and OpenCV
# make fuzz FUZZ='--seconds 600'  malformed messages, then others guided by coverage; see docs/safety.md

VENV_PYTHON := .venv/bin/python
TESTS ?= test

# Set-up leaves byte code to the first import. Without writing it, each process would compile torch.
unexport PYTHONDONTWRITEBYTECODE

# Files of tests run side by side: three if there are two cores, since tests also wait, but each needs
# up to 5 GiB, so only two if the machine, or the container, has less than 15 GiB.
CORES = $(shell nproc 2>/dev/null || echo 1)
MEMORY = $(shell cat /proc/meminfo /sys/fs/cgroup/memory.max 2>/dev/null | awk '/^MemTotal:/ { \
	bytes = 1024 * $$2 } /^[0-9]+$$/ && $$1 < bytes { bytes = $$1 } END { print int(bytes / 2^30) }')
WORKERS ?= $(if $(filter 1,$(CORES)),1,$(shell [ $(MEMORY) -ge 15 ] && echo 3 || echo 2))
PARALLEL = --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# Tests and demo are restricted to this machine, and to a DDS domain of their own (1 to 100). Humble
# reads only the second variable, which later distributions deprecate.
LOCAL := ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST $(if $(filter humble,$(ROS_DISTRO)),ROS_LOCALHOST_ONLY=1)
ISOLATE := $(LOCAL) ROS_DOMAIN_ID=$$(( $$$$ % 100 + 1 ))

.PHONY: setup test test-reference check docs demo fuzz soak clean

setup:
	@PYTHON='$(PYTHON)' sh tools/ros_from_pypi/set_up.sh

check: setup
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m tools.check_sizes
	$(VENV_PYTHON) -m mypy --num-workers $(or $(filter 0 1,$(WORKERS)),2)

test: check
	$(ISOLATE) $(VENV_PYTHON) -m pytest $(PARALLEL) $(TESTS)
ifeq ($(TESTS),test)
	@$(MAKE) --no-print-directory test-reference
endif

test-reference: setup
	@$(ISOLATE) $(VENV_PYTHON) tools/ros_from_pypi/reference.py $(PARALLEL)

docs: setup
	$(VENV_PYTHON) -m sphinx -W --keep-going --quiet -b html docs docs/_build/html

demo: setup
	@$(ISOLATE) $(VENV_PYTHON) -m tools.demo $(if $(INPUT),--input '$(INPUT)')

fuzz: setup
	@$(VENV_PYTHON) -c 'import atheris' 2>/dev/null || $(VENV_PYTHON) -m pip install --quiet 'atheris>=3.0'
	$(VENV_PYTHON) -m tools.fuzz $(FUZZ)

soak: setup
	@$(ISOLATE) $(VENV_PYTHON) -m tools.soak $(if $(MINUTES),--minutes '$(MINUTES)')

clean:
	rm -rf .venv .venv.* *.egg-info build install log demo_output docs/_build
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
