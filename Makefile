# make report [RECIPE=params/x.yaml]   the whole pipeline; the report is runs/<name>/report/index.html
# make seeds [RECIPE=… SEEDS="0 1 2"]  params/bazaar.yaml once a seed, then all of them side by side:
#                                      runs/<recipe>-seeds/report/index.html, which links each run's own report
# make ablations [SEEDS="0 1"]         the paper's ablations and sensitivities: runs/ablations/report/index.html
# make test [WORKERS=0]                all tests; by default on as many cores as there are, at most 4
# make lab                             JupyterLab in notebooks/
# make lint                            style, types, and notebooks without outputs
# make clean                           removes what make and the tests made; runs/ stays
#
# Everything sets up .venv by itself. Another Python: make PYTHON=/path/to/python3.12 …
RECIPE ?= params/quickstart.yaml
SEEDS ?= 0 1 2
WORKERS ?= logical
STEM = $(basename $(notdir $(RECIPE)))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
READY := .venv/ready
# Bytecode for what these import, a quarter of all that pip would compile, in half a minute less
COMPILED := import ipykernel.kernelapp, r2ec_lib.analysis.guardrails, r2ec_lib.plots, r2ec_lib.serving.student, \
	r2ec_lib.training.jobs, r2ec_lib.workflow.cli, r2ec_lib.workflow.study

.PHONY: report seeds ablations test lab lint clean

report: $(READY)
	.venv/bin/r2ec run $(RECIPE)

seeds: RECIPE := $(if $(filter file,$(origin RECIPE)),params/bazaar.yaml,$(RECIPE))
seeds: $(READY)
	set -e; for seed in $(SEEDS); do .venv/bin/r2ec run $(RECIPE) --name $(STEM)-seed$$seed -p seed=$$seed; done
	.venv/bin/r2ec run params/study.yaml --name $(STEM)-seeds \
		-p "study_runs=[$(shell echo $(SEEDS:%=$(STEM)-seed%) | tr ' ' ',')]"

ablations: $(READY)
	.venv/bin/r2ec study params/ablations/study.yaml $(if $(filter command environment,$(origin SEEDS)),--seeds $(SEEDS))

test: $(READY)
	env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -m pytest --numprocesses $(WORKERS) --maxprocesses 4 \
		--dist loadfile --no-loadscope-reorder

lab: $(READY)
	.venv/bin/jupyter lab --notebook-dir=notebooks

lint: $(READY)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/nbstripout --keep-id --verify notebooks/*.ipynb

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info

$(READY): pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'This project needs Python 3.11 or newer; none was found. Install one, or name it: make PYTHON=/path/to/python3' >&2; \
		exit 1; }
	@test -x .venv/bin/pip || $(PYTHON) -m venv .venv || { \
		echo 'The virtual environment could not be made; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@echo 'Installing the pinned packages into .venv; the first time this takes some minutes.'
	@.venv/bin/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[notebooks,dev]'
	@env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -c '$(COMPILED)'
	@touch $@
