# `make` lists the targets. Parameters: make run TRAIN='data/train*.tfrecord' EVAL='data/eval*.tfrecord'
# ARGS='model=MoeModel num_epochs=10'; values are quoted as in the shell.

# Python 3.11, for which the locks are compiled. Another name or path: make PYTHON=...
PYTHON := $(shell for python in python3.11 python3 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --no-input --quiet install --no-deps --require-hashes

# The client of Vertex AI is one of the test dependencies.
CLIENT := $(if $(filter vertex,$(TARGET)),install-dev,install)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install install-dev run compile submit schedule serve doctor cluster cluster-down images push engines test test-fast test-cluster lint format protos lock bench bench-serving quality tensorboard clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## Create .venv from the lock (a dependency of the other targets)

install-dev: $(VENV)/installed-dev ## Add the test dependencies

$(VENV)/installed: requirements.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 is required and was not found: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing $< into $(VENV), once. This takes a few minutes."
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) -r $<
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	@$(PIP) -r $<
	@touch $@

run: install $(if $(filter docker,$(RUNNER)),images) ## Run the whole pipeline here on generated data, or TRAIN='glob' EVAL='glob'; ARGS='name=value ...'; RUNNER=docker: in containers; PIPELINE=predict
	@$(RUN) -m pipeline run $${PIPELINE:+"--pipeline=$$PIPELINE"} $${RUNNER:+"--runner=$$RUNNER"} $${TRAIN:+"train_data=$$TRAIN"} $${EVAL:+"eval_data=$$EVAL"} $(ARGS)

compile: install ## Compile the pipelines train and predict to build/, for Kubeflow and Vertex AI; PROFILE=gke-l4; ARGS='--registry=...'
	@$(RUN) -m pipeline compile $${PROFILE:+"--profile=$$PROFILE"} $(ARGS)

images: install ## Build the images with Docker; VARIANT=gpu: with CUDA; BASE_IMAGE=...
	@$(RUN) -m pipeline images $${VARIANT:+"--variant=$$VARIANT"} $${BASE_IMAGE:+"--base-image=$$BASE_IMAGE"}

push: install $(if $(REGISTRY),images) ## Push the images to REGISTRY=HOST/PROJECT/REPOSITORY; compile then uses their digests
	@$(RUN) -m pipeline push $${VARIANT:+"--variant=$$VARIANT"} --registry="$$REGISTRY"

submit: $(CLIENT) ## Run the compiled pipeline on Kubeflow, or with TARGET=vertex on Vertex AI; ARGS='--wait name=value ...'; PIPELINE=predict
	@$(RUN) -m pipeline submit $${PIPELINE:+"--pipeline=$$PIPELINE"} $${TARGET:+"--target=$$TARGET"} $(ARGS)

schedule: $(CLIENT) ## Run the pipeline there on a schedule: CRON='0 2 * * *'; or ARGS=pause, resume, list, delete; PIPELINE=predict
	@$(RUN) -m pipeline schedule $${PIPELINE:+"--pipeline=$$PIPELINE"} $(ARGS) $${TARGET:+"--target=$$TARGET"} $${CRON:+"--cron=$$CRON"}

serve: install-dev ## Serve the published model on port 8080, and switch to newly published ones: SERVED=FOLDER; ARGS='--port=... --log_dir=...'
	@$(RUN) -m trainer.serving.server --served_dir="$${SERVED:-build/output/published/served}" $(ARGS)

doctor: $(CLIENT) ## Check what a run needs, before it starts; ARGS='name=value ...' as for submit; PIPELINE=predict
	@$(RUN) -m pipeline doctor $${PIPELINE:+"--pipeline=$$PIPELINE"} $${TARGET:+"--target=$$TARGET"} $(ARGS)

cluster: install ## Create a kind cluster with Kubeflow Pipelines, the images and generated data (docs/kind.md)
	@infra/kind.sh up

cluster-down: ## Delete that cluster
	@infra/kind.sh down

engines: build/engines/flink-job-server.jar build/engines/prism ## Build the job servers of Flink (needs Maven, Java 11 or 17) and Prism (needs Go) for the tests

build/engines/flink-job-server.jar: infra/flink/pom.xml
	@command -v mvn >/dev/null || { echo "error: Maven (mvn) is required for $@ and was not found"; exit 1; }
	@mvn --batch-mode --quiet --file $< package

build/engines/prism: requirements.txt
	@command -v go >/dev/null || { echo "error: Go is required for $@ and was not found"; exit 1; }
	@GOBIN=$(CURDIR)/$(@D) go install "github.com/apache/beam/sdks/v2/go/cmd/prism@v$$(sed -n 's/^apache-beam==\([0-9.]*\).*/\1/p' $<)"
	@touch $@

test: install-dev ## Run all tests
	@$(RUN) -m pytest $(ARGS)

test-fast: install-dev ## Run the tests that take at most a few seconds each, on all cores
	@$(RUN) -m pytest -m "not slow" --numprocesses=auto --dist=loadfile $(ARGS)

test-cluster: install-dev ## Run tests/cluster on the Kubeflow at KF_PIPELINES_ENDPOINT; or, with YT8M_KUBERNETES=1, what needs Kubernetes alone; in the current kubeconfig's cluster
	@$(RUN) -m pytest -rs tests/cluster $(ARGS)

lint: install-dev ## Check style and format
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(VENV)/bin/hadolint docker/*.Dockerfile

format: install-dev ## Format the code
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

protos: install-dev ## Generate trainer/data/example_pb2.py from example.proto
	@$(RUN) -m grpc_tools.protoc --proto_path=. --python_out=. trainer/data/example.proto

UV_COMPILE = build/lock/bin/uv pip compile --quiet --generate-hashes --python-version 3.11 \
	$(if $(UPGRADE),--upgrade) --custom-compile-command "make lock"
lock: ## Compile the locks *.txt from *.in (UPGRADE=1: with the newest releases)
	@test -x build/lock/bin/uv || { $(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet uv; }
	@for name in requirements requirements-dev docker/data docker/trainer-cpu docker/trainer-gpu docker/serving; do \
		$(UV_COMPILE) $$name.in -o $$name.txt || exit 1; done
	@$(UV_COMPILE) --no-deps docker/kfp.in -o docker/kfp.txt

bench-serving: install-dev ## Benchmark the model server under load, and calling the model directly
	@$(RUN) -m benchmarks.serving $(ARGS)

bench: install ## Benchmark training, reading, validation and prediction (20 minutes)
	@$(RUN) -m benchmarks.reading
	@$(RUN) -m benchmarks.step
	@$(RUN) -m benchmarks.validation
	@$(RUN) -m benchmarks.prediction

quality: install-dev ## Train recipes and compare GAP, Hit@1, PERR, mAP and calibration: RECIPE=best TRAIN='glob' EVAL='glob' for one on your shards
	@$(RUN) -m benchmarks.quality $${RECIPE:+"--recipes=$$RECIPE" "--baseline=$$RECIPE"} $${TRAIN:+"--train=$$TRAIN"} $${EVAL:+"--eval=$$EVAL"} $(ARGS)

tensorboard: install ## Start TensorBoard for TRAIN_DIR=..., or for build/
	@TF_CPP_MIN_LOG_LEVEL=3 $(VENV)/bin/tensorboard --logdir "$${TRAIN_DIR:-build}"

clean: ## Remove compiled files and caches; keep .venv, generated data and trained models
	@rm -rf build/*.yaml build/kfp build/local build/lock .pytest_cache .hypothesis .ruff_cache
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
