# make cpu      set-up, data, sweep over CPU cores, figures
# make test     set-up, tests
# make plots    the figures again, from the results that are there
# make lint     ruff and shellcheck
# make clean    removes figures and caches that can be made again; never a measurement or the data
SHELL := bash
PYTHON ?= python3
BIN := .venv/bin

.PHONY: cpu plots test lint clean data

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/ready-tests: tests/requirements.txt .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

.venv: .venv/ready

# Whatever is in data/ is used as it is; without network the stand-ins are, labelled as such.
data: .venv/ready
	@compgen -G 'data/imagenette2*/train' >/dev/null || $(BIN)/python data/prepare_imagenette.py \
	  || { echo 'making stand-ins instead; rows and figures will say so' >&2; \
	       $(BIN)/python data/prepare_imagenette.py --synthetic; }

cpu: data
	@PYTHON=$(CURDIR)/$(BIN)/python cpu/run_experiments.sh; status=$$?; \
	  $(BIN)/python cpu/plot_cpu_results.py && exit $$status

plots: .venv/ready
	$(BIN)/python cpu/plot_cpu_results.py

test: .venv/ready-tests
	$(BIN)/python -m pytest -q tests

lint: .venv/ready-tests
	$(BIN)/ruff check --config tests/ruff.toml .
	shellcheck .ci/run cpu/*.sh gpu/*.sh

clean:
	rm -rf .pytest_cache .ruff_cache .hypothesis $$(find . -name __pycache__ -not -path './.venv/*')
	rm -f cpu/cpu_plots/*
