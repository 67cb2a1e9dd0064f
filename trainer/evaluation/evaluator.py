"""The evaluation loop: metrics of trained models on labelled videos."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data import input_pipeline, manifest
from trainer.evaluation import parts
from trainer.evaluation.experts import ExpertAnalysis, ExpertMetrics
from trainer.evaluation.metrics import (
    TOP_K,
    AveragePrecision,
    MetricCollection,
    TopPredictions,
    VideoCounts,
)
from trainer.evaluation.parts import ModelPart, Part
from trainer.evaluation.predictions import Predictions, Videos
from trainer.serving import loading
from trainer.training.losses import EPSILON

LOG_SECONDS = 5  # between two log lines
FILES_PER_PART = 64  # after which an evaluation can resume


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        metrics: name -> value, of the metrics in trainer.evaluation.metrics.METRICS, of "loss"
            (mean CrossEntropyLoss) and of the counts "num_videos", "num_videos_without_labels" and
            "num_classes_with_videos".
        average_precision: [num_classes] float64; NaN for a class that no video has.
        num_positives: [num_classes] int64, the number of videos with each class.
        model_flags: flags that define the model.
        step: number of steps that the model was trained for.
        class_names: by class id.
        videos: the videos.
        predictions: the model's predictions for them.
        experts: how the classes use their experts; None if the model is no mixture of experts.
    """

    metrics: dict
    average_precision: np.ndarray
    num_positives: np.ndarray
    model_flags: dict
    step: int
    class_names: list[str]
    videos: Videos
    predictions: Predictions
    experts: ExpertAnalysis | None = None


def evaluate(
    model_dir: str,
    data_pattern: str,
    batch_size: int = 1024,
    top_k: int = TOP_K,
    num_readers: int = 8,
    vocabulary_file: str = "",
) -> Evaluation:
    """Evaluate a model.

    Args:
        model_dir: a train_dir, or the folder of an exported model.
        data_pattern: glob(s) of the records, comma-separated.
        batch_size: videos per batch; it does not change the metrics.
        top_k: number of predictions per video that GAP and mAP use.
        num_readers: number of files to read in parallel.
        vocabulary_file: class names for the model of a train_dir; an exported model has its own.

    Raises:
        UserError: there is no model, no file matches, a record cannot be read, or no video has a
            label.
    """
    evaluation, _ = evaluate_pair(
        model_dir, None, data_pattern, batch_size, top_k, num_readers, vocabulary_file
    )
    return evaluation


def evaluate_pair(
    model_dir: str,
    champion_dir: str | None,
    data_pattern: str,
    batch_size: int = 1024,
    top_k: int = TOP_K,
    num_readers: int = 8,
    vocabulary_file: str = "",
    parts_dir: str = "",
) -> tuple[Evaluation, Evaluation | None]:
    """Evaluate a model and the published one in one pass: every batch is read once, for both.

    Args:
        model_dir: as in `evaluate`, like the other arguments.
        champion_dir: folder of the published model; None if there is none.
        data_pattern: see `evaluate`.
        batch_size: see `evaluate`.
        top_k: see `evaluate`.
        num_readers: see `evaluate`.
        vocabulary_file: see `evaluate`.
        parts_dir: folder for the predictions of each FILES_PER_PART files, local or gs://. An
            interrupted evaluation of the same models and files resumes from there. Empty: none.

    Returns:
        The evaluations of both models, with the same `videos`.

    Raises:
        UserError: as in `evaluate`.
    """
    models = [loading.load(model_dir, vocabulary_file)]
    if champion_dir:
        models.append(_load_champion(champion_dir))
    files = manifest.expand(data_pattern)
    with _champion_explained(champion_dir):
        evaluations = evaluate_models(
            models,
            files,
            batch_size,
            top_k,
            num_readers,
            parts_dir,
            [model_dir, champion_dir],
        )
    return evaluations[0], evaluations[1] if champion_dir else None


def evaluate_models(
    models: list[loading.TrainedModel],
    files: list[str],
    batch_size: int = 1024,
    top_k: int = TOP_K,
    num_readers: int = 8,
    parts_dir: str = "",
    model_dirs: list[str | None] = (),
) -> list[Evaluation]:
    """Evaluate models in one pass: every batch is read once, and parsed once per record format.

    Args:
        models: the models. A record that only another than the first one cannot read raises an
            OtherFormatError.
        files: files of records.
        batch_size: see `evaluate`, like the other arguments.
        top_k: see `evaluate`.
        num_readers: see `evaluate`.
        parts_dir: see `evaluate_pair`.
        model_dirs: folders of the models, which identify them in `parts_dir`.

    Raises:
        UserError: a record cannot be read, or no video has a label.
    """
    videos: list[Videos] = []
    totals = [_ModelTotals(model, top_k) for model in models]
    progress = _Progress()
    settings = [*model_dirs, *(model.step for model in models), batch_size, top_k]
    statuses = storage.statuses(files) if parts_dir else {}
    for start in range(0, len(files), FILES_PER_PART):
        group = files[start : start + FILES_PER_PART]
        key = parts.key({file: statuses.get(file) for file in group}, settings)
        part = parts.read(parts_dir, key) if parts_dir else None
        if part is None:
            part = _predict(models, group, batch_size, top_k, num_readers, progress)
            if parts_dir:
                parts.write(parts_dir, key, part)
        videos += part.videos
        for total, model_part in zip(totals, part.models, strict=True):
            total.add(model_part, part.labels)
    if not any(batch.num_labels.any() for batch in videos):
        raise UserError(
            f"None of the {sum(map(len, videos))} videos in {_describe(files)} has a label; "
            "metrics need labelled videos."
        )
    all_videos = Videos.concatenate(videos)
    return [total.result(all_videos) for total in totals]


