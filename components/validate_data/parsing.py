"""Reads the videos of many records at once.

Where all records of a batch are of known layouts, and nothing is wrong with any, numpy takes the
values of all of them as one array. Otherwise they are read one by one by `inspect`, which alone
says what is wrong with a record, and what is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from components.validate_data.layouts import Layouts
from trainer.data.examples import Problem, Video, inspect
from trainer.data.records import RecordFormat

# Labels of up to so many bytes are below 2 ** 28; those of more might not fit in int64.
MAX_LABEL_BYTES = 4

Found = tuple[Video, list[Problem]]  # what `inspect` returns


@dataclass(frozen=True)
class Batch:
    """Good videos of a file, side by side.

    Attributes:
        numbers: The records' numbers, [videos].
        ids: [videos].
        labels: Class numbers, int64 [labels].
        owners: Index of the video that each label is of, int64 [labels].
        features: Name -> vectors, float32 [videos, size]; or the frames of one video after the
            other, uint8 [frames, size].
        frames: At frame level: name -> how many frames each video has, int64 [videos].
        extra: What else is in each record, name -> type; [videos].
    """

    numbers: Sequence[int]
    ids: Sequence[str]
    labels: np.ndarray
    owners: np.ndarray
    features: dict[str, np.ndarray]
    frames: dict[str, np.ndarray]
    extra: Sequence[dict[str, str]]

    def __len__(self):
        return len(self.numbers)

    def distinct_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels and owners, where a label that comes several times in a video is one."""
        num_classes = self.labels.max(initial=0) + 1
        owners, labels = np.divmod(np.unique(self.owners * num_classes + self.labels), num_classes)
        return labels, owners


class Bad(NamedTuple):
    """A record that cannot be trained on."""

    number: int
    id: str  # "": it has none
    problems: list[Problem]


class Parser:
    """Reads records of one format, and remembers their layouts from one batch to the next."""

    def __init__(self, record_format: RecordFormat):
        self.record_format = record_format
        self._layouts = Layouts(record_format)

    def look_at(self, record: bytes) -> bytes | Found:
        """What to keep of a record until there are enough for a batch.

        Records with frames are so long that they are inspected while the CPU's cache has them.
        """
        return inspect(record, self.record_format) if self.record_format.frame_features else record

    def parse(self, numbers: Sequence[int], kept: Sequence) -> tuple[Batch | None, list[Bad]]:
        """The good videos of some records of a file, if there are any, and the bad ones.

        `kept` is what `look_at` returned for each.
        """
        if not self.record_format.frame_features:
            batch = self._all_at_once(numbers, kept)
            if batch:
                return batch, []
            kept = [inspect(record, self.record_format) for record in kept]
        bad, good, videos = [], [], []
        for number, (video, problems) in zip(numbers, kept, strict=True):
            if problems:
                bad.append(Bad(number, video.id, problems))
            else:
                good.append(number)
                videos.append(video)
        return side_by_side(good, videos) if videos else None, bad

    def _all_at_once(self, numbers: Sequence[int], records: Sequence[bytes]) -> Batch | None:
        """None: a record is of no known layout, or has something wrong with it."""
        rows = []
        for record in records:
            row = self._layouts.take_apart(record)
            if row is None:
                return None
            rows.append(row)
        if not rows:
            return None
        ids, label_bytes, *vectors, extra = zip(*rows, strict=True)
        ids = [video_id.decode("utf-8", "backslashreplace") for video_id in ids]
        labels, owners = read_varints(label_bytes)
        features = {
            feature.name: np.frombuffer(b"".join(values), "<f4").reshape(-1, feature.size)
            for feature, values in zip(self.record_format.features, vectors, strict=True)
        }
        good = labels.min(initial=0) >= 0 and labels.max(initial=0) < self.record_format.num_classes
        if not good or not all(map(_is_finite, features.values())):
            return None
        return Batch(numbers, ids, labels, owners, features, {}, extra)


def side_by_side(numbers: Sequence[int], videos: Sequence[Video]) -> Batch:
    """A batch of good videos, at least one, and of their records' numbers."""
    labels = [video.labels for video in videos]
    features = {name: [video.features[name] for video in videos] for name in videos[0].features}
    frames = {
        name: np.array([len(value) for value in values])
        for name, values in features.items()
        if values[0].ndim == 2
    }
    return Batch(
        numbers,
        [video.id for video in videos],
        np.concatenate(labels),
        np.repeat(np.arange(len(videos)), list(map(len, labels))),
        {
            name: np.concatenate(values) if name in frames else np.stack(values)
            for name, values in features.items()
        },
        frames,
        [video.extra for video in videos],
    )


def read_varints(rows: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers as protobuf packs them: seven bits a byte, the lowest first.

    Args:
        rows: The bytes of some numbers each. The last byte of a row ends a number.

    Returns:
        The numbers, int64, with -1 in place of those of more than MAX_LABEL_BYTES bytes; and the
        index of the row that each is from, int64.
    """
    data = np.frombuffer(b"".join(rows), np.uint8)
    row_of = np.repeat(np.arange(len(rows)), list(map(len, rows)))
    ends = np.flatnonzero(data < 0x80)
    lengths = np.diff(ends, prepend=-1)
    starts = ends + 1 - lengths
    place = np.arange(len(data)) - np.repeat(starts, lengths)
    bits = (data & 0x7F).astype(np.int64) << 7 * np.minimum(place, MAX_LABEL_BYTES)
    numbers = np.add.reduceat(bits, starts) if len(data) else bits
    return np.where(lengths > MAX_LABEL_BYTES, -1, numbers), row_of[ends]


def _is_finite(values: np.ndarray) -> bool:
    # If one is not, the sum is not. A sum that is too large costs time: they are read one by one.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()))
