"""Statistics of videos, which grow batch by batch and merge across files and workers.

All state is additive: counts, sums and extremes. So the order of merging changes no count, and
means and deviations in their last digits only.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from components.validate_data import moments
from components.validate_data.findings import Findings
from components.validate_data.moments import Moments
from components.validate_data.parsing import Batch
from components.validate_data.sketch import Sketch
from trainer.data.records import RecordFormat

# Of the frames of a batch, one in so many is counted in the sketch, which costs more than all else.
FRAMES_PER_SKETCHED = 16


@dataclass
class FeatureStatistics:
    """Of one feature.

    Attributes:
        moments: Over all its vectors or frames.
        sketch: Quantiles of its values.
        lengths: At i: videos with i values of it or, at frame level, with i frames.
    """

    moments: Moments
    sketch: Sketch
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def empty(cls, size: int, frame_features: bool) -> "FeatureStatistics":
        """Of nothing."""
        sketch = Sketch.of_bytes(size) if frame_features else Sketch.of_floats(size)
        return cls(Moments.empty(size), sketch)

    def add_vectors(self, vectors: np.ndarray) -> None:
        """Takes in float32 [videos, size]."""
        self.moments.merge(moments.of_vectors(vectors))
        self.sketch.add_vectors(vectors)
        self._add_lengths(np.full(len(vectors), vectors.shape[1]))

    def add_frames(self, frames: np.ndarray, lengths: np.ndarray) -> None:
        """Takes in quantised frames, uint8 [frames, size], of videos of those lengths."""
        self.moments.merge(moments.of_frames(frames))
        self.sketch.add_frames(frames[::FRAMES_PER_SKETCHED])
        self._add_lengths(lengths)

    def _add_lengths(self, lengths: np.ndarray) -> None:
        self.lengths = add_counts(self.lengths, np.bincount(lengths))

    def merge(self, other: "FeatureStatistics") -> None:
        self.moments.merge(other.moments)
        self.sketch.merge(other.sketch)
        self.lengths = add_counts(self.lengths, other.lengths)


@dataclass
class SplitStatistics:
    """Of all files of a split.

    Attributes:
        labels: Videos a class, int64 [num_classes].
        features: Statistics by feature name.
        bytes: Of the records.
        records: Records, good and bad.
        videos: Good records. Labels, features and what is counted a video is about these.
        labels_per_video: At i: videos with i labels.
        extra: How many videos have what is not among the features: (name, type) -> videos.
        files: (path, records, bytes) of each file.
        findings: What is wrong.
        digest: Sum, modulo 2 ** 256, of a digest a file: the same in any order of the files.
    """

    labels: np.ndarray
    features: dict[str, FeatureStatistics]
    bytes: int = 0
    records: int = 0
    videos: int = 0
    labels_per_video: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    extra: Counter = field(default_factory=Counter)
    files: list[tuple[str, int, int]] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    digest: int = 0

    @classmethod
    def empty(cls, record_format: RecordFormat) -> "SplitStatistics":
        """Of no files."""
        return cls(
            np.zeros(record_format.num_classes, np.int64),
            {
                feature.name: FeatureStatistics.empty(feature.size, record_format.frame_features)
                for feature in record_format.features
            },
        )

    def add(self, batch: Batch) -> None:
        """Takes in good videos, at least one."""
        self.records += len(batch)
        self.videos += len(batch)
        self._add_labels(batch)
        for extra in filter(None, batch.extra):
            self.extra.update(extra.items())
        for name, values in batch.features.items():
            if name in batch.frames:
                self.features[name].add_frames(values, batch.frames[name])
            else:
                self.features[name].add_vectors(values)

    def _add_labels(self, batch: Batch) -> None:
        labels, owners = batch.distinct_labels()
        self.labels += np.bincount(labels, minlength=len(self.labels))
        num_labels = np.bincount(owners, minlength=len(batch))
        self.labels_per_video = add_counts(self.labels_per_video, np.bincount(num_labels))

    def merge(self, other: "SplitStatistics") -> None:
        """Takes in those of other files of the split."""
        self.labels = self.labels + other.labels
        for name, statistics in other.features.items():
            self.features[name].merge(statistics)
        self.bytes += other.bytes
        self.records += other.records
        self.videos += other.videos
        self.labels_per_video = add_counts(self.labels_per_video, other.labels_per_video)
        self.extra.update(other.extra)
        self.files.extend(other.files)
        self.findings.merge(other.findings)
        self.digest = (self.digest + other.digest) % 2**256


@dataclass(frozen=True)
class Result:
    """All that is known of the data in the end."""

    splits: dict[str, SplitStatistics]
    findings: Findings


def add_counts(counts: np.ndarray, more: np.ndarray) -> np.ndarray:
    """The sum of counts, the shorter of which goes on with zeros."""
    total = np.zeros(max(len(counts), len(more)), np.int64)
    total[: len(counts)] += counts
    total[: len(more)] += more
    return total
