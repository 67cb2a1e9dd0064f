# `make` lists the targets. Parameters: make run TRAIN='data/train*.tfrecord' EVAL='data/eval*.tfrecord'
# ARGS='model=MoeModel num_epochs=10'; values are quoted as in the shell.

# What the locks are made for. Another name or path: make PYTHON=...
PYTHON := $(shell for python in python3.11 python3 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --no-input --quiet install --no-deps --require-hashes

# What speaks to Vertex AI is among what tests need.
CLIENT := $(if $(filter vertex,$(TARGET)),install-dev,install)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install install-dev run compile submit schedule doctor cluster cluster-down images push engines test test-fast test-cluster lint format protos lock bench tensorboard clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## Make .venv, from the lock (every target that needs it does so)

install-dev: $(VENV)/installed-dev ## Add what tests and checks need

$(VENV)/installed: requirements.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 is needed, and not found; name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing what $< lists into $(VENV); this takes a minute or a few, once."
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) -r $<
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	@$(PIP) -r $<
	@touch $@

run: install $(if $(filter docker,$(RUNNER)),images) ## Run the whole pipeline here, on data it makes; or TRAIN='glob' EVAL='glob'; ARGS='name=value ...'; RUNNER=docker: in the images
	@$(RUN) -m pipeline run $${RUNNER:+"--runner=$$RUNNER"} $${TRAIN:+"train_data=$$TRAIN"} $${EVAL:+"eval_data=$$EVAL"} $(ARGS)

compile: install ## Write build/pipeline.yaml (Kubeflow) and build/pipeline.vertex.yaml; PROFILE=gke-l4: for such a cluster; ARGS='--registry=...'
	@$(RUN) -m pipeline compile $${PROFILE:+"--profile=$$PROFILE"} $(ARGS)

images: install ## Build the images, with Docker; VARIANT=gpu: with CUDA; BASE_IMAGE=... to build on
	@$(RUN) -m pipeline images $${VARIANT:+"--variant=$$VARIANT"} $${BASE_IMAGE:+"--base-image=$$BASE_IMAGE"}

push: install $(if $(REGISTRY),images) ## Send them to REGISTRY=HOST/PROJECT/REPOSITORY; compile names them by digest from then on
	@$(RUN) -m pipeline push $${VARIANT:+"--variant=$$VARIANT"} --registry="$$REGISTRY"

submit: $(CLIENT) ## Run what was compiled on Kubeflow, or with TARGET=vertex on Vertex AI; ARGS='--wait name=value ...'
	@$(RUN) -m pipeline submit $${TARGET:+"--target=$$TARGET"} $(ARGS)

schedule: $(CLIENT) ## Run it there again and again: CRON='0 2 * * *'; or ARGS=pause, resume, list, delete
	@$(RUN) -m pipeline schedule $(ARGS) $${TARGET:+"--target=$$TARGET"} $${CRON:+"--cron=$$CRON"}

doctor: $(CLIENT) ## Find what would break such a run, before it starts: ARGS='name=value ...' as for submit
	@$(RUN) -m pipeline doctor $${TARGET:+"--target=$$TARGET"} $(ARGS)

cluster: install ## Create a kind cluster with Kubeflow Pipelines, the images and generated data (docs/kind.md)
	@infra/kind.sh up

cluster-down: ## Delete that cluster
	@infra/kind.sh down

engines: build/engines/flink-job-server.jar build/engines/prism ## Build what Beam needs for Flink (with Maven, Java 11 or 17) and Prism (with Go); tests use them

build/engines/flink-job-server.jar: infra/flink/pom.xml
	@command -v mvn >/dev/null || { echo "error: Maven (mvn) is needed for $@, and not found"; exit 1; }
	@mvn --batch-mode --quiet --file $< package

build/engines/prism: requirements.txt
	@command -v go >/dev/null || { echo "error: Go is needed for $@, and not found"; exit 1; }
	@GOBIN=$(CURDIR)/$(@D) go install "github.com/apache/beam/sdks/v2/go/cmd/prism@v$$(sed -n 's/^apache-beam==\([0-9.]*\).*/\1/p' $<)"
	@touch $@

test: install-dev ## Run all tests
	@$(RUN) -m pytest $(ARGS)

test-fast: install-dev ## Run the tests that take no longer than a few seconds each
	@$(RUN) -m pytest -m "not slow" $(ARGS)

test-cluster: install-dev ## Run whole pipelines on the Kubeflow at KF_PIPELINES_ENDPOINT, in the cluster of the current kubeconfig
	@$(RUN) -m pytest tests/cluster $(ARGS)

lint: install-dev ## Check style and format
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(VENV)/bin/hadolint docker/*.Dockerfile

format: install-dev ## Put the code in format
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

protos: install-dev ## Generate trainer/data/example_pb2.py from example.proto
	@$(RUN) -m grpc_tools.protoc --proto_path=. --python_out=. trainer/data/example.proto

UV_COMPILE = build/lock/bin/uv pip compile --quiet --generate-hashes --python-version 3.11 \
	$(if $(UPGRADE),--upgrade) --custom-compile-command "make lock"
lock: ## Renew the locks, *.txt, from what *.in list (UPGRADE=1: with the newest releases)
	@test -x build/lock/bin/uv || { $(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet uv; }
	@for name in requirements requirements-dev docker/data docker/trainer-cpu docker/trainer-gpu; do \
		$(UV_COMPILE) $$name.in -o $$name.txt || exit 1; done
	@$(UV_COMPILE) --no-deps docker/kfp.in -o docker/kfp.txt

bench: install ## Measure training, reading and validation, beside the bare work they need (a quarter of an hour)
	@$(RUN) -m benchmarks.reading
	@$(RUN) -m benchmarks.step
	@$(RUN) -m benchmarks.validation

tensorboard: install ## Show how training goes: TRAIN_DIR=..., or all trained below build/
	@TF_CPP_MIN_LOG_LEVEL=3 $(VENV)/bin/tensorboard --logdir "$${TRAIN_DIR:-build}"

clean: ## Remove what was compiled and cached; keep .venv, the generated data and trained models
	@rm -rf build/*.yaml build/kfp build/local build/lock .pytest_cache .hypothesis .ruff_cache
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
