# Words for what is done here often; `make` alone lists them.

VENV := .venv
VENV_PYTHON := $(VENV)/bin/python

# Interpreters to try; the newest supported one that really runs is taken.
PYTHON ?= python3.13 python3.12 python3.11 python3 python

# A virtual environment outlives the interpreter it links to: then the stamps do not count.
STALE := $(shell $(VENV_PYTHON) -c '' 2>/dev/null || echo stale)

.PHONY: help run pipeline test pipeline-test browser-test lint format audit bench clean stale
.NOTPARALLEL:

help:
	@echo 'make run           dispatch the bundled example into results/'
	@echo 'make pipeline      dispatch, analyse and collect the bundled example with Nextflow, which needs Java 17'
	@echo 'make test          lint, then all tests'
	@echo 'make pipeline-test run the pipeline of pipeline/ with Nextflow in many ways'
	@echo 'make browser-test  open the report page in Chromium, which must be installed'
	@echo 'make lint          ruff check, ruff format --check, mypy'
	@echo 'make format        sort imports and format the code'
	@echo 'make audit         look up the dependencies in the list of known vulnerabilities'
	@echo 'make bench         time the dispatcher beside the public one, about seven minutes'
	@echo 'make clean         remove $(VENV) and caches, keep results/'

run: $(VENV)/run.stamp
	@$(VENV_PYTHON) code/run_capsule.py \
	    --input_directory=data/example \
	    --metadata_catalog=data/example/catalog.jsonl \
	    --docdb_query='{"subject.subject_id": "774659"}' \
	    --file_extension=.nwb \
	    --overwrite=1 \
	    --report_directory=example_report
	@echo "One job to open: $$(find results/0 -name '*.json' | LC_ALL=C sort | head -n 1)"
	@echo 'Report to open:  example_report/report.html'

# Started again, it analyses only what is new.
pipeline: $(VENV)/example.stamp
	@mkdir -p example_pipeline
	@cd example_pipeline && PATH="$(CURDIR)/$(VENV)/bin:$$PATH" ../pipeline/tests/nextflow run ../pipeline/main.nf -resume \
	    --input_files=../data/example \
	    --analysis=../pipeline/example/reward_response.py \
	    --metadata_catalog=catalog.jsonl \
	    --docdb_query='{"name": {"$$regex": "^behavior_.*_processed_"}}' \
	    --file_extension=.nwb
	@echo 'Table to open:   example_pipeline/results/table.csv'
	@echo 'Picture to open: example_pipeline/results/analysis_summary/licking_around_reward.png'

test: lint
	cd code && ../$(VENV_PYTHON) -m pytest

pipeline-test: $(VENV)/test.stamp
	cd code && ../$(VENV_PYTHON) -m pytest -c pyproject.toml ../pipeline/tests

browser-test: $(VENV)/browser.stamp
	cd code && BROWSER_TEST=1 ../$(VENV_PYTHON) -m pytest tests/browser

lint: $(VENV)/test.stamp
	cd code && ../$(VENV_PYTHON) -m ruff check . ../pipeline
	cd code && ../$(VENV_PYTHON) -m ruff format --check . ../pipeline
	cd code && ../$(VENV_PYTHON) -m mypy

format: $(VENV)/test.stamp
	cd code && ../$(VENV_PYTHON) -m ruff check --select I --fix . ../pipeline
	cd code && ../$(VENV_PYTHON) -m ruff format . ../pipeline

audit: $(VENV)/test.stamp
	$(VENV_PYTHON) -m pip_audit --skip-editable

# Options go into BENCH: make bench BENCH='--quick --only listing'
bench: $(VENV)/test.stamp
	cd code && ../$(VENV_PYTHON) -m benchmarks.run $(BENCH)

clean:
	rm -rf $(VENV) code/*.egg-info code/build example_report example_pipeline code/benchmarks/.venv-peer
	find code pipeline -type d \( -name __pycache__ -o -name '.*_cache' -o -name .hypothesis \) -prune -exec rm -rf {} +

PROBE := import sys; v = sys.version_info[:2]; \
    print(v[1] if sys.implementation.name == "cpython" and (3, 11) <= v <= (3, 13) else 0)

# pip takes a package that was half copied for an installed one, so an interrupted set-up starts over:
# the file `unfinished` tells.
define install
@set -e; \
if [ -e $(VENV)/unfinished ] || ! $(VENV_PYTHON) -c '' 2>/dev/null; then \
    newest=0; \
    for candidate in $(PYTHON); do \
        minor=$$("$$candidate" -c '$(PROBE)' 2>/dev/null </dev/null) || continue; \
        if [ "$$minor" -gt "$$newest" ]; then newest=$$minor; python=$$candidate; fi; \
    done; \
    if [ "$$newest" -eq 0 ]; then \
        echo 'error: no supported Python found (tried: $(PYTHON)); CPython 3.11, 3.12 and 3.13 are supported' >&2; \
        exit 1; \
    fi; \
    if ! "$$python" -c 'import ensurepip' 2>/dev/null; then \
        echo "error: $$python cannot make virtual environments; install the package python3.$$newest-venv" >&2; \
        exit 1; \
    fi; \
    echo "Making $(VENV) with Python 3.$$newest"; \
    rm -rf $(VENV); \
    mkdir $(VENV); \
    touch $(VENV)/unfinished; \
    "$$python" -m venv $(VENV); \
fi; \
touch $(VENV)/unfinished; \
echo 'Installing $(1) and what it needs, which takes a minute or two'; \
$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check --editable '$(1)'; \
rm $(VENV)/unfinished
endef

$(VENV)/run.stamp: code/pyproject.toml $(STALE)
	$(call install,code)
	@touch $@

$(VENV)/example.stamp: code/pyproject.toml $(STALE)
	$(call install,code[example])
	@touch $(VENV)/run.stamp $@

$(VENV)/test.stamp: code/pyproject.toml $(STALE)
	$(call install,code[dev])
	@touch $(VENV)/run.stamp $(VENV)/example.stamp $@

# Its comma would end the argument of `call`.
BROWSER := code[dev,browser]

$(VENV)/browser.stamp: code/pyproject.toml $(STALE)
	$(call install,$(BROWSER))
	@touch $(VENV)/run.stamp $(VENV)/example.stamp $(VENV)/test.stamp $@
