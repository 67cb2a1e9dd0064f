"""Statistics of videos, which add up over batches and merge across files and workers.

All state is additive (counts, sums, min and max), so the order of merging does not change counts,
and changes means and standard deviations only in their last digits.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from components.validate_data import moments
from components.validate_data.batch import Batch
from components.validate_data.findings import Findings
from components.validate_data.moments import Moments
from components.validate_data.sketch import Sketch
from trainer.data.records import RecordFormat

# Only every 16th frame is added to the sketch, which otherwise takes most of the time.
SKETCH_STRIDE = 16


@dataclass
class FeatureStatistics:
    """Statistics of one feature.

    Attributes:
        moments: Mean, variance and range of each dimension.
        sketch: Quantiles of each dimension.
        lengths: `lengths[i]` videos have i values or, in frame-level data, i frames.
    """

    moments: Moments
    sketch: Sketch
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def empty(cls, size: int, frame_features: bool) -> "FeatureStatistics":
        """Return the statistics of no videos."""
        sketch = Sketch.of_bytes(size) if frame_features else Sketch.of_floats(size)
        return cls(Moments.empty(size), sketch)

    def add_vectors(self, vectors: np.ndarray) -> None:
        """Add vectors, float32 [num_videos, size]."""
        self.moments.merge(moments.of_vectors(vectors))
        self.sketch.add_vectors(vectors)
        self._add_lengths(np.full(len(vectors), vectors.shape[1]))

    def add_frames(self, frames: np.ndarray, lengths: np.ndarray) -> None:
        """Add the frames, uint8 [num_frames, size], of videos with these numbers of frames."""
        self.moments.merge(moments.of_frames(frames))
        self.sketch.add_frames(frames[::SKETCH_STRIDE])
        self._add_lengths(lengths)

    def _add_lengths(self, lengths: np.ndarray) -> None:
        self.lengths = add_counts(self.lengths, np.bincount(lengths))

    def merge(self, other: "FeatureStatistics") -> None:
        self.moments.merge(other.moments)
        self.sketch.merge(other.sketch)
        self.lengths = add_counts(self.lengths, other.lengths)


@dataclass
class SplitStatistics:
    """Statistics of all files of a split.

    Attributes:
        label_counts: Number of videos of each class, int64 [num_classes].
        features: Feature name -> statistics.
        num_bytes: Total size of the records.
        num_records: Number of valid and invalid records.
        num_videos: Number of valid records, on which all other statistics are based.
        labels_per_video: `labels_per_video[i]` videos have i labels.
        extra: (name, type) of a feature that is not used -> number of videos.
        files: (path, number of records, bytes of records, checksum) of each file.
        findings: Findings of all files.
        digest: Sum modulo 2 ** 256 of the files' digests; independent of their order.
    """

    label_counts: np.ndarray
    features: dict[str, FeatureStatistics]
    num_bytes: int = 0
    num_records: int = 0
    num_videos: int = 0
    labels_per_video: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    extra: Counter = field(default_factory=Counter)
    files: list[tuple[str, int, int, str]] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    digest: int = 0

    @classmethod
    def empty(cls, record_format: RecordFormat) -> "SplitStatistics":
        """Return the statistics of no files."""
        return cls(
            np.zeros(record_format.num_classes, np.int64),
            {
                feature.name: FeatureStatistics.empty(feature.size, record_format.frame_features)
                for feature in record_format.features
            },
        )

    def add(self, batch: Batch) -> None:
        """Add the videos of a batch."""
        self.num_records += len(batch)
        self.num_videos += len(batch)
        self._add_labels(batch)
        for extra in filter(None, batch.extra):
            self.extra.update(extra.items())
        for name, values in batch.features.items():
            if name in batch.lengths:
                self.features[name].add_frames(values, batch.lengths[name])
            else:
                self.features[name].add_vectors(values)

    def _add_labels(self, batch: Batch) -> None:
        labels, owners = batch.distinct_labels()
        self.label_counts += np.bincount(labels, minlength=len(self.label_counts))
        num_labels = np.bincount(owners, minlength=len(batch))
        self.labels_per_video = add_counts(self.labels_per_video, np.bincount(num_labels))

    def merge(self, other: "SplitStatistics") -> None:
        """Add the statistics of other files of the split."""
        self.label_counts = self.label_counts + other.label_counts
        for name, statistics in other.features.items():
            self.features[name].merge(statistics)
        self.num_bytes += other.num_bytes
        self.num_records += other.num_records
        self.num_videos += other.num_videos
        self.labels_per_video = add_counts(self.labels_per_video, other.labels_per_video)
        self.extra.update(other.extra)
        self.files.extend(other.files)
        self.findings.merge(other.findings)
        self.digest = (self.digest + other.digest) % 2**256


@dataclass(frozen=True)
class Result:
    """The result of a validation run: statistics by split, and all findings."""

    splits: dict[str, SplitStatistics]
    findings: Findings


def add_counts(counts: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Add two arrays of counts, padding the shorter one with zeros."""
    total = np.zeros(max(len(counts), len(more)), np.int64)
    total[: len(counts)] += counts
    total[: len(more)] += more
    return total
