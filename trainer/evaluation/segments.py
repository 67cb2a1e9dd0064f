"""Segments of the YouTube-8M 2019 challenge: predictions per class, and mAP@K.

A segment is SEGMENT_FRAMES consecutive frames of a video, named VIDEO_ID:START. Raters judged a few
segments of each video for one class each. A submission lists, for each class, the segments that
most probably show it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data import input_pipeline, manifest, tfrecord
from trainer.data.input_pipeline import FRAME_SLOTS
from trainer.serving import loading

SEGMENT_FRAMES = 5
HEADER = "Class,Segments"
TOP_K = 100_000  # segments per class in the challenge

_RATINGS = {
    "segment_labels": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
    "segment_start_times": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
    "segment_scores": tf.io.RaggedFeature(tf.float32, row_splits_dtype=tf.int64),
}


@dataclass
class SegmentRanking:
    """The top segments of some classes.

    Args:
        classes: class ids, in ascending order.
        top_k: number of segments to keep per class.
    """

    classes: np.ndarray
    top_k: int = TOP_K
    _names: list[np.ndarray] = field(default_factory=list)
    _scores: list[np.ndarray] = field(default_factory=list)
    _size: int = 0

    def add(self, names: np.ndarray, scores: np.ndarray):
        """Add segments.

        Args:
            names: [segments] bytes, VIDEO_ID:START.
            scores: [segments, classes] float32.
        """
        shape = scores.shape
        self._names.append(np.broadcast_to(names[:, None], shape))
        self._scores.append(scores)
        self._size += len(names)
        if self._size > 2 * self.top_k:
            self._prune()

    def _prune(self):
        names, scores = self._top()
        self._names, self._scores, self._size = [names], [scores], len(names)

    def _top(self) -> tuple[np.ndarray, np.ndarray]:
        """Names and scores of the top segments, [segments, classes], in descending order."""
        names, scores = np.concatenate(self._names), np.concatenate(self._scores)
        order = np.argsort(-scores, axis=0, kind="stable")[: self.top_k]
        return np.take_along_axis(names, order, 0), np.take_along_axis(scores, order, 0)

    def lines(self) -> Iterator[str]:
        """The lines of a submission, one per class."""
        names, _ = self._top()
        yield HEADER + "\n"
        for class_id, column in zip(self.classes, names.T, strict=True):
            yield f"{class_id},{' '.join(name.decode() for name in column)}\n"


def read_class_ids(path: str) -> np.ndarray:
    """Return the class ids of a file such as yt8m2019_segment_label_ids.csv, in ascending order.

    Raises:
        UserError: the file cannot be read, or has no column Index of class ids.
    """
    rows = csv.DictReader(io.StringIO(storage.read_text(path).removeprefix("\ufeff")))
    ids = [row.get("Index") or "" for row in rows]
    if not ids or not all(value.isdecimal() for value in ids):
        raise UserError(f"{path} must have a column Index with class ids, one in each row.")
    return np.unique(np.array(ids, int))


def predict_segments(
    model_dir: str,
    data_pattern: str,
    class_ids_file: str,
    output_file: str,
    top_k: int = TOP_K,
    batch_size: int = 16,
) -> int:
    """Write the top segments of each class, in the challenge's format.

    Every video is divided into segments from frame 0; the last one may be shorter. The model sees a
    segment as a video with that many frames.

    Args:
        model_dir: a train_dir or the folder of an exported model; it must read frames.
        data_pattern: glob(s) of the frame-level records.
        class_ids_file: CSV file with the column Index: the classes to predict.
        output_file: CSV file to write, local or gs://.
        top_k: maximum number of segments per class.
        batch_size: videos per batch, of up to 60 segments each.

    Returns:
        The number of segments.

    Raises:
        UserError: the model does not read frames, or a file cannot be read.
    """
    model = loading.load(model_dir)
    if not model.record_format.frame_features:
        raise UserError(f"Segments need a frame-level model; {model_dir!r} is video-level.")
    classes = read_class_ids(class_ids_file)
    if classes[-1] >= model.flags["num_classes"]:
        raise UserError(
            f"{class_ids_file} has class {classes[-1]}, but the model has "
            f"{model.flags['num_classes']} classes."
        )
    files = manifest.expand(data_pattern)
    ranking, num_segments = SegmentRanking(classes, top_k), 0
    with input_pipeline.explained():
        for batch in input_pipeline.batches(files, model.record_format, batch_size):
            names, segments = _segments(batch)
            for start in range(0, len(names), batch_size):
                part = slice(start, start + batch_size)
                inputs = {
                    "features": tuple(feature[part] for feature in segments["features"]),
                    "num_frames": segments["num_frames"][part],
                }
                scores = tf.gather(model.predict(inputs), classes, axis=1)
                ranking.add(names[part], scores.numpy())
            num_segments += len(names)
    if not num_segments:
        raise UserError(f"There are no videos in {data_pattern!r}.")
    storage.write_text(output_file, "".join(ranking.lines()))
    return num_segments


def _segments(batch: dict) -> tuple[np.ndarray, dict]:
    """Names, [segments] bytes, and model inputs of the segments of a batch of videos."""
    num_frames = batch["num_frames"].numpy()
    per_video = -(-num_frames // SEGMENT_FRAMES)
    video = np.repeat(np.arange(len(num_frames)), per_video)
    position = np.concatenate([np.arange(n) for n in per_video])
    ids = batch["id"].numpy()[video]
    starts = position * SEGMENT_FRAMES
    names = np.array([b"%s:%d" % pair for pair in zip(ids, starts, strict=True)])
    indices = np.stack([video, position], axis=1)

    def cut(feature):  # [batch, frames, size], with frames of FRAME_SLOTS
        shape = [len(num_frames), -1, SEGMENT_FRAMES, feature.shape[2]]
        found = tf.gather_nd(tf.reshape(feature, shape), indices)
        return tf.pad(found, [[0, 0], [0, FRAME_SLOTS[0] - SEGMENT_FRAMES], [0, 0]])

    lengths = np.minimum(num_frames[video] - starts, SEGMENT_FRAMES).astype(np.int32)
    features = tuple(cut(feature) for feature in batch["features"])
    return names, {"features": features, "num_frames": tf.constant(lengths)}


def read_ratings(data_pattern: str) -> dict[int, dict[str, bool]]:
    """Return the ratings of segments: class id -> segment name -> whether it shows the class.

    Args:
        data_pattern: glob(s) of frame-level records with segment ratings.

    Raises:
        UserError: no file matches, a record cannot be read, or its ratings do not match in number.
    """
    ratings: dict[int, dict[str, bool]] = {}
    for file in manifest.expand(data_pattern):
        for number, record in enumerate(tfrecord.read_records(file), start=1):
            spec = _RATINGS | {"id": tf.io.FixedLenFeature([], tf.string, "")}
            try:
                context, _ = tf.io.parse_single_sequence_example(record, spec)
            except tf.errors.InvalidArgumentError as error:
                raise UserError(f"{file}, record {number}: {error.message}") from error
            columns = [context[name].numpy().tolist() for name in _RATINGS]
            if len({len(column) for column in columns}) > 1:
                raise UserError(
                    f"{file}, record {number}: {', '.join(_RATINGS)} must have equal lengths; got "
                    f"{[len(column) for column in columns]}."
                )
            video = context["id"].numpy().decode()
            for class_id, start, score in zip(*columns, strict=True):
                ratings.setdefault(class_id, {})[f"{video}:{start}"] = score > 0.5
    return ratings


def mean_average_precision(
    predictions_file: str, ratings: dict[int, dict[str, bool]], top_k: int = TOP_K
) -> float:
    """Return mAP@K of a submission.

    The average precision of a class is over the first `top_k` segments of its line, without those
    that were not rated for the class: the sum of the precision at each positive, divided by the
    number of positives. The mean is over the classes with positives; a class without a line counts
    as 0.

    Args:
        predictions_file: CSV file as `predict_segments` writes it.
        ratings: as `read_ratings` returns them.
        top_k: number of segments per class to consider.

    Raises:
        UserError: the file has another format, or no class has positives.
    """
    lines = storage.read_text(predictions_file).splitlines()
    if not lines or lines[0] != HEADER:
        raise UserError(f"{predictions_file} must start with the line {HEADER!r}.")
    precisions = {class_id: 0.0 for class_id, rated in ratings.items() if any(rated.values())}
    if not precisions:
        raise UserError("No segment is rated as positive; mAP needs positives.")
    for number, line in enumerate(lines[1:], start=2):
        class_id, comma, names = line.partition(",")
        if not comma or not class_id.isdecimal():
            raise UserError(
                f"{predictions_file}, line {number}: expected CLASS,SEGMENT SEGMENT ...; got "
                f"{line[:40]!r}."
            )
        if int(class_id) in precisions:
            rated = ratings[int(class_id)]
            precisions[int(class_id)] = _average_precision(names.split()[:top_k], rated)
    return sum(precisions.values()) / len(precisions)


def _average_precision(names: list[str], rated: dict[str, bool]) -> float:
    hits, total = 0, 0.0
    for rank, name in enumerate((name for name in names if name in rated), start=1):
        if rated[name]:
            hits += 1
            total += hits / rank
    return total / sum(rated.values())
