"""Fixtures of the tests that talk to Kubeflow Pipelines, and of those that need Docker."""

import os
from dataclasses import fields

import pytest

from pipeline.compile import CompileConfig, compile_pipeline
from pipeline.kubeflow.connection import ConnectionConfig
from tests.pipeline.kubeflow_server import KubeflowServer
from trainer.common.errors import UserError


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A stand-in server, with no settings of the user."""
    from pipeline.kubeflow import client as kubeflow
    from pipeline.kubeflow import follow

    for field in fields(ConnectionConfig):
        monkeypatch.delenv(str(field.metadata["envvar"]), raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kubeflow, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.001)
    with KubeflowServer() as server:
        yield server


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Target -> compiled pipeline."""
    return compile_pipeline(CompileConfig(output_dir=str(tmp_path_factory.mktemp("compiled"))))


def _without_docker(error: UserError):
    """Skip a test without Docker and say so; in CI, fail it."""
    reason = f"NOT RUN, because it needs Docker: {error}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def docker_engine():
    """A Docker engine."""
    from pipeline.local import engine

    try:
        return engine.connect()
    except UserError as error:
        _without_docker(error)


@pytest.fixture(scope="session")
def built(docker_engine) -> dict[str, str]:
    """Image -> name of images built from the current code, on BASE_IMAGE if it is set."""
    from pipeline import images

    base_image = os.environ.get("BASE_IMAGE", "")
    try:
        return images.build(images.ImagesConfig(base_image=base_image))
    except UserError as error:
        _without_docker(error)


@pytest.fixture
def run_in(docker_engine):
    """A function that runs a command in an image; returns the exit code and the lines printed."""
    from pipeline.local import engine

    def run(image: str, command: list[str], **settings) -> tuple[int, list[str]]:
        with engine.container(docker_engine, image, command, **settings) as running:
            lines = list(running.stdout)
        return running.returncode, lines

    return run
