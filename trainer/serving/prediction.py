"""Predict the classes of videos, and write them to a file."""

import logging
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

import numpy as np
import tensorflow as tf

from trainer.common import storage
from trainer.data import input_pipeline
from trainer.serving.loading import TrainedModel
from trainer.serving.options import PredictionOptions
from trainer.serving.prediction_files import WRITERS

LOG_SECONDS = 5
NUM_BINS = 20  # of the histogram of probabilities


@dataclass
class PredictionStatistics:
    """Statistics of the predictions of a number of videos.

    Attributes:
        videos: Number of videos.
        without_id: Number of videos without an id.
        without_classes: Number of videos of which no class was written, as all are below
            `min_probability`.
        top_probabilities: Histogram of each video's highest probability, [NUM_BINS] from 0 to 1.
        top_classes: Number of videos by the class with the highest probability, [num_classes].
        expected_labels: Sum of the probabilities of each class, [num_classes]. If the model is
            calibrated, it is the expected number of videos of the class.
    """

    videos: int = 0
    without_id: int = 0
    without_classes: int = 0
    top_probabilities: np.ndarray = field(default_factory=lambda: np.zeros(NUM_BINS, np.int64))
    top_classes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    expected_labels: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def empty(cls, num_classes: int) -> "PredictionStatistics":
        """Return the statistics of no videos."""
        counts = np.zeros(num_classes, np.int64)
        return cls(top_classes=counts, expected_labels=np.zeros(num_classes))

    def as_json(self) -> dict:
        """Return the statistics as JSON values."""
        values = asdict(self)
        values["top_probabilities"] = self.top_probabilities.tolist()
        values["top_classes"] = self.top_classes.tolist()
        values["expected_labels"] = [float(f"{value:.6g}") for value in self.expected_labels]
        return values

    @classmethod
    def from_json(cls, values: dict) -> "PredictionStatistics":
        """Return the statistics that `as_json` returned."""
        arrays = ("top_probabilities", "top_classes", "expected_labels")
        return cls(**values | {name: np.array(values[name]) for name in arrays})

    def merge(self, other: "PredictionStatistics") -> None:
        """Add the statistics of other videos."""
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def predict_to_file(
    model: TrainedModel, files: list[str], output_file: str, options: PredictionOptions
) -> PredictionStatistics:
    """Predict the videos of `files`, in their order, and write the file atomically.

    A link is followed, and a device is written to. Labels in the records are ignored.

    Raises:
        UserError: a record cannot be read, or the file cannot be written.
    """
    statistics = PredictionStatistics.empty(len(model.class_names))
    storage.remove_temporary_files(output_file)
    explained = input_pipeline.explained(files, model.record_format, labels=False)
    with tempfile.TemporaryFile() as file, explained:
        writer = WRITERS[options.output_format](file, model.class_names)
        # Format and write a batch while the next one is predicted.
        with ThreadPoolExecutor(1) as thread:
            written = thread.submit(lambda: None)
            for ids, predictions in _predictions(model, files, options):
                written.result()
                written = thread.submit(_write, writer, statistics, ids, predictions)
            written.result()
        writer.close()
        storage.write_file(output_file, file)
    return statistics


def _predictions(model: TrainedModel, files: list[str], options: PredictionOptions):
    """Yield the ids and the outputs of `_select` for each batch, and log the speed."""
    num_videos, started = 0, time.monotonic()
    last_logged = started
    k = min(options.top_k, len(model.class_names))
    batches = input_pipeline.batches(files, model.record_format, options.batch_size, labels=False)
    for batch in batches:
        yield batch["id"], _select(model.predict(batch), k, options.min_probability)
        num_videos += len(batch["id"])
        if time.monotonic() - last_logged > LOG_SECONDS:
            last_logged = time.monotonic()
            rate = num_videos / (last_logged - started)
            logging.info("num examples processed: %d | Examples/sec: %.0f", num_videos, rate)


@tf.function(reduce_retracing=True)
def _select(probabilities, k, min_probability):
    """Return the classes to write, and what the statistics need.

    Args:
        probabilities: [batch, num_classes] float32.
        k: maximum number of classes per video.
        min_probability: minimum probability of a class.

    Returns:
        classes, [batch, k]; their probabilities, [batch, k]; the number of classes to write of each
        video, [batch]; and the sum of the probabilities of each class, [num_classes].
    """
    top_probabilities, classes = tf.math.top_k(probabilities, k)
    counts = tf.math.count_nonzero(top_probabilities >= min_probability, axis=1)
    return classes, top_probabilities, counts, tf.reduce_sum(probabilities, axis=0)


def _write(writer, statistics: PredictionStatistics, ids: tf.Tensor, predictions) -> None:
    ids = ids.numpy()
    classes, probabilities, counts, expected = (tensor.numpy() for tensor in predictions)
    writer.write(ids, classes, probabilities, counts)
    statistics.videos += len(ids)
    statistics.without_id += int(np.count_nonzero(ids == b""))
    statistics.without_classes += int(np.count_nonzero(counts == 0))
    bins = np.minimum(probabilities[:, 0] * NUM_BINS, NUM_BINS - 1).astype(np.int64)
    statistics.top_probabilities += np.bincount(bins, minlength=NUM_BINS)
    num_classes = len(statistics.top_classes)
    statistics.top_classes += np.bincount(classes[:, 0], minlength=num_classes)
    statistics.expected_labels += expected
