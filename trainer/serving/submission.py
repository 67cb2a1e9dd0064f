"""Predictions in the CSV format of YouTube-8M challenge submissions."""

import logging
import tempfile
import time

import numpy as np
import tensorflow as tf

from trainer.common import storage
from trainer.data import input_pipeline, manifest
from trainer.serving import loading

HEADER = "VideoId,LabelConfidencePairs"
LOG_SECONDS = 5


def predict(
    model_dir: str, data_pattern: str, output_file: str, batch_size: int = 512, top_k: int = 20
) -> int:
    """Write one line per video, in input order: the id, then the top classes and probabilities.

    The file is written atomically.

    Args:
        model_dir: a train_dir, or the folder of an exported model.
        data_pattern: glob(s) of the videos, comma-separated.
        output_file: the CSV file to write, local or gs://.
        batch_size: videos per batch.
        top_k: number of classes per video.

    Returns:
        The number of videos.

    Raises:
        UserError: there is no model, no file matches, a record cannot be read, or the file cannot
            be written.
    """
    model = loading.load(model_dir)
    files = manifest.expand(data_pattern)
    num_videos, started, last_logged = 0, time.monotonic(), time.monotonic()
    with tempfile.TemporaryFile() as csv, input_pipeline.explained(files, model.record_format):
        csv.write(HEADER.encode() + b"\n")
        for batch in input_pipeline.batches(files, model.record_format, batch_size):
            k = min(top_k, model.flags["num_classes"])
            scores, classes = tf.math.top_k(model.predict(batch), k)
            csv.writelines(_lines(batch["id"].numpy(), classes.numpy(), scores.numpy()))
            num_videos += len(scores)
            if time.monotonic() - last_logged > LOG_SECONDS:
                last_logged = time.monotonic()
                rate = num_videos / (last_logged - started)
                logging.info("num examples processed: %d | Examples/sec: %.0f", num_videos, rate)
        storage.write_file(output_file, csv)
    return num_videos


def _lines(ids: np.ndarray, classes: np.ndarray, scores: np.ndarray):
    for video_id, row_classes, row_scores in zip(ids, classes, scores, strict=True):
        pairs = " ".join(f"{c} {s:g}" for c, s in zip(row_classes, row_scores, strict=True))
        yield b"%s,%s\n" % (video_id, pairs.encode())
