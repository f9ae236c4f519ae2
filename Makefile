# make run [MODEL=folder] [DATA=file-or-folder] [READ=options] [EPOCHS=n] [EXTRA_INDEX=address]
PYTHON ?= python3.11
VENV := .venv
YOURS = $(if $(MODEL),--model "$(MODEL)") $(if $(DATA),--data "$(DATA)") $(READ)
IN := $(VENV)/bin/
SETUP := $(VENV)/.installed
TEST := $(IN)python -m pytest --nbval -n 2 --dist loadscope --no-loadscope-reorder
export HF_HUB_OFFLINE := 1
export PIP_USER := 0
ifneq ($(wildcard wheels),)    # this is a bundle: pip takes all from it, and asks nobody
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := wheels
endif

help:          ## list the commands
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## */\t/' | expand -t 12

run: $(SETUP)  ## the main job: notebooks 01 to 04 into runs/ (MODEL=, DATA=, READ=, EPOCHS=)
	@$(IN)python -m connection_utils series run $(YOURS) $(if $(EPOCHS),--epochs $(EPOCHS))

test: fetch    ## the quick tests and every notebook, outputs compared
	$(TEST)

test-all: fetch ## the slow tests too, and the notebooks again as other CPUs would round
	CONNECTION_CHECK=full $(TEST)
	OMP_NUM_THREADS=2 $(IN)python -m pytest --nbval notebooks
	ATEN_CPU_CAPABILITY=default $(TEST) notebooks

lab: fetch     ## JupyterLab on the series, nothing called home
	JUPYTER_CONFIG_PATH=.jupyter $(IN)jupyter lab --notebook-dir=. notebooks/01_load_local_bert.ipynb

sweep: $(SETUP) ## notebook 03 with several values (OF=learning_rate VALUES="2e-5 1e-4")
	@$(IN)python -m connection_utils series sweep $(OF) $(VALUES) $(YOURS)

execute: fetch ## re-execute the notebooks and save their outputs (NB=03 for one)
	@$(IN)python -m connection_utils series execute $(if $(NB),--only $(NB))
	@$(IN)python site/korean.py

site: $(SETUP) ## the series as pages in runs/site/, to read anywhere without a network
	@$(IN)python site/build.py

fetch: $(SETUP) ## the default model and data, by hash
	@$(IN)python -m connection_utils series fetch

bundle: $(SETUP) ## all of it in one folder for a machine without network (TO=folder)
	@$(IN)python -m connection_utils bundle $(if $(TO),"$(TO)") $(if $(EXTRA_INDEX),--extra-index-url "$(EXTRA_INDEX)")

$(SETUP): requirements.lock pyproject.toml
	$(if $(wildcard wheels),@$(PYTHON) -m connection_utils bundle --check)
	$(PYTHON) -m venv $(VENV)
	$(IN)python -m pip install $(if $(EXTRA_INDEX),--extra-index-url "$(EXTRA_INDEX)") -r requirements.lock
	$(IN)python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: help run test test-all lab sweep execute site bundle fetch
