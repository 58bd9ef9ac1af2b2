# Words for what is done here often; `make` alone lists them.

VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
# The released wrappers that run our jobs in tests, each in an environment of its own.
WRAPPERS := .venv-wrapper-old .venv-wrapper-new

# Interpreters to try; the newest that really runs and has all dependencies is taken.
PYTHON ?= $(addprefix python3.,19 18 17 16 15 14 13 12 11) python3 python

# A virtual environment outlives the interpreter it links to: then the stamps do not count.
STALE := $(shell $(VENV_PYTHON) -c '' 2>/dev/null || echo stale)

.PHONY: help run example-results kill-test pipeline test long-test storage-test pipeline-test slurm-test container-test browser-test attack chromium pictures reference docs lint format audit bench pin clean stale
.NOTPARALLEL:

help:
	@echo 'make run               dispatch the bundled example into results/'
	@echo 'make example-results   dispatch the example, run its analysis on this machine and show the results'
	@echo 'make pipeline          dispatch, analyse and collect the bundled example with Nextflow, which needs Java 17'
	@echo 'make test              lint, then the tests, about four minutes'
	@echo 'make long-test         the tests that compute for about two seconds or more each, six minutes'
	@echo 'make storage-test      list what real S3 servers hold (rclone and SeaweedFS, on this machine alone)'
	@echo 'make pipeline-test     run the pipeline of pipeline/ with Nextflow in many ways'
	@echo 'make slurm-test        run the pipeline on a Slurm of one node, as root; with ALL=1 all tests of the pipeline'
	@echo 'make container-test    build the images and run capsule and pipeline in Docker, which is started if none runs'
	@echo 'make browser-test      open the pages in Chromium, which must be installed'
	@echo 'make attack            attack the command at random for SECONDS=600, and count how its runs end'
	@echo 'make kill-test         kill runs at 200 random moments, about ten minutes'
	@echo 'make lint              ruff check, ruff format --check, mypy, typos'
	@echo 'make format            sort imports and format the code'
	@echo 'make audit             look up the dependencies in the list of known vulnerabilities'
	@echo 'make bench             time the dispatcher beside the public one, about twenty minutes'
	@echo 'make pin               pin the newest versions of all dependencies for the capsule'
	@echo 'make chromium          install Chromium where it is missing, as root on Debian'
	@echo 'make pictures          take the pictures in docs/ of the pages that the example makes, in Chromium'
	@echo 'make reference         write the generated parts of docs/ again: flags, Python functions, job file'
	@echo 'make docs              build the site of docs/ in site/'
	@echo 'make clean             remove $(VENV) and caches, keep results/'

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

# Started again, it runs only what is new.
example-results: $(VENV)/example.stamp
	@mkdir -p example_results
	@cd example_results && ../$(VENV)/bin/job-dispatch --input_directory=../data/example \
	    --metadata_catalog=../data/example/catalog.jsonl --output_directory=jobs --overwrite=1 \
	    --docdb_query='{"name": {"$$regex": "^behavior_.*_processed_"}}' --file_extension=.nwb
	@cd example_results && ../$(VENV)/bin/job-dispatch run ../pipeline/example/reward_response.py jobs
	@cd example_results && ../$(VENV)/bin/job-dispatch status
	@echo 'Table to open: example_results/analysis_results/table.csv'
	@echo 'Page to open:  example_results/analysis_results/results.html'

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

test: lint $(WRAPPERS:=/stamp)
	@echo 'Running the tests side by side, which takes about four minutes on two cores'
	cd code && ../$(VENV_PYTHON) -m pytest -n auto --dist worksteal

# Kills at many moments, many random examples, many records.
long-test: $(VENV)/test.stamp $(WRAPPERS:=/stamp)
	cd code && ../$(VENV_PYTHON) -m pytest -m long -n auto --dist worksteal

storage-test: $(VENV)/storage.stamp
	cd code && ../$(VENV_PYTHON) -m pytest -n 2 --dist worksteal tests/servers

# What an engine needs and cannot be had here is a reason to skip tests, which `-rs` shows.
pipeline-test: $(VENV)/test.stamp .venv-wrapper-new/stamp
	cd code && ../$(VENV_PYTHON) -m pytest -c pyproject.toml -rs -n auto --dist loadfile ../pipeline/tests

