"""Files of Beam's runners outside of Python, which `make engines` builds."""

import os
import shutil
from pathlib import Path

import pytest

from pipeline.paths import ROOT


def job_server() -> str:
    """Return the path of Beam's job server for Flink; skip the test if it cannot run."""
    if not shutil.which("java"):
        pytest.skip("NOT RUN, for it needs java, for Flink")
    return engine("FLINK_JOB_SERVER_JAR", "flink-job-server.jar")


def engine(variable: str, name: str) -> str:
    """Return the path in an environment variable, or that of a built file; skip without."""
    path = os.environ.get(variable) or ROOT / "build" / "engines" / name
    if not Path(path).is_file():
        pytest.skip(
            f"NOT RUN, for it needs {path}: `make engines` builds it, or set {variable} to another"
        )
    return str(path)
