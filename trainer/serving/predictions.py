"""Writes a model's predictions as the CSV file that the YouTube-8M challenge takes."""

import logging
import tempfile
import time

import numpy as np
import tensorflow as tf

from trainer.common import storage
from trainer.data import input_pipeline
from trainer.serving import loading

HEADER = "VideoId,LabelConfidencePairs"
SECONDS_BETWEEN_LINES = 5


def predict(
    model_dir: str, data_pattern: str, output_file: str, batch_size: int = 512, top_k: int = 20
) -> int:
    """Writes a line a video, in input order: its id, then its `top_k` best classes and scores.

    The file appears when it is complete, and not before.

    Returns:
        The number of videos.

    Raises:
        UserError: there is no model, no file matches, a record cannot be read, or the file cannot
            be written.
    """
    model = loading.load(model_dir)
    files = storage.glob(data_pattern)
    num_videos, started, last_line = 0, time.monotonic(), time.monotonic()
    with tempfile.TemporaryFile() as csv, input_pipeline.explained(files, model.record_format):
        csv.write(HEADER.encode() + b"\n")
        for batch in input_pipeline.batches(files, model.record_format, batch_size):
            k = min(top_k, model.flags["num_classes"])
            scores, classes = tf.math.top_k(model.predict(batch), k)
            csv.writelines(_lines(batch["id"].numpy(), classes.numpy(), scores.numpy()))
            num_videos += len(scores)
            if time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                rate = num_videos / (last_line - started)
                logging.info("num examples processed: %d | %.0f a second", num_videos, rate)
        storage.write_file(output_file, csv)
    return num_videos


def _lines(ids: np.ndarray, classes: np.ndarray, scores: np.ndarray):
    for video_id, row_classes, row_scores in zip(ids, classes, scores, strict=True):
        pairs = " ".join(f"{c} {s:g}" for c, s in zip(row_classes, row_scores, strict=True))
        yield b"%s,%s\n" % (video_id, pairs.encode())
