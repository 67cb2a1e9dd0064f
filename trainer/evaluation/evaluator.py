"""Measures a trained model on labelled videos."""

import logging
import time
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data import input_pipeline
from trainer.evaluation.experts import Experts, ExpertSums
from trainer.evaluation.metrics import TOP_K, VideoMetrics
from trainer.serving import loading
from trainer.training import losses

SECONDS_BETWEEN_LINES = 5


@dataclass(frozen=True)
class Evaluation:
    """How good a model is.

    Attributes:
        metrics: gap, hit_at_1, perr, map and loss (CrossEntropyLoss), and the counts num_videos,
            num_videos_without_labels and num_classes_with_videos.
        average_precision: [num_classes] float64, NaN where a class has no video.
        num_positives: [num_classes] int64, videos a class.
        model_flags: the flags that shaped the model.
        step: how many steps it was trained.
        class_names: by class id.
        experts: how the classes use their experts; None of a model without.
    """

    metrics: dict
    average_precision: np.ndarray
    num_positives: np.ndarray
    model_flags: dict
    step: int
    class_names: list[str]
    experts: Experts | None = None


def evaluate(
    model_dir: str,
    data_pattern: str,
    batch_size: int = 1024,
    top_k: int = TOP_K,
    num_readers: int = 8,
    vocabulary_file: str = "",
) -> Evaluation:
    """Evaluates the model of a train_dir or of an exported model's folder.

    Raises:
        UserError: there is no model, no file matches, a record cannot be read, or no video has a
            label.
    """
    model = loading.load(model_dir, vocabulary_file)
    files = storage.glob(data_pattern)
    metrics = VideoMetrics(model.flags["num_classes"], top_k)
    sums = _expert_sums(model)
    total_loss, started, last_line = 0.0, time.monotonic(), time.monotonic()
    with input_pipeline.explained(files, model.record_format):
        for batch in input_pipeline.batches(files, model.record_format, batch_size, num_readers):
            if sums:
                predictions, trust = model.predict_and_trust(batch)
                sums.add(trust, batch["labels"])
            else:
                predictions = model.predict(batch)
            top_scores, top_classes, loss = _measure(predictions, batch["labels"], metrics.top_k)
            metrics.add(top_scores.numpy(), top_classes.numpy(), batch["labels"].numpy())
            total_loss += float(loss)
            if time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                rate = metrics.num_videos / (last_line - started)
                logging.info(
                    "examples_processed: %d | Examples/sec: %.0f", metrics.num_videos, rate
                )
    if not metrics.num_positives.any():
        raise UserError(
            f"None of the {metrics.num_videos} videos in {data_pattern!r} has a label; nothing can "
            "be measured on them."
        )
    results = metrics.results() | {"loss": total_loss / metrics.num_videos}
    return Evaluation(
        results,
        metrics.average_precision(),
        metrics.num_positives,
        model.flags,
        model.step,
        model.class_names,
        sums.results() if sums else None,
    )


def _expert_sums(model):
    if model.predict_and_trust:
        return ExpertSums(model.flags["num_classes"], model.flags["moe_num_mixtures"] + 1)
    return None


def _measure(predictions, labels, top_k):
    """The best scores and classes [batch, k] for VideoMetrics, and the batch's summed loss."""
    k = min(max(top_k, labels.shape[1]), predictions.shape[1])
    top_scores, top_classes = tf.math.top_k(predictions, k)
    multi_hot = losses.multi_hot(labels, predictions.shape[1])
    return top_scores, top_classes, tf.reduce_sum(losses.cross_entropy(multi_hot, predictions))
