"""A sample of the served inputs, as TFRecord files that validate_data can read."""

import os
import random
import socket
import threading
import time

import numpy as np

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.config import record_format
from trainer.data.examples import encode_example
from trainer.data.tfrecord import write_records

RECORDS_PER_FILE = 1000
SECONDS_PER_FILE = 300


class RequestLog:
    """Writes a random sample of the served inputs to `folder`, a file at a time.

    Args:
        folder: Where to write, local or gs://. Empty: nothing is written.
        sample_rate: Fraction of the videos to write, 0 to 1.
        on_error: Called with the error if a file cannot be written; its records are lost.
    """

    def __init__(self, folder: str, sample_rate: float, on_error=lambda error: None):
        self.folder = folder
        self.sample_rate = sample_rate if folder else 0.0
        self._on_error = on_error
        self._records: list[bytes] = []
        self._written_at = time.monotonic()
        self._lock = threading.Lock()
        self._random = random.Random()

    def add(self, inputs: dict[str, np.ndarray], takes_records: bool, model_flags: dict) -> None:
        """Sample the inputs of a request: serialized records, or video-level features."""
        if not self.sample_rate:
            return
        records = _records(inputs, takes_records, model_flags)
        sampled = [r for r in records if self._random.random() < self.sample_rate]
        with self._lock:
            self._records += sampled
            elapsed = time.monotonic() - self._written_at
            if len(self._records) < RECORDS_PER_FILE and elapsed < SECONDS_PER_FILE:
                return
            full = self._take()
        if full:  # not in the request's thread, which the client waits for
            threading.Thread(target=self._write, args=(full,)).start()

    def close(self) -> None:
        """Write what is left."""
        with self._lock:
            left = self._take()
        if left:
            self._write(left)

    def _take(self) -> list[bytes]:
        taken, self._records, self._written_at = self._records, [], time.monotonic()
        return taken

    def _write(self, records: list[bytes]) -> None:
        name = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.tfrecord"
        folder = storage.join(self.folder, time.strftime("%Y%m%d", time.gmtime()))
        try:
            write_records(storage.join(folder, name), records)
        except UserError as error:
            self._on_error(error)


def _records(inputs: dict[str, np.ndarray], takes_records: bool, model_flags: dict) -> list[bytes]:
    """Return serialized records of the inputs; none of frame-level features."""
    (values,) = inputs.values() if len(inputs) == 1 else (None,)
    if takes_records:
        return values.tolist()
    if values is None or not model_flags or model_flags["frame_features"]:
        return []
    features = record_format(model_flags).features
    ends = np.cumsum([feature.size for feature in features])
    parts = np.split(np.asarray(values, np.float32), ends[:-1], axis=1)
    names = [feature.name for feature in features]
    return [encode_example(dict(zip(names, row, strict=True))) for row in zip(*parts, strict=True)]
