# Two commands on a machine with Python 3.11, pip and make: 'make deploy' and 'make test'. The rest is for developers.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
BUNDLE ?= out/dp_disparity_s
SOURCES := $(shell find edge_dp training converters runtime -type f ! -name '*.pyc')

.PHONY: help deploy test test-full check format install system clean

help:
	@echo "make deploy     install into .venv, export the shipped student, validate it, say where the report lies"
	@echo "make test       install into .venv, run the tests"
	@echo "make test-full  the slow tests too"
	@echo "make check      ruff, and mypy on the installed package, benchmarks and examples"
	@echo "make format     ruff format and safe fixes"
	@echo "make clean      remove .venv, out and caches"

deploy: install
	$(BIN)/edge-dp export dp_disparity_s --out $(BUNDLE)
	$(BIN)/edge-dp validate $(BUNDLE)

# One thread per test process: the engines' thread pools would fight for the cores.
test: install system
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not slow"

test-full: install system
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml -p edge_dp
	cd $(VENV) && MYPYPATH=../benchmarks bin/mypy --config-file ../pyproject.toml ../benchmarks/*.py ../examples/*.py

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(VENV)/.package

$(VENV)/.dependencies: pyproject.toml edge_dp/constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "edge_dp is tested on Python 3.11; found $$("$(PYTHON)" --version). Set PYTHON=/path/to/python3.11"; exit 2; }
	"$(PYTHON)" -m venv $(VENV)
	rm -rf build
	$(BIN)/pip install -q -c edge_dp/constraints.txt ".[all,dev]"
	@# opencv-python wants libGL and glib of the system; where they are not, the same OpenCV without windows does.
	@$(BIN)/python -c "import cv2" 2>/dev/null || { \
		version=$$($(BIN)/pip show opencv-python | sed -n 's/^Version: //p'); \
		echo "no libGL here: taking opencv-python-headless $$version"; \
		$(BIN)/pip uninstall -q -y opencv-python && $(BIN)/pip install -q opencv-python-headless==$$version; }
	touch $@

# Installed, not editable: tests and mypy see what a user gets. A stale build folder would bring deleted modules back.
$(VENV)/.package: $(SOURCES) README.md LICENSE $(VENV)/.dependencies
	rm -rf build
	$(BIN)/pip install -q --no-deps --no-build-isolation --force-reinstall .
	touch $@

# Debian packages of the browser test, where this machine is Debian and lets us; elsewhere that test says why it skips.
system:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		missing=$$(for p in $$(cat .ci/apt-packages.txt); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
		[ -z "$$missing" ] || { apt-get update -qq && apt-get install -qq -y --no-install-recommends $$missing >/dev/null; }; \
	fi

clean:
	rm -rf $(VENV) out build .pytest_cache .mypy_cache .ruff_cache
