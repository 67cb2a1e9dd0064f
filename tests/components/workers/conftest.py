import json
from pathlib import Path

import pytest


@pytest.fixture
def pod() -> dict:
    """A train step's pod of Kubeflow Pipelines 2.17.0, recorded from the API and shortened."""
    return json.loads((Path(__file__).parent / "train_pod.json").read_text())
