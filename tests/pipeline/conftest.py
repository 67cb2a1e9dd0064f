"""Fixtures of the tests that talk to Kubeflow Pipelines."""

import pytest

from pipeline.compile import CompileConfig, compile_pipeline
from pipeline.connection import ENVIRONMENT
from tests.pipeline.kubeflow_server import KubeflowServer


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server of our own, and a user who has no settings of his own."""
    from pipeline import follow, kubeflow

    for variable in ENVIRONMENT.values():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kubeflow, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.001)
    with KubeflowServer() as server:
        yield server


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Target -> compiled pipeline."""
    return compile_pipeline(CompileConfig(output_dir=str(tmp_path_factory.mktemp("compiled"))))