def _predict(
    models: list[loading.TrainedModel],
    files: list[str],
    batch_size: int,
    top_k: int,
    num_readers: int,
    progress: _Progress,
) -> Part:
    """The predictions of all models for the videos of some files."""
    formats = list(dict.fromkeys(model.record_format for model in models))
    part = Part([], [], [ModelPart([], [], [], _expert_metrics(model)) for model in models])
    with input_pipeline.explained():
        for batches in input_pipeline.batches_in_formats(files, formats, batch_size, num_readers):
            part.videos.append(Videos.of_batch(batches[0]))
            part.labels.append(batches[0]["labels"].numpy())
            for model, model_part in zip(models, part.models, strict=True):
                _predict_batch(
                    model, model_part, batches[formats.index(model.record_format)], top_k
                )
            progress.add(len(part.videos[-1]))
    return part


def _predict_batch(model: loading.TrainedModel, part: ModelPart, batch: dict, top_k: int):
    """Add the predictions for a batch of `input_pipeline`."""
    labels = batch["labels"]
    if part.experts:
        predictions, gate_probabilities = model.predict_with_gates(batch)
        part.experts.add(gate_probabilities, labels)
    else:
        predictions = model.predict(batch)
    k = min(max(top_k, labels.shape[1]), predictions.shape[1])
    scores, classes, video_losses = _top_and_losses(predictions, labels, k)
    part.scores.append(scores.numpy())
    part.classes.append(classes.numpy())
    part.losses.append(video_losses.numpy())


def _describe(files: list[str]) -> str:
    others = f" and {len(files) - 1} other files" if len(files) > 1 else ""
    return f"{files[0]!r}{others}"


def _expert_metrics(model: loading.TrainedModel) -> ExpertMetrics | None:
    if model.predict_with_gates:
        return ExpertMetrics(model.flags["num_classes"], model.flags["moe_num_mixtures"] + 1)
    return None


def _load_champion(champion_dir: str) -> loading.TrainedModel:
    try:
        return loading.load(champion_dir)
    except UserError as error:
        raise _champion_error(champion_dir, error) from error


@contextlib.contextmanager
def _champion_explained(champion_dir: str | None):
    """Explain that a record is invalid for the published model alone."""
    try:
        yield
    except input_pipeline.OtherFormatError as error:
        raise _champion_error(champion_dir, error) from error


def _champion_error(champion_dir: str, error: UserError) -> UserError:
    return UserError(
        f"The published model {champion_dir!r} cannot be evaluated on this data, and the new model "
        f"cannot be compared with it: {error} Publish models of other data to another directory."
    )


class _ModelTotals:
    """Accumulates the Evaluation of one model."""

    def __init__(self, model: loading.TrainedModel, top_k: int):
        self._model = model
        self._num_classes = model.flags["num_classes"]
        self._top_k = top_k
        self._metrics = MetricCollection(self._num_classes)
        self._counts = VideoCounts(self._num_classes)
        self._average_precision = AveragePrecision(self._num_classes)
        self._predictions: list[Predictions] = []
        self._total_loss = 0.0
        self._experts = _expert_metrics(model)

    def add(self, part: ModelPart, labels: list[np.ndarray]):
        """Add the videos of a part."""
        batches = zip(part.scores, part.classes, labels, part.losses, strict=True)
        for scores, classes, batch_labels, video_losses in batches:
            top = TopPredictions(scores, classes, batch_labels, self._num_classes, self._top_k)
            for metric in (self._metrics, self._counts, self._average_precision):
                metric.add(top)
            self._predictions.append(Predictions.of_batch(top, video_losses))
            self._total_loss += float(video_losses.sum(dtype=np.float64))
        if self._experts:
            self._experts.merge(part.experts)

    def result(self, videos: Videos) -> Evaluation:
        """The evaluation on all videos that were added."""
        return Evaluation(
            self._metrics.result()
            | self._counts.result()
            | {"loss": self._total_loss / self._counts.num_videos},
            self._average_precision.result(),
            self._counts.num_positives,
            self._model.flags,
            self._model.step,
            self._model.class_names,
            videos,
            Predictions.concatenate(self._predictions),
            self._experts.result() if self._experts else None,
        )


@tf.function(reduce_retracing=True)
def _top_and_losses(predictions, labels, k):
    """The k top scores and classes, [batch, k], and the CrossEntropyLoss of each video, [batch]."""
    scores, classes = tf.math.top_k(predictions, k)  # of equal scores, the lower class comes first
    return scores, classes, _cross_entropy(predictions, labels)


def _cross_entropy(predictions: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """losses.cross_entropy for padded class ids, without a matrix of multi-hot labels.

    All classes are counted as negatives first; then the labels are corrected.
    """
    negatives = -tf.reduce_sum(tf.math.log(1 - predictions + EPSILON), axis=1)
    of_labels = tf.gather(predictions, tf.maximum(labels, 0), batch_dims=1)
    corrections = tf.math.log(1 - of_labels + EPSILON) - tf.math.log(of_labels + EPSILON)
    return negatives + tf.reduce_sum(tf.where(labels >= 0, corrections, 0), axis=1)


class _Progress:
    """Logs the number of videos every LOG_SECONDS."""

    def __init__(self):
        self._num_videos = 0
        self._start = self._last_line = time.monotonic()

    def add(self, num_videos: int):
        self._num_videos += num_videos
        now = time.monotonic()
        if now - self._last_line > LOG_SECONDS:
            self._last_line = now
            rate = self._num_videos / (now - self._start)
            logging.info("examples_processed: %d | Examples/sec: %.0f", self._num_videos, rate)
