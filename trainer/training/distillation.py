"""Soft targets: a teacher's honest predictions for its own training videos.

A model that is fitted in closed form leaves them in its train_dir (soft_targets.npz): leave-one-out
predictions, recalibrated. A student learns from them with --teacher_dir.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer.common.errors import UserError
from trainer.models import registry
from trainer.run_dir import mirror

FILE = "soft_targets.npz"
NUM_TARGETS = 30  # per video, the highest ones; the others count as 0


def save(train_dir: str, ids: np.ndarray, model, predictions: np.ndarray):
    """Write the soft targets of the videos `ids` to a local folder.

    Args:
        train_dir: the folder.
        ids: [videos] bytes.
        model: the model; its recalibration is applied.
        predictions: [videos, num_classes] float32, before recalibration.
    """
    num_targets = min(NUM_TARGETS, predictions.shape[1])
    tops = []
    for start in range(0, len(predictions), 1024):
        rows = model.head(tf.constant(predictions[start : start + 1024]))
        tops.append(tf.math.top_k(registry.recalibrated(model, rows), num_targets))
    values, classes = (np.concatenate(column) for column in zip(*tops, strict=True))
    np.savez(Path(train_dir) / FILE, ids=ids.astype("S"), classes=classes, values=values)


class Teacher:
    """Soft targets of a train_dir.

    Args:
        teacher_dir: the folder, local or gs://.

    Raises:
        UserError: there are no soft targets.
    """

    def __init__(self, teacher_dir: str):
        with mirror.local_copy(teacher_dir) as folder:
            try:
                with np.load(Path(folder) / FILE) as content:
                    self._ids, self._classes = content["ids"], content["classes"]
                    self._values = content["values"]
            except FileNotFoundError:
                raise UserError(
                    f"No soft targets in --teacher_dir={teacher_dir}: expected {FILE}, which "
                    "training a KernelModel writes."
                ) from None
        self._rows = {video: row for row, video in enumerate(self._ids)}

    def targets(self, batch: dict) -> dict:
        """Return the soft targets of a batch: {"soft_classes", "soft_values"}, [batch, n].

        Classes are -1 for a video that the teacher did not see; its loss is that of its labels.
        """
        ids = batch["id"].numpy()
        rows = np.array([self._rows.get(video, -1) for video in ids], np.int64)
        classes = np.where(rows[:, None] < 0, -1, self._classes[rows])
        return {
            "soft_classes": tf.constant(classes, tf.int32),
            "soft_values": tf.constant(self._values[rows], tf.float32),
        }
