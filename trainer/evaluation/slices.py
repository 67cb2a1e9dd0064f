"""Slices: groups of videos or of classes that are measured on their own.

The metric of a slice is its GAP: over the predictions for its videos, or over the predictions of
its classes.
"""

from __future__ import annotations

import csv
import io
import itertools
from dataclasses import dataclass

import numpy as np

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.evaluation.predictions import Predictions, Videos

CLASS_FREQUENCIES = (0, 1, 5, 20, 100)  # lower bounds of the slices: videos in training
NUM_LABELS = (0, 1, 2, 3, 4, 6)
NUM_FRAMES = (1, 60, 120, 180, 240, 300)


@dataclass(frozen=True, eq=False)
class Slicing:
    """A division of the videos, or of the classes, into slices.

    Attributes:
        name: title in reports.
        slices: names of the slices.
        videos: [num_videos] int, the slice of each video, -1 for none; or None.
        classes: [num_classes] int, the slice of each class, -1 for none; or None.
    """

    name: str
    slices: list[str]
    videos: np.ndarray | None = None
    classes: np.ndarray | None = None

    def of_predictions(self, predictions: Predictions) -> np.ndarray:
        """[num_videos, k] int, the slice of each prediction."""
        if self.classes is not None:
            return self.classes[predictions.classes]
        return np.broadcast_to(self.videos[:, None], predictions.classes.shape)

    def of_labels(self, videos: Videos) -> np.ndarray:
        """[num_labels] int, the slice of each label."""
        if self.classes is not None:
            return self.classes[videos.label_classes]
        return self.videos[videos.label_videos]

    def num_videos(self, videos: Videos) -> np.ndarray:
        """[slices] int, the videos of each slice: those with one of its classes, for classes."""
        if self.videos is not None:
            return np.bincount(self.videos[self.videos >= 0], minlength=len(self.slices))
        of_labels = self.of_labels(videos)
        labelled = of_labels >= 0
        pairs = of_labels[labelled].astype(np.int64) * len(videos) + videos.label_videos[labelled]
        return np.bincount(np.unique(pairs) // max(len(videos), 1), minlength=len(self.slices))


def all_videos(videos: Videos) -> Slicing:
    """The slicing with one slice, which has every video."""
    return Slicing("All videos", ["all"], videos=np.zeros(len(videos), np.int8))


def by_class(num_classes: int) -> Slicing:
    """The slicing with a slice for each class."""
    names = [str(i) for i in range(num_classes)]
    return Slicing("Class", names, classes=np.arange(num_classes, dtype=np.int32))


def by_class_frequency(num_training_videos: np.ndarray) -> Slicing:
    """Slice the classes by their number of training videos, [num_classes] int."""
    slices, names = _bins(num_training_videos, CLASS_FREQUENCIES)
    return Slicing("Training videos of the class", names, classes=slices)


def by_num_labels(videos: Videos) -> Slicing:
    """Slice the videos by their number of labels."""
    slices, names = _bins(videos.num_labels, NUM_LABELS)
    return Slicing("Labels of the video", names, videos=slices)


def by_num_frames(videos: Videos) -> Slicing | None:
    """Slice the videos by their number of frames; None for video-level data."""
    if not videos.num_frames.any():
        return None
    slices, names = _bins(videos.num_frames, NUM_FRAMES)
    return Slicing("Frames of the video", names, videos=slices)


def by_vertical(vocabulary_file: str, num_classes: int) -> Slicing | None:
    """Slice the classes by their main vertical in a YouTube-8M vocabulary.

    Returns:
        The slicing; None if there is no vocabulary or it has no verticals.
    """
    if not vocabulary_file:
        return None
    rows = csv.DictReader(io.StringIO(storage.read_text(vocabulary_file).removeprefix("\ufeff")))
    if not {"Index", "Vertical1"} <= set(rows.fieldnames or ()):
        return None
    verticals = {int(row["Index"]): row["Vertical1"] for row in rows if row["Vertical1"]}
    names = sorted({name for index, name in verticals.items() if index < num_classes})
    position = {name: i for i, name in enumerate(names)}
    classes = [position.get(verticals.get(i), -1) for i in range(num_classes)]
    return Slicing("Vertical of the class", names, classes=np.array(classes, np.int32))


def by_file(path: str, videos: Videos) -> Slicing:
    """Slice the videos as a CSV file with the columns id and slice says.

    Raises:
        UserError: the file cannot be read, has other columns, assigns a video to two slices, or
            has none of the videos.
    """
    rows = csv.DictReader(io.StringIO(storage.read_text(path).removeprefix("\ufeff")))
    if set(rows.fieldnames or ()) != {"id", "slice"}:
        raise UserError(
            f"The slice file {path} must have the columns id,slice; got {rows.fieldnames}."
        )
    slice_of: dict[bytes, str] = {}
    for row in rows:
        video, name = (row["id"] or "").encode(), row["slice"] or ""
        if slice_of.setdefault(video, name) != name:
            raise UserError(
                f"The slice file {path} must assign a video to one slice; {row['id']!r} has "
                f"{slice_of[video]!r} and {name!r} (line {rows.line_num})."
            )
    names = sorted(set(slice_of.values()))
    position = {name: i for i, name in enumerate(names)}
    found = np.array([position.get(slice_of.get(video), -1) for video in videos.ids], np.int32)
    if not (found >= 0).any():
        raise UserError(
            f"The slice file {path} must have ids of evaluation videos; none of its "
            f"{len(slice_of)} ids is among them."
        )
    return Slicing("Slice file", names, videos=found)


def _bins(values: np.ndarray, lower_bounds: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
    """The bin of each value, -1 below the first, and the names of the bins, e.g. "1-4", "100+"."""
    names = [
        str(low) if low == high - 1 else f"{low}\N{EN DASH}{high - 1}"
        for low, high in itertools.pairwise(lower_bounds)
    ]
    bins = np.searchsorted(lower_bounds, values, side="right") - 1
    return bins.astype(np.int8), [*names, f"{lower_bounds[-1]}+"]
