"""Fit a model's recalibration on the videos that --calibration_fraction holds out."""

import logging

import keras
import numpy as np
import tensorflow as tf

from trainer.common.errors import UserError
from trainer.config import TrainConfig
from trainer.data import input_pipeline
from trainer.models import recalibration, registry

NUM_PREDICTIONS = 30  # per video, the highest ones


def fit(config: TrainConfig, model: keras.Model, files: list[str], step: int):
    """Fit `model.recalibration` after training step `step`.

    Raises:
        UserError: no video was held out.
    """
    held_out = input_pipeline.HeldOut(config.calibration_fraction, config.seed)
    layer = model.recalibration
    layer.log_counts.assign(np.log1p(_count_labels(config, files, held_out)))

    @tf.function(reduce_retracing=True)
    def sample(batch):
        outputs = registry.call(model, input_pipeline.model_inputs(batch), training=False)
        probabilities = registry.uncalibrated(model, outputs)
        top = tf.math.top_k(probabilities, min(NUM_PREDICTIONS, config.num_classes))[1]
        values = recalibration.terms(probabilities, layer.log_counts)
        columns = [
            tf.gather(value + tf.zeros_like(probabilities), top, batch_dims=1) for value in values
        ]
        hits = tf.reduce_any(top[:, :, None] == batch["labels"][:, None, :], axis=2)
        return tf.stack(columns, axis=2), hits

    batches = input_pipeline.batches(files, config.record_format, 512, held_out=held_out)
    samples = [[tensor.numpy() for tensor in sample(batch)] for batch in batches]
    if not samples:
        raise UserError(
            f"--calibration_fraction={config.calibration_fraction} holds out no training video; "
            "give a larger fraction, or 0."
        )
    values, hits = (np.concatenate(column) for column in zip(*samples, strict=True))
    weights = recalibration.fit(
        values.reshape(-1, recalibration.NUM_TERMS).astype(np.float64), hits.ravel()
    )
    layer.coefficients.assign(weights.astype(np.float32))
    layer.fitted_step.assign(step)
    logging.info("Fitted the recalibration on %d held-out videos.", len(hits))


def _count_labels(config: TrainConfig, files: list[str], held_out) -> np.ndarray:
    """[num_classes] float64: number of training videos with each class."""
    counts = np.zeros(config.num_classes)
    batches = input_pipeline.batches(
        files, config.record_format, 1024, held_out=held_out.complement()
    )
    for batch in batches:
        labels = batch["labels"].numpy()
        counts += np.bincount(labels[labels >= 0], minlength=config.num_classes)
    return counts