# Its tests wait more than they compute.
slurm-test: $(VENV)/test.stamp .venv-wrapper-new/stamp
	cd code && PIPELINE_ON_SLURM=$(ALL) ../$(VENV_PYTHON) -m pytest -c pyproject.toml -rs \
	    $(if $(ALL),-n auto --dist loadfile ../pipeline/tests,-n 3 --dist worksteal ../pipeline/tests/slurm)

container-test: $(VENV)/test.stamp
	cd code && ../$(VENV_PYTHON) -m pytest -c pyproject.toml -rs ../pipeline/tests/containers

browser-test: $(VENV)/browser.stamp
	cd code && BROWSER_TEST=1 ../$(VENV_PYTHON) -m pytest tests/browser

# The only allowed ends are all jobs, and no job with a sentence.
attack: $(VENV)/test.stamp
	cd code && ../$(VENV_PYTHON) -m tests.attack --seconds $(or $(SECONDS),600)

kill-test: $(VENV)/test.stamp
	cd code && KILLS=200 ../$(VENV_PYTHON) -m pytest -m long tests/results/test_killed_runs.py

lint: $(VENV)/test.stamp
	cd code && ../$(VENV_PYTHON) -m ruff check . ../pipeline
	cd code && ../$(VENV_PYTHON) -m ruff format --check . ../pipeline
	cd code && ../$(VENV_PYTHON) -m mypy
	$(VENV)/bin/typos

format: $(VENV)/test.stamp
	cd code && ../$(VENV_PYTHON) -m ruff check --select I --fix . ../pipeline
	cd code && ../$(VENV_PYTHON) -m ruff format . ../pipeline

audit: $(VENV)/test.stamp
	$(VENV_PYTHON) -m pip_audit --skip-editable

# Options go into BENCH: make bench BENCH='--quick --only listing'
bench: $(VENV)/test.stamp .venv-wrapper-new/stamp
	cd code && ../$(VENV_PYTHON) -m benchmarks.run $(BENCH)

pin: $(VENV)/test.stamp
	cd code && ../$(VENV_PYTHON) -m tools.pin

clean:
	rm -rf $(VENV) $(WRAPPERS) code/*.egg-info code/build site example_report example_results example_pipeline
	find code pipeline -type d \( -name __pycache__ -o -name '.*_cache' -o -name .hypothesis \) -prune -exec rm -rf {} +

# Ubuntu's own package is a snap, which cannot read the folders that tests write to.
chromium:
	@for name in "$$CHROMIUM" chromium chromium-browser google-chrome google-chrome-stable; do \
	    if [ -n "$$name" ] && command -v "$$name" >/dev/null; then exit 0; fi; \
	done; \
	if [ "$$(id -u)" != 0 ] || ! grep -q '^ID=debian' /etc/os-release 2>/dev/null; then \
	    echo 'Chromium is missing, and only root on Debian can install it with this command'; exit 1; \
	fi; \
	apt-get update --quiet=2 && apt-get install --yes --quiet=2 --no-install-recommends chromium fonts-liberation

pictures: $(VENV)/browser.stamp
	cd code && ../$(VENV_PYTHON) -m tools.pictures

reference: $(VENV)/test.stamp
	cd code && ../$(VENV_PYTHON) -m tools.reference && ../$(VENV_PYTHON) -m tools.notebook

# A link or an anchor that leads nowhere fails. Material prints an advertisement of another project without the variable.
docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(VENV_PYTHON) -m mkdocs build --strict --quiet
	@echo 'Site to open: site/index.html'

# What each stamp installs besides the project, and the stamps that this makes good as well.
EXTRAS_example := --extra example
EXTRAS_test := --extra dev
EXTRAS_browser := --extra dev --extra browser
EXTRAS_docs := --extra docs
EXTRAS_storage := --extra dev --extra storage-test
ALSO_example := run
ALSO_test := run example
ALSO_browser := run example test
ALSO_docs := run
ALSO_storage := run example test

PINS := environment/requirements.txt code/tools/pins/test.txt code/tools/pins/uv.txt

$(VENV)/%.stamp: code/pyproject.toml $(PINS) $(STALE)
	@code/tools/install $(VENV) '$(EXTRAS_$*)' $(PYTHON)
	@touch $(patsubst %,$(VENV)/%.stamp,$(ALSO_$*)) $@

# The wrappers' schema needs a Python older than 3.14. Where there is none, tests are skipped and name the reason.
.venv-wrapper-%/stamp: code/tools/pins/wrapper-%.txt | $(VENV)/test.stamp
	@code/tools/install-wrapper $(@D) $< $(VENV_PYTHON)
	@touch $@
