"""Fit a model that has a closed-form solution, such as KernelModel, instead of taking steps."""

import logging

import numpy as np

from trainer.config import TrainConfig
from trainer.data import input_pipeline
from trainer.training import losses


def fit(config: TrainConfig, model, files: list[str], held_out) -> tuple:
    """Fit `model` to the training videos, or to as many as it has room for.

    Args:
        config: the flags.
        model: a model with `fit_closed_form`.
        files: the training shards.
        held_out: videos to leave out; None for none.

    Returns:
        ids: [videos] bytes.
        leave_one_out: [videos, num_classes] float32, as `KernelModel.fit_closed_form` returns.
    """
    used = held_out.complement() if held_out else None
    batches = list(input_pipeline.batches(files, config.record_format, 1024, held_out=used))
    ids = np.concatenate([batch["id"].numpy() for batch in batches])
    features = np.concatenate([batch["features"].numpy() for batch in batches])
    labels = np.concatenate(
        [losses.multi_hot(batch["labels"], config.num_classes).numpy() for batch in batches]
    )
    room = model.centers.shape[0]
    if len(ids) > room:
        logging.warning("Training on %d of %d videos: --kernel_centers=%d.", room, len(ids), room)
    logging.info("Fitting %s in closed form on %d videos.", config.model, min(len(ids), room))
    return ids[:room], model.fit_closed_form(features[:room], labels[:room])
