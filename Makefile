SHELL := bash
PYTHON ?= python3
BIN := .venv/bin
RUN := $(CURDIR)/$(BIN)/python

.PHONY: help cpu gpu advise plots report test test-root faults lint clean data

# What there is to make.
help:
	@printf '%s\n' \
	  'make cpu        set-up, data, sweep over CPU cores, figures: yours, beside the published' \
	  'make gpu        the same over GPUs; make gpu DEVICE=cpu tests the program without one' \
	  'make advise     what to set for MODEL=densenet121 BATCH=32 on this machine, in MINUTES=10' \
	  'make plots      the published tables and figures again, from the published rows' \
	  'make report     the report, from the published tables (needs LaTeX; says which packages)' \
	  'make test       set-up, tests' \
	  'make test-root  tests of the virtual cluster: need root, iproute2 and network namespaces' \
	  'make faults     breaks 400 real sweeps at random points (some hours; goes on when stopped)' \
	  'make lint       ruff and shellcheck' \
	  'make clean      removes caches and LaTeX working files; never a measurement, figure or image'

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/ready-tests: tests/requirements.txt .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

.venv: .venv/ready

# Whatever is in data/ is used as it is; without network images are generated, labelled as such.
data: .venv/ready
	@compgen -G 'data/imagenette2*/train' >/dev/null || $(BIN)/python data/prepare_imagenette.py \
	  || { echo 'generating images instead; rows and figures will say so' >&2; \
	       $(BIN)/python data/prepare_imagenette.py --synthetic; }

# Variables on make's command line, like NUM_RUNS=2, reach the sweep in the environment.
cpu: data
	@PYTHON='$(RUN)' exec cpu/run_experiments.sh

gpu: data
	@PYTHON='$(RUN)' exec gpu/run_gpu_experiments.sh

advise: data
	@PYTHON='$(RUN)' exec cpu/run_study.sh advise

plots: .venv/ready
	$(BIN)/python cpu/plot_cpu_results.py --published >/dev/null
	ls -d cpu/studies/*/runs | cut -d/ -f3 | xargs -P "$$(nproc)" -I NAME \
	  $(BIN)/python cpu/plot_study.py NAME --published >/dev/null
	if [[ -d gpu/gpu_experiments ]]; then \
	  $(BIN)/python gpu/gpu_plots_ex_2.py --published >/dev/null; \
	else $(BIN)/python gpu/gpu_plots_ex_2.py --original-study >/dev/null; fi

report: .venv/ready
	@command -v latexmk >/dev/null || { echo 'error: no latexmk; on Debian: apt-get install' \
	  latexmk texlive-latex-recommended texlive-latex-extra texlive-fonts-recommended >&2; exit 1; }
	$(BIN)/python gpu/predict_memory.py --output report/memory.csv >/dev/null
	$(BIN)/python report/claims.py >/dev/null
	$(BIN)/python report/report_numbers.py
	@cd report && latexmk -pdf -interaction=nonstopmode -halt-on-error report.tex >/dev/null 2>&1 \
	  || { echo 'error: LaTeX failed, see report/report.log:' >&2; grep -A3 '^!' report.log >&2; exit 1; }
	@! grep -E 'Overfull|undefined|multiply defined' report/report.log

test: .venv/ready-tests
	$(BIN)/python -m pytest -q tests --ignore=tests/root -m 'not alone' -n 2 --dist loadfile \
	  --no-loadscope-reorder
	$(BIN)/python -m pytest -q tests --ignore=tests/root -m alone

faults: .venv/ready-tests
	FAULTS=400 FAULTS_LOG='$(CURDIR)/tests/faults/campaign.csv' $(BIN)/python -m pytest -q -s tests/faults
	SOAK=2000 KILLS=1000 $(BIN)/python -m pytest -q -s tests/test_runner.py

test-root: .venv/ready-tests
	$(BIN)/python -m pytest -q -rs tests/root

lint: .venv/ready-tests
	$(BIN)/ruff check --config tests/ruff.toml .
	$(BIN)/ruff format --check --config tests/ruff.toml .
	shellcheck .ci/run common/*.sh cpu/*.sh cpu/studies/*.sh gpu/*.sh

clean:
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -exec rm -rf {} +
	cd report && rm -f *.aux *.bbl *.blg *.fdb_latexmk *.fls *.log *.out
