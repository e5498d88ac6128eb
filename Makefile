# `make` or `make help` lists the targets. Set-up happens by itself, once: .venv and .tools hold what it makes.

SHELL := bash
.DEFAULT_GOAL := help

OUTDIR ?= results
BASE ?= python:3.13-slim
# Debian 12, as newer ones have Seurat 5
SEURAT_BASE ?= debian:bookworm-slim
# Extras that are small and quick to install are in the common image and in .venv; LIGER and Seurat have images of their own
EXTRAS := --extra bbknn --extra mnn --extra scvi
IMAGE := unbatch:$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' bin/unbatch/__init__.py)
# Passed into the build of the image where they are set.
BUILD_ENV := http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY PIP_INDEX_URL PIP_EXTRA_INDEX_URL
# What an image says of itself. BUILD_ARGS="--build-arg AWS=1" adds the AWS CLI, --build-arg SOURCE=... says where its source is.
LABELS = --build-arg VERSION="$(lastword $(subst :, ,$(IMAGE)))" --build-arg REVISION="$$(git rev-parse HEAD)"
NEXTFLOW_CODE := $(wildcard main.nf nextflow.config conf functions workflows modules)

export PATH := $(CURDIR)/.venv/bin:$(PATH)
# The strict parser is the default of Nextflow from 26.04 on; here it is on for the older ones too.
export NXF_SYNTAX_PARSER := v2
# Nothing is fetched at run time, and Nextflow need not try.
export NXF_OFFLINE := true

# Without a terminal (a log, CI), Nextflow writes plain lines instead of redrawing them.
plain_log = test -t 1 || export NXF_ANSI_LOG=false

# Runs the pipeline with some options, and prints the path of the report
define pipeline
@$(plain_log); nextflow run . $(1) --outdir "$(OUTDIR)" $(ARGS)
@report="$$(realpath "$(OUTDIR)")/multiqc/multiqc_report.html" && test -s "$$report" && echo "$$report"
endef

# One thread each: on data as small as the tests' more threads wait for one another. The tests of a file, which share
# what they fit, run one after another; files run at once, in the order in which they are found (tests/conftest.py).
pytest = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} NUMBA_NUM_THREADS=$${NUMBA_NUM_THREADS:-1} \
    python -m pytest -n auto --dist loadfile --no-loadscope-reorder
# for a Java that runs for seconds
test test-slow lint: export NXF_JVM_ARGS ?= -XX:TieredStopAtLevel=1 -XX:+UseSerialGC

.PHONY: help setup run run-all test test-slow test-modules lint format docs site screenshots bench results lock release-check image image-cpu image-liger image-seurat test-docker clean distclean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

setup: ## install what is needed into .venv and .tools; does nothing when it is there
	@setup/setup.sh

run: setup ## run a small example on data that it simulates; ARGS="..." are further options, OUTDIR=... where to
	$(call pipeline,-params-file conf/demo.yml)

run-all: setup ## run all default methods with three seeds on simulated data, which takes several times as long
	$(call pipeline,--simulate)

test: lint ## check style, then run the tests; PYTEST_ARGS="..." are pytest's options, -n 0 for one at a time
	$(pytest) $(PYTEST_ARGS)

test-slow: setup ## run the tests that take statistics over many seeds or fits
	$(pytest) -m slow $(PYTEST_ARGS)

test-modules: setup ## run the nf-test files of the modules, where an nf-test is on the PATH
	@if command -v nf-test >/dev/null; then nf-test test modules; \
	else echo "no nf-test is on the PATH: nothing was run (0.9.5 is what the files are written for)" >&2; fi

lint: setup ## check the style of the Python and the Nextflow code
	ruff format --check
	ruff check
	nextflow lint $(NEXTFLOW_CODE)

format: setup ## format the Python code and mend what ruff can mend
	ruff format
	ruff check --fix

docs: setup ## write the tables that are made from the method cards
	python docs/cards.py

