# make cpu      set-up, data, sweep over CPU cores, figures
# make test     set-up, tests
# make faults   breaks more than 200 real sweeps at random points (an hour or two)
# make test-root   tests of the virtual cluster: need root, iproute2 and network namespaces
# make plots    the figures again, from the results that are there
# make report   the report (needs LaTeX; says which packages)
# make lint     ruff and shellcheck
# make clean    removes caches and LaTeX's working files; never a measurement, a figure or the data
SHELL := bash
PYTHON ?= python3
BIN := .venv/bin

.PHONY: cpu gpu plots report test test-root faults lint clean data

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

gpu: data
	@PYTHON=$(CURDIR)/$(BIN)/python gpu/run_gpu_experiments.sh; status=$$?; \
	  $(BIN)/python gpu/gpu_plots_ex_2.py && exit $$status

# Each folder of results cpu_run_X has its figures in cpu_plots_X.
plots: .venv/ready
	set -e; for results in cpu/cpu_run*/; do results=$${results%/}; \
	  [[ $$results == *_until_* ]] && continue; $(BIN)/python cpu/plot_cpu_results.py $$results \
	    --method $$([[ $$results == *original* ]] && echo original || echo sound) \
	    $$([[ $$results == *network* || $$results == *variants* ]] && echo --table-only) \
	    --output cpu/cpu_plots$${results#cpu/cpu_run} >/dev/null; done
	if [[ -d cpu/cpu_run_variants ]]; then $(BIN)/python cpu/plot_variants.py >/dev/null; fi
	if [[ -d cpu/cpu_run_network ]]; then $(BIN)/python cpu/plot_network_results.py >/dev/null; fi
	if [[ -d gpu/gpu_experiments ]]; then $(BIN)/python gpu/gpu_plots_ex_2.py >/dev/null; fi

report: plots
	@command -v latexmk >/dev/null || { echo 'error: no latexmk; on Debian: apt-get install' \
	  latexmk texlive-latex-recommended texlive-latex-extra texlive-fonts-recommended >&2; exit 1; }
	$(BIN)/python report/scaling_model.py >/dev/null
	$(BIN)/python report/claims.py
	@cd report && latexmk -pdf -interaction=nonstopmode -halt-on-error report.tex >/dev/null 2>&1 \
	  || { echo 'error: LaTeX failed, see report/report.log:' >&2; grep -A3 '^!' report.log >&2; exit 1; }
	@! grep -E 'Overfull|undefined|multiply defined' report/report.log

test: .venv/ready-tests
	$(BIN)/python -m pytest -q tests --ignore=tests/root

faults: .venv/ready-tests
	rm -f tests/faults/campaign.csv
	FAULTS=224 FAULTS_LOG=$(CURDIR)/tests/faults/campaign.csv $(BIN)/python -m pytest -q -s tests/faults

test-root: .venv/ready-tests
	$(BIN)/python -m pytest -q -rs tests/root

lint: .venv/ready-tests
	$(BIN)/ruff check --config tests/ruff.toml .
	shellcheck .ci/run cpu/*.sh gpu/*.sh

clean:
	rm -rf .pytest_cache .ruff_cache .hypothesis $$(find . -name __pycache__ -not -path './.venv/*')
	cd report && rm -f *.aux *.bbl *.blg *.fdb_latexmk *.fls *.log *.out
