"""Parts of an evaluation: the predictions for some of the files, which can be kept and read again.

A part holds what the metrics take, batch by batch. So metrics of an evaluation that resumes are
exactly those of one that was not interrupted, whatever the metrics.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from dataclasses import dataclass

import numpy as np

from trainer.common import storage
from trainer.evaluation.experts import ExpertMetrics
from trainer.evaluation.predictions import Videos


@dataclass(frozen=True)
class ModelPart:
    """Predictions of one model, batch by batch.

    Attributes:
        scores: of each batch, [batch, k] float32, as in `TopPredictions`.
        classes: of each batch, [batch, k] int.
        losses: of each batch, [batch] float32.
        experts: how the experts are used; None if the model is no mixture of experts.
    """

    scores: list[np.ndarray]
    classes: list[np.ndarray]
    losses: list[np.ndarray]
    experts: ExpertMetrics | None


@dataclass(frozen=True)
class Part:
    """Videos, batch by batch, and the predictions of each model for them.

    Attributes:
        videos: of each batch.
        labels: of each batch, [batch, n] int, padded with -1.
        models: of each model.
    """

    videos: list[Videos]
    labels: list[np.ndarray]
    models: list[ModelPart]


def key(statuses: dict[str, storage.FileStatus], settings: list) -> str:
    """Return the name of the part of some files: a hash of their statuses and the settings.

    Args:
        statuses: path -> status of each file.
        settings: what else the predictions depend on.
    """
    text = json.dumps([sorted(statuses.items()), settings])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write(folder: str, key: str, part: Part):
    """Write a part to a folder, local or gs://."""
    arrays = {"num_batches": np.array(len(part.videos)), "num_models": np.array(len(part.models))}
    for i, videos in enumerate(part.videos):
        for field in dataclasses.fields(Videos):
            arrays[f"{i}/{field.name}"] = getattr(videos, field.name)
        arrays[f"{i}/labels"] = part.labels[i]
    for m, model in enumerate(part.models):
        for i in range(len(part.videos)):
            arrays[f"{m}/{i}/scores"] = model.scores[i]
            arrays[f"{m}/{i}/classes"] = model.classes[i]
            arrays[f"{m}/{i}/losses"] = model.losses[i]
        if model.experts:
            arrays |= {f"{m}/experts/{name}": each for name, each in model.experts.state().items()}
    file = io.BytesIO()
    np.savez(file, **arrays)
    storage.write_bytes(_path(folder, key), file.getvalue())


def read(folder: str, key: str) -> Part | None:
    """Return the part with this key from a folder; None if it is not there."""
    if not storage.exists(_path(folder, key)):
        return None
    file = io.BytesIO(storage.read_bytes(_path(folder, key)))
    with np.load(file, allow_pickle=False) as arrays:
        batches = range(int(arrays["num_batches"]))
        names = [field.name for field in dataclasses.fields(Videos)]
        return Part(
            [Videos(**{name: arrays[f"{i}/{name}"] for name in names}) for i in batches],
            [arrays[f"{i}/labels"] for i in batches],
            [_model(arrays, m, batches) for m in range(int(arrays["num_models"]))],
        )


def _model(arrays, m: int, batches: range) -> ModelPart:
    columns = [
        [arrays[f"{m}/{i}/{name}"] for i in batches] for name in ("scores", "classes", "losses")
    ]
    prefix = f"{m}/experts/"
    state = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
    return ModelPart(*columns, ExpertMetrics.of_state(state) if state else None)


def _path(folder: str, key: str) -> str:
    return storage.join(folder, f"{key}.npz")
