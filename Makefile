# lessondl: `make lab` to study, `make test` to see every test pass. `make help` lists the rest.

VENV   ?= .venv
PORT   ?= 8888
LESSON ?=

# The newest Python that PyTorch has wheels for is not always the newest there is, so 3.11 is tried first.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info)' 2>/dev/null && { echo $$p; break; }; done)

bin     := $(abspath $(VENV))/bin
py      := $(bin)/python
# One stamp for each set of packages: pip runs again only after pyproject.toml has changed.
dev     := $(VENV)/.lessondl-dev
e2e     := $(VENV)/.lessondl-e2e
# A JupyterLab that root starts asks for this.
as_root := $(if $(filter 0,$(shell id -u)),--allow-root)
# Two workers on two cores: with more than one thread each, PyTorch's OpenMP threads wait for each other.
quick   := LESSONDL_SAMPLE=1 OMP_NUM_THREADS=1

.PHONY: help install lab test in-step lint test-lessons test-library test-e2e export lessons clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:
	@echo "make lab            open the course in JupyterLab  [PORT=8888] [BROWSER=no for a far machine]"
	@echo "make test           every quick test: in-step, lint, test-lessons, test-library (each also by itself)"
	@echo "make test-e2e       the tests that need Chromium, LibreOffice or minutes of training"
	@echo "make export         write lessondl/*.py from the notebooks, and clean the notebooks"
	@echo "make lessons        run the lessons on the best data there is and save their outputs  [LESSON=09_cifar10]"
	@echo "make install        only make .venv and install into it  [VENV=.venv] [PYTHON=python3.11]"
	@echo "make clean          remove .venv and everything else that can be made again; data stays"

$(py):
	@test -n "$(PYTHON)" || { echo "lessondl needs Python 3.10 or later, and found none. Install one, or name it: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu install python3-venv, then try again."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The last line keeps JupyterLab from asking for news and newer versions: after the installation nothing needs a network.
$(dev): pyproject.toml | $(py)
	$(py) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@mkdir -p $(VENV)/share/jupyter/lab/settings
	@echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' \
		> $(VENV)/share/jupyter/lab/settings/overrides.json
	@touch $@

$(e2e): $(dev)
	$(py) -m pip install --quiet --disable-pip-version-check -e '.[dev,e2e]'
	@touch $@

install: $(dev)

lab: $(dev)
	$(bin)/jupyter lab --LabApp.default_url=/lab/tree/nbs/index.ipynb --ip=127.0.0.1 --port=$(PORT) $(as_root) \
		$(if $(filter no,$(BROWSER)),--no-browser)

# One after the other, the quickest first; `make -k test` goes on after a failure.
test: in-step lint test-lessons test-library

in-step: $(dev)
	$(py) .ci/checks.py

lint: $(dev)
	$(bin)/ruff check

test-lessons: $(dev)
	$(quick) $(bin)/nbdev_test --n_workers 2 --timing

test-library: $(dev)
	OMP_NUM_THREADS=1 $(py) -m pytest

test-e2e: $(e2e)
	$(py) -m pytest -m e2e --durations=0

export: $(dev)
	$(bin)/nbdev_export
	$(bin)/nbdev_clean

lessons: $(dev)
	$(py) .ci/lessons.py run $(LESSON)
	$(py) .ci/lessons.py readme

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .hypothesis .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	find nbs -name .ipynb_checkpoints -prune -exec rm -rf {} +
