# make run     set up and run everything on 127.0.0.1, with the demo
# make test    set up and run every test
# make lint    style, types, templates
# make bench   compare with other servers (see docs/benchmarks.md)
# make clean   remove what was made, except your data in var/
# make requirements   compile requirements/*.in to pinned, hashed *.txt

SHELL := /bin/sh
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& command -v $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
TEST_WORKERS ?= 2

.PHONY: run test lint bench clean requirements python

run: $(VENV)/.worker
	@DEMO=$${DEMO:-1} exec $(BIN)/python manage.py up

# Two runs: what measures times or kills processes wants the machine for itself.
test: $(VENV)/.dev
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/python -m pytest -n $(TEST_WORKERS) -m "not end_to_end and not browser and not faults"
	$(BIN)/python -m pytest -m "end_to_end or browser or faults" -o faulthandler_timeout=600
endif

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/djlint --lint --quiet templates
	DJANGO_SETTINGS_MODULE=config.settings.test $(BIN)/python manage.py makemigrations --check --dry-run

bench: $(VENV)/.dev
	$(BIN)/python -m bench $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@if [ -d var ]; then echo "Your data in var/ is kept; remove it yourself if you mean it."; fi

# One environment. What `make run` needs comes from worker.txt; dev.txt contains all of that and the tests' tools.
$(VENV)/bin/python: | python
	@echo "Making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "Python's venv module doesn't work here; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.worker: requirements/worker.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing the packages of requirements/worker.txt; the first time some 400 MB are downloaded"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -q --require-hashes --only-binary :all: -r requirements/worker.txt
	@$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.worker
	@echo "Installing the packages of requirements/dev.txt"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -q --require-hashes --only-binary :all: -r requirements/dev.txt
	@touch $@

python:
	@if [ -z "$(PYTHON)" ]; then echo "Daybook needs CPython 3.11, 3.12 or 3.13; found: $$(python3 --version 2>&1 || echo none)."; \
		echo "Install one, or name it: make run PYTHON=/path/to/python3.12"; exit 1; fi
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) \
		else "Daybook needs CPython 3.11, 3.12 or 3.13; $(PYTHON) is " + sys.version.split()[0])'

requirements:
	@command -v uv >/dev/null || { echo "uv isn't installed: https://docs.astral.sh/uv/"; exit 1; }
	export UV_CUSTOM_COMPILE_COMMAND="make requirements"; for name in base worker gpu dev; do \
		uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --quiet \
			--output-file requirements/$$name.txt requirements/$$name.in || exit 1; \
	done
