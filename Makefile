# Two commands do everything on a fresh Debian machine with git, make and Python 3.11: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# setuptools warns of every editable installation.
PIP := PYTHONWARNINGS=ignore::UserWarning:setuptools.command.editable_wheel \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DATA ?= $(wildcard ../shared/data)
# Tools of a release, in an environment of their own: tests need none of them.
TOOLS := .venv-release
# What makes pages of docs/, apart from the node too.
DOCS := .venv-docs
# The viewer that `make viewers` opens results in: version and SHA-256 of the package @ohif/app of npm.
OHIF := 3.13.2 b189d3963bfc58e9394a9db8c7be75d07beb029ec211dbb126d47b62969dd3f1
# Draws the diagrams of docs/: the package's version and the SHA-256 of its file.
MERMAID := 11.12.1 198b19442f86f0b46a17e56d3abf744c3a28a3427e66fa8dada3b589a77babcc
# The lock names packages, versions and hashes, never where they come from: of the public index, no others.
LOCK := PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= PIP_EXTRA_INDEX_URL= $(TOOLS)/bin/pip-compile --quiet \
	--generate-hashes --build-deps-for wheel --extra ai --extra postgres --extra console --extra oidc --extra s3 --extra hl7 --extra pdf --extra telemetry --extra fhir --extra serve --constraint constraints.txt \
	--strip-extras --allow-unsafe --no-annotate --no-header --no-emit-options --no-emit-index-url
# Processes that run tests side by side, one more than two cores, as many tests wait for processes; each takes up to
# 2 GB. Large arrays go back to the system when they are freed: by itself glibc keeps more and more of them.
# Hundreds of processes import our modules: they are compiled once, whatever the machine's environment says.
# OpenMP's threads sleep when they wait: there are more of them than cores, and a spinning one takes ten times the CPU.
WORKERS ?= 3
ONE_CORE := PYTHONDONTWRITEBYTECODE= MALLOC_MMAP_THRESHOLD_=4194304 \
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE OPENBLAS_NUM_THREADS=1 \
	$(BIN)/python -m pytest
PYTEST := $(ONE_CORE) --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
# Tests of training and of networks of others. `make test` runs those marked `smoke` (and tests of the rest that need
# torch), in a process of their own: to load torch in each of the others takes longer.
TRAINED := tests/unit/ai_training
# What `make check` compares with: it tests what changed since.
BASE ?= main

.PHONY: demo pictures viewers help check affected test tests test-training lint budget coverage docs generated site hostile kills bench figures released-schema version dist pipeline licences lock sbom audit clean

demo: $(VENV)/.demo  ## a film and an ultrasound through the node; a page of what came back
	$(BIN)/dicom-node demo --out demo-output

help:  ## what can be made, each in a line
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

check: $(VENV)/.test  ## lint, types, and tests of what changed since BASE (main) and of what imports it
	@$(MAKE) --no-print-directory --jobs=2 lint affected

affected: $(VENV)/.test  ## the tests of check alone
	$(ONE_CORE) --numprocesses 2 --dist loadfile -q $$($(BIN)/python -m tests.affected $(BASE)) $(PYTEST_ARGS)

test: $(VENV)/.test  ## everything: lint and types beside all tests
	@$(MAKE) --no-print-directory --jobs=2 lint tests

tests: $(VENV)/.test  ## the tests of test alone; PYTEST_ARGS=… goes to pytest, WORKERS=3 run side by side
	$(BIN)/python -m compileall -q ai_pipeline ai_training benchmarks dicom_connectors dicom_console dicom_node  # once, not in each
	$(PYTEST) -m "not smoke" $(addprefix --ignore=,$(TRAINED)) $(PYTEST_ARGS)
	$(ONE_CORE) -q -m smoke $$(grep -rl --include='test_*.py' mark.smoke tests)  # to collect all takes longer

test-training: $(VENV)/.test  ## all tests of ai_training, of its studies and of converted networks
	$(PYTEST) $(TRAINED) $(PYTEST_ARGS)

lint: $(VENV)/.test budget  ## ruff, mypy, and the budget
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

budget: $(VENV)/.test  ## tokens, dense functions and long files against budget.toml; WRITE=1 lowers it to what is there
	$(BIN)/python -m tests.budget $(if $(WRITE),--write)

pictures: $(VENV)/.test demo  ## docs/pictures: what make demo shows, and the console; needs Debian's chromium-headless-shell
	chromium-headless-shell --no-sandbox --disable-gpu --hide-scrollbars --window-size=1060,1050 \
		--screenshot=docs/pictures/demo.png file://$(CURDIR)/demo-output/index.html
	PICTURES=$(CURDIR)/docs/pictures $(ONE_CORE) -q -n0 tests/wire/console/test_walk.py -k lists_are_dense
	$(BIN)/python -c "import sys, PIL.Image as I; [I.open(one).quantize(128).save(one, optimize=True) for one in sys.argv[1:]]" \
		docs/pictures/console-*.png  # in few colours: half of the bytes

