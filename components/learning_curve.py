"""The learning curve of a training: what its TensorBoard summaries hold, as JSON."""

import json

from trainer.common import storage
from trainer.common.errors import UserError

FILE = "learning_curve.json"
EVENTS = "events"  # the trainer's folder of TensorBoard summaries
MAX_POINTS = 1000  # of a curve


def write(train_dir: str) -> None:
    """Write the curves of a train_dir to `FILE` in it. Loads TensorFlow.

    Where a training was resumed, and steps were repeated, the last values count.
    """
    from tensorflow.core.util import event_pb2
    from tensorflow.python.framework import tensor_util

    from trainer.data import tfrecord

    curves: dict[str, dict[int, float]] = {}
    events = storage.join(train_dir, EVENTS)
    for name in storage.files_below(events):
        for record in tfrecord.scan_records(storage.join(events, name)):
            if not isinstance(record, bytes):
                break  # of a process that was killed while it wrote
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                if value.HasField("tensor") and not value.tensor.tensor_shape.dim:
                    number = float(tensor_util.MakeNdarray(value.tensor))
                    curves.setdefault(value.tag, {})[event.step] = number
    points = {tag: _thinned(sorted(curve.items())) for tag, curve in curves.items()}
    storage.write_text(storage.join(train_dir, FILE), json.dumps(points) + "\n")


def read(train_dir: str) -> dict[str, list[tuple[int, float]]]:
    """Return the curves, tag -> [(step, value), ...], e.g. of "train/loss"; empty if unknown."""
    try:
        return storage.read_json(storage.join(train_dir, FILE))
    except UserError:  # trained by an older version, or not to its end
        return {}


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    step = -(-len(points) // MAX_POINTS)
    return points[::step] if step > 1 else points
