# make run [MODEL=folder] [DATA=file-or-folder] [READ=options] [EPOCHS=n] [EXTRA_INDEX=address]
# The first Python that fits; Debian's has no ensurepip until its package python3-venv is there.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3 python; do \
    $$name -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
        2> /dev/null && echo $$name && break; done)
VENV := .venv
YOURS = $(if $(MODEL),--model "$(MODEL)") $(if $(DATA),--data "$(DATA)") $(READ)
IN := $(VENV)/bin/
SETUP := $(VENV)/.installed
# The pages alone need much less; a space before a comment would be part of the name.
PAGES := $(or $(wildcard $(SETUP)),.venv-site/.installed)
TEST := $(IN)python -m pytest --nbval -n 2 --dist loadscope --no-loadscope-reorder
export HF_HUB_OFFLINE := 1
export PIP_USER := 0
ifneq ($(wildcard wheels),)    # this is a bundle: pip takes all from it, and asks nobody
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := wheels
endif

SOME_PYTHON = $(if $(PYTHON),,$(error No Python 3.11, 3.12 or 3.13 with its module venv is on \
    the PATH. Install one (on Debian and Ubuntu also python3-venv), or name it: \
    make run PYTHON=/path/to/python3.12))
NO_PACKAGES = || { echo "pip could not get the packages. If a mirror, a proxy or its \
    certificate is the cause, docs/install.md says what to set; then call it again."; exit 1; }

help:          ## list the commands
	@sed -nE 's/^## (.*)/\n\1/p; s/^([a-z-]+):[^#]*## */  \1\t/p' Makefile | expand -t 17

## Use (the first call installs: PYTHON= names a Python, EXTRA_INDEX= PyTorch's other builds)
run: $(SETUP)  ## the main job: notebooks 01 to 04 into runs/ (MODEL=, DATA=, READ=, EPOCHS=)
	@$(IN)python -m connection_utils series run $(YOURS) $(if $(EPOCHS),--epochs $(EPOCHS))

lab: fetch     ## the notebooks in JupyterLab; nothing is sent anywhere
	JUPYTER_CONFIG_PATH=.jupyter $(IN)jupyter lab --notebook-dir=. notebooks/01_load_local_bert.ipynb

sweep: $(SETUP) ## notebook 03 with several values (OF=learning_rate VALUES="2e-5 1e-4")
	@$(IN)python -m connection_utils series sweep $(OF) $(VALUES) $(YOURS)

site: $(PAGES) ## the series as pages in runs/site/, to read anywhere; needs no PyTorch
	@PYTHONPATH=. $(PAGES:.installed=bin/python) site/build.py

bundle: $(SETUP) ## all of it in one folder for a machine without network (TO=folder)
	@$(IN)python -m connection_utils bundle $(if $(TO),"$(TO)") $(if $(EXTRA_INDEX),--extra-index-url "$(EXTRA_INDEX)")

fetch: $(SETUP) ## the default model and data, by hash
	@$(IN)python -m connection_utils series fetch

## Develop
test: fetch    ## the quick tests and every notebook, outputs compared
	$(TEST)

test-all: fetch ## the slow tests too, and the notebooks again as other CPUs would round
	CONNECTION_CHECK=full $(TEST)
	OMP_NUM_THREADS=2 $(IN)python -m pytest --nbval notebooks
	ATEN_CPU_CAPABILITY=default $(TEST) notebooks

execute: fetch ## re-execute the notebooks and save their outputs (NB=03 for one)
	@$(IN)python site/execute.py $(NB)
	@$(IN)python site/korean.py

fetch-teacher: fetch ## a model of 109 million parameters for benchmarks/teacher.py (404 MB)
	@$(IN)python benchmarks/teacher.py fetch

$(SETUP): requirements.lock pyproject.toml
	$(SOME_PYTHON)
	$(if $(wildcard wheels),@$(PYTHON) -m connection_utils bundle --check)
	@echo "Installing into $(VENV) with `$(PYTHON) --version` ($(PYTHON)): 2.6 GB on disk with" \
	    "PyTorch's CPU build, 6.3 GB with the CUDA build."
	@$(PYTHON) -c "import shutil, sys; free = shutil.disk_usage('.').free / 1e9; \
	free < 4 and sys.exit(f'Only {free:.1f} GB are free on this disk: make room, and try again.')"
	$(PYTHON) -m venv $(VENV)
	@$(IN)python -m pip install $(if $(EXTRA_INDEX),--extra-index-url "$(EXTRA_INDEX)") -r requirements.lock $(NO_PACKAGES)
	$(IN)python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

.venv-site/.installed: requirements.lock
	$(SOME_PYTHON)
	@echo "Installing what builds the pages into .venv-site: 0.25 GB."
	$(PYTHON) -m venv .venv-site
	@.venv-site/bin/python -m pip install --quiet -c requirements.lock \
	    sphinx myst-nb sphinx-book-theme $(NO_PACKAGES)
	@touch $@

.PHONY: help run test test-all lab sweep execute site bundle fetch fetch-teacher
