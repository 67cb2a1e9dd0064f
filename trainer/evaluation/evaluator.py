"""The evaluation loop: metrics of a trained model on labelled videos."""

import logging
import time
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data import input_pipeline
from trainer.evaluation.experts import ExpertAnalysis, ExpertMetrics
from trainer.evaluation.metrics import (
    TOP_K,
    AveragePrecision,
    MetricCollection,
    VideoCounts,
    top_predictions,
)
from trainer.serving import loading
from trainer.training import losses

LOG_SECONDS = 5  # between two log lines


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
        experts: how the classes use their experts; None if the model is no mixture of experts.
    """

    metrics: dict
    average_precision: np.ndarray
    num_positives: np.ndarray
    model_flags: dict
    step: int
    class_names: list[str]
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
    model = loading.load(model_dir, vocabulary_file)
    num_classes = model.flags["num_classes"]
    metrics, counts = MetricCollection(num_classes), VideoCounts(num_classes)
    average_precision = AveragePrecision(num_classes)
    experts = _expert_metrics(model)
    total_loss, progress = 0.0, _Progress()
    files = storage.glob(data_pattern)
    with input_pipeline.explained():
        for batch in input_pipeline.batches(files, model.record_format, batch_size, num_readers):
            if experts:
                predictions, gate_probabilities = model.predict_with_gates(batch)
                experts.add(gate_probabilities, batch["labels"])
            else:
                predictions = model.predict(batch)
            total_loss += _sum_of_losses(predictions, batch["labels"])
            top = top_predictions(predictions, batch["labels"], top_k)
            for metric in (metrics, counts, average_precision):
                metric.add(top)
            progress.log(counts.num_videos)
    if not counts.num_positives.any():
        raise UserError(
            f"None of the {counts.num_videos} videos in {data_pattern!r} has a label; metrics need "
            "labelled videos."
        )
    return Evaluation(
        metrics.result() | counts.result() | {"loss": total_loss / counts.num_videos},
        average_precision.result(),
        counts.num_positives,
        model.flags,
        model.step,
        model.class_names,
        experts.result() if experts else None,
    )


def _expert_metrics(model: loading.TrainedModel) -> ExpertMetrics | None:
    if model.predict_with_gates:
        return ExpertMetrics(model.flags["num_classes"], model.flags["moe_num_mixtures"] + 1)
    return None


def _sum_of_losses(predictions: tf.Tensor, labels: tf.Tensor) -> float:
    """Sum of the videos' CrossEntropyLoss."""
    multi_hot = losses.multi_hot(labels, predictions.shape[1])
    return float(tf.reduce_sum(losses.cross_entropy(multi_hot, predictions)))


class _Progress:
    """Logs the number of videos every LOG_SECONDS."""

    def __init__(self):
        self.start = self.last_line = time.monotonic()

    def log(self, num_videos: int):
        now = time.monotonic()
        if now - self.last_line > LOG_SECONDS:
            self.last_line = now
            rate = num_videos / (now - self.start)
            logging.info("examples_processed: %d | Examples/sec: %.0f", num_videos, rate)