site: setup ## build the documentation with the tutorials and the reference of functions into build/site
	python -m sphinx -c docs -b html -W --keep-going -q -d build/site-pages . build/site
	@echo "$(CURDIR)/build/site/index.html"

screenshots: setup ## make the pictures of the documentation from the reports of two runs (needs Chromium)
	python docs/screenshots.py $(ARGS)

bench: setup ## measure, which appends to benchmarks/results/*.csv; ARGS="kbet score" are parts (benchmarks/run.sh)
	benchmarks/run.sh $(ARGS)

results: setup ## write docs/results/ from what was measured and benchmarks/targets.yml
	python benchmarks/render.py

lock: setup ## lock all requirements anew; UPGRADE=--upgrade takes the newest versions
	.tools/env/bin/uv pip compile --universal --generate-hashes --no-emit-index-url --python-version 3.12 \
	    $(UPGRADE) pyproject.toml $(EXTRAS) -o containers/requirements.lock
	.tools/env/bin/uv pip compile --universal --generate-hashes --no-emit-index-url --python-version 3.12 \
	    $(UPGRADE) pyproject.toml $(EXTRAS) --extra dev --extra docs -c containers/requirements.lock \
	    -o containers/requirements-dev.lock
	.tools/env/bin/uv pip compile --universal --generate-hashes --no-emit-index-url --python-version 3.12 \
	    $(UPGRADE) pyproject.toml $(EXTRAS) --extra liger -c containers/requirements.lock \
	    -o containers/requirements-liger.lock
	.tools/env/bin/uv pip compile --universal --generate-hashes --no-emit-index-url --python-version 3.10 \
	    $(UPGRADE) setup/tools.in -o setup/tools.lock
	containers/make-environment.sh
	cd setup && ../.tools/env/bin/jgo --quiet --resolver python --system-java \
	    --repo-cache ../.tools/maven --cache-dir ../.tools/jgo lock

release-check: setup ## say what a release lacks: version, tag, changelog, locks, then the tests
	python setup/release.py check
	mkdir -p build && python setup/release.py sbom > build/unbatch.cdx.json
	$(MAKE) test

image: ## build the container image; BASE=... is another base image (see containers/)
	docker build --network host --build-arg BASE="$(BASE)" $(addprefix --build-arg ,$(BUILD_ENV)) $(LABELS) $(BUILD_ARGS) \
	    --tag "$(IMAGE)" containers

image-cpu: ## build it for CPUs alone; TORCH_INDEX=... is PyTorch's index of such builds
	@test -n "$(TORCH_INDEX)" || { echo "TORCH_INDEX: missing; PyTorch's install page names its index of builds for CPUs" >&2; exit 2; }
	docker build --network host --build-arg BASE="$(BASE)" $(addprefix --build-arg ,$(BUILD_ENV)) $(LABELS) $(BUILD_ARGS) \
	    --target cpu --build-arg TORCH_INDEX="$(TORCH_INDEX)" --tag "$(IMAGE)-cpu" containers

image-liger: ## build the image of LIGER, which has all that the common one has
	docker build --network host --build-arg BASE="$(BASE)" $(addprefix --build-arg ,$(BUILD_ENV)) \
	    $(LABELS) --build-arg LOCK=requirements-liger.lock --tag "$(subst unbatch:,unbatch-liger:,$(IMAGE))" containers

image-seurat: ## build the image of Seurat; SEURAT_BASE=... is another Debian 12
	docker build --network host --build-arg BASE="$(SEURAT_BASE)" $(addprefix --build-arg ,$(BUILD_ENV)) \
	    --tag "$(subst unbatch:,unbatch-seurat:,$(IMAGE))" containers/seurat

test-docker: setup image ## run the pipeline on tiny data in the image
	@$(plain_log); nextflow run . -profile test,docker --outdir results-docker
	test -s results-docker/multiqc/multiqc_report.html

clean: ## remove what runs and tests left, but no results
	rm -rf work .nextflow* .nf-test* .pytest_cache .ruff_cache .cache

distclean: clean ## remove what set-up made, too
	rm -rf .venv .tools