viewers: $(VENV)/.test build/ohif/package build/dwv/konva.js examples/ohif/dist/plane-images.js  ## what OHIF (with and without examples/ohif), dwv, Orthanc and DCMTK show of results, and their pictures in docs/pictures; needs npm and what .ci/run installs
	PICTURES=$(CURDIR)/docs/pictures $(ONE_CORE) -q -n0 tests/wire/viewers $(PYTEST_ARGS)
	$(BIN)/python -c "import sys, PIL.Image as I; [I.open(one).convert('RGB').quantize(64).save(one, optimize=True) for one in sys.argv[1:]]" \
		docs/pictures/viewer-ohif-*.png docs/pictures/viewer-dwv-*.png

# What dwv imports, as modules for a browser.
build/dwv/konva.js: tests/wire/viewers/dwv/package-lock.json
	npm ci --prefix tests/wire/viewers/dwv --silent --no-audit --no-fund
	cd tests/wire/viewers/dwv && node_modules/.bin/esbuild konva jszip magic-wand-tool --bundle --format=esm --outdir=$(CURDIR)/build/dwv --log-level=error
	cp -r tests/wire/viewers/dwv/node_modules/dwv/dist/. build/dwv

build/ohif/package:
	@mkdir -p build/ohif
	cd build/ohif && npm pack --silent @ohif/app@$(firstword $(OHIF)) >/dev/null && \
		echo "$(lastword $(OHIF))  ohif-app-$(firstword $(OHIF)).tgz" | sha256sum --check --quiet && \
		tar xzf ohif-app-$(firstword $(OHIF)).tgz

