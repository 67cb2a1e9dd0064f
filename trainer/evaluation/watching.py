"""Evaluate each new checkpoint of a training run, and write the metrics for TensorBoard."""

import time
from collections.abc import Iterator

import tensorflow as tf

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.evaluation.evaluator import Evaluation, evaluate
from trainer.evaluation.metrics import METRICS
from trainer.run_dir import checkpoints

POLL_SECONDS = 15
EVENTS_FOLDER = "eval"  # in the train_dir


def watch(train_dir: str, data_pattern: str, **settings) -> Iterator[Evaluation]:
    """Evaluate the newest checkpoint, now and whenever there is a newer one; never ends.

    Checkpoints that are superseded during an evaluation are skipped. The metrics are written as
    TensorBoard summaries to `EVENTS_FOLDER`.

    Args:
        train_dir: folder of the training run, local or mounted. It may be empty at first.
        data_pattern: glob(s) of the records, comma-separated.
        settings: other arguments of `evaluate`.

    Yields:
        An evaluation per checkpoint.

    Raises:
        UserError: `train_dir` is remote, or as in `evaluate`.
    """
    if storage.is_remote(train_dir):
        raise UserError(f"--watch needs a local or mounted train_dir; got {train_dir!r}.")
    writer = tf.summary.create_file_writer(storage.join(train_dir, EVENTS_FOLDER))
    evaluated = None
    while True:
        if checkpoints.latest_step(train_dir) != evaluated:
            evaluation = evaluate(train_dir, data_pattern, **settings)
            evaluated = evaluation.step
            with writer.as_default(evaluation.step):
                for name in (*METRICS, "loss"):
                    tf.summary.scalar(f"eval/{name}", evaluation.metrics[name])
            writer.flush()
            yield evaluation
        time.sleep(POLL_SECONDS)