examples/ohif/dist/plane-images.js: $(wildcard examples/ohif/src/*.ts) examples/ohif/package.json
	cd examples/ohif && npm install --silent --no-audit --no-fund && npm run --silent build

# Roles that tests start as processes of their own are not counted, but what they fork is.
coverage: $(VENV)/.test  ## share of lines and branches that unit tests reach, by room; PYTEST_ARGS=… goes to pytest (half an hour)
	$(PIP) coverage
	@mkdir -p build
	$(ONE_CORE:pytest=coverage) run --data-file build/coverage --branch \
		--source ai_pipeline,dicom_connectors,dicom_console,dicom_node \
		-m pytest -q -n0 tests/unit --ignore=$(TRAINED) $(PYTEST_ARGS)
	@for room in ai_pipeline/ dicom_connectors/ dicom_console/ dicom_node/[a-z]*/; do printf '%s %s%%\n' $$room \
		"$$($(BIN)/coverage report --data-file build/coverage --format total --precision 1 --include "$$room*")"; done | column -t

docs: generated $(DOCS)/.installed  ## the documentation as pages in build/docs, to be read without a network; dead links fail
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet

generated: $(VENV)/.test  ## write anew what the program writes: samples in config/, the marked parts of docs/
	for part in node peers rules notifications; do $(BIN)/dicom-node config sample $$part >config/$$part.toml; done
	$(BIN)/python docs/generate.py

site: $(VENV)/.test  ## a site of two listeners, two workers, PostgreSQL and Orthanc as processes, until Ctrl-C
	$(BIN)/python -m tests.site_lab

hostile: $(VENV)/.test  ## 100,000 mutated objects and messages, every bomb, slow and silent peers, thirty kills
	$(BIN)/python -m pytest tests/hostile tests/faults --hostile-rounds 50000 $(PYTEST_ARGS)

kills: $(VENV)/.test  ## 1,000 random kills of a site with PostgreSQL and Orthanc while persons decide; its ledger must balance (50 minutes)
	$(BIN)/python -m tests.faults.kills --kills 1000

bench: $(VENV)/.test  ## the node beside storescp, Orthanc and plain pynetdicom; the turnaround, inference, cleaning
	$(BIN)/python benchmarks/receive.py
	$(BIN)/python benchmarks/turnaround.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/cleaning.py

figures: $(VENV)/.test  ## make figures DATA=DIR: measure the models again for the figures of README, docs/models and cards (about an hour on two quiet cores)
	for what in anatomy fetal chest "detect --split test" ovarian marks "marks --masks tests/data/marks" \
			"legible --policy clinical --first 1000" inpaint cleaning "despeckle --frames 6"; do \
		echo "# $$what"; $(BIN)/ai-pipeline evaluate $$what --data $(DATA) || exit 1; done

released-schema:  ## checksums of the migrations, with each release: a released one never changes
	cd dicom_node/base/store/migrations/versions && sha256sum 0*.py >../../../../../tests/unit/base/store/released.sha256

version:  ## make version TO=0.2.0: the version of the four packages, and which of the others each needs
	sed -i -E 's/^version = ".*"/version = "$(TO)"/; s/"(dicom-ai-node\[[a-z,]+\])==[^"]*"/"\1==$(TO)"/' \
		pyproject.toml ai_pipeline/pyproject.toml dicom_console/pyproject.toml ai_training/pyproject.toml
	sed -i -E 's/^Version [0-9]+\.[0-9]+\.[0-9]+/Version $(TO)/' README.md

dist: $(TOOLS)/.installed sbom  ## dist/: wheels and sdists of the four packages, SBOM, lock, checksums
	for project in . ai_pipeline dicom_console ai_training; do $(TOOLS)/bin/python -m build --no-isolation --outdir dist $$project || exit 1; done
	cp release.lock CHANGELOG.md dist
	cd dist && sha256sum --binary *.whl *.tar.gz sbom.cdx.json release.lock >SHA256SUMS

pipeline: $(TOOLS)/.installed  ## dist/: wheel and sdist of dicom-ai-pipeline alone (Apache-2.0)
	$(TOOLS)/bin/python -m build --no-isolation --outdir dist ai_pipeline

licences: $(VENV)/.test  ## that wheel in an empty environment: it cleans a file, and nothing there is under a GPL; needs the network
	$(BIN)/python -m tests.empty_environment

lock: $(TOOLS)/.installed  ## release.lock: what a release installs, with the hash of every file
	$(LOCK) --output-file release.lock pyproject.toml

sbom: $(TOOLS)/.installed  ## dist/sbom.cdx.json: what a release holds (CycloneDX)
	@mkdir -p dist
	$(TOOLS)/bin/cyclonedx-py requirements release.lock --pyproject pyproject.toml \
		--output-reproducible --output-file dist/sbom.cdx.json

audit: $(TOOLS)/.installed  ## known weaknesses of what a release installs; needs the network
	$(TOOLS)/bin/pip-audit --requirement release.lock --require-hashes --disable-pip --strict

$(TOOLS)/.installed: constraints.txt
	@$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--upgrade pip setuptools pip-tools cyclonedx-bom pip-audit
	@touch $@

$(DOCS)/.installed: constraints.txt pyproject.toml
	@$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		$$(sed -n 's/^docs = \["\(.*\)"\].*/\1/p' pyproject.toml)
	@cd $(DOCS) && if npm pack --silent mermaid@$(firstword $(MERMAID)) >/dev/null; then \
		tar -xzf mermaid-*.tgz --strip-components=2 package/dist/mermaid.min.js && rm mermaid-*.tgz && \
		echo "$(lastword $(MERMAID))  mermaid.min.js" | sha256sum --check --quiet || { rm -f mermaid.min.js; exit 1; }; \
		else echo "no npm: diagrams are shown as text"; fi
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Python 3.11 or newer is needed: make PYTHON=python3.11 ...'; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo 'Debian keeps venv apart: apt-get install python3-venv'; rm -rf $(VENV); exit 1; }

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo 'Upgrading pip and setuptools in $(VENV) (a few seconds) …'
	@$(PIP) --upgrade pip setuptools
	@echo 'Installing the node, ONNX Runtime, OpenCV and about 60 packages into $(VENV) (about two minutes, without further lines) …'
	@$(PIP) --editable '.[ai]'
	@touch $@

$(VENV)/.test: pyproject.toml ai_training/pyproject.toml dicom_console/pyproject.toml constraints.txt tests/fhir_server/package-lock.json | $(VENV)/bin/python
	@echo 'Upgrading pip and setuptools in $(VENV) …'
	@$(PIP) --upgrade pip setuptools
	@echo 'Installing the node, its console, training with torch, and what tests need into $(VENV) (several minutes) …'
	@$(PIP) --editable '.[test]' --editable ./dicom_console --editable ./ai_training polars
	@$(PIP) --no-deps ultralytics  # it asks for opencv-python, which overwrites opencv-python-headless and brings Qt
	PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --prefix tests/fhir_server --silent --no-audit --no-fund || echo "no npm: the tests of the FHIR server are skipped"
	@touch $@ $(VENV)/.demo

clean:  ## remove the environments and all that is made here
	rm -rf $(VENV) $(TOOLS) $(DOCS) build dist demo-output .mypy_cache .ruff_cache .pytest_cache
