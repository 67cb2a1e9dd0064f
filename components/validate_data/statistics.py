"""Statistics of videos, which grow batch by batch and merge across files and workers.

All state is additive: counts, sums and extremes. So the order of merging changes no count, and
means and deviations in their last digits only.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from components.validate_data.findings import Findings
from trainer.examples import Video
from trainer.records import MIN_VALUE, QUANTISED_ZERO, QUANTUM, RecordFormat

# Bins of the values of a feature: four values of the quantiser each, and together all of them.
BIN_EDGES = MIN_VALUE - QUANTUM / 2 + 4 * QUANTUM * np.arange(65)


@dataclass
class FeatureStatistics:
    """Of one feature, over its vectors or frames, a number a dimension. Frames are de-quantised.

    Attributes:
        count: Vectors or frames.
        mean, min, max: float64 [size].
        m2: Sum of squared differences from the mean, float64 [size].
        zeros: How often a value, or a frame's byte, was 0; int64 [size].
        histogram: Values of all dimensions below, in each of, and above the bins between
            BIN_EDGES; int64 [bins + 2].
    """

    count: int
    mean: np.ndarray
    m2: np.ndarray
    min: np.ndarray
    max: np.ndarray
    zeros: np.ndarray
    histogram: np.ndarray

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of the population, float64 [size]."""
        return np.sqrt(self.m2 / max(self.count, 1))

    def merge(self, other: "FeatureStatistics") -> None:
        """Chan, Golub and LeVeque 1979, Updating Formulae, for the mean and m2."""
        count = self.count + other.count
        difference = other.mean - self.mean
        self.mean = self.mean + difference * (other.count / count)
        self.m2 = self.m2 + other.m2 + difference**2 * (self.count * other.count / count)
        self.min = np.minimum(self.min, other.min)
        self.max = np.maximum(self.max, other.max)
        self.zeros = self.zeros + other.zeros
        self.histogram = self.histogram + other.histogram
        self.count = count


def of_vectors(vectors: np.ndarray) -> FeatureStatistics:
    """Of float32 [videos, size], at least one."""
    values = vectors.astype(np.float64)
    mean = values.mean(axis=0)
    return FeatureStatistics(
        count=len(values),
        mean=mean,
        m2=((values - mean) ** 2).sum(axis=0),
        min=values.min(axis=0),
        max=values.max(axis=0),
        zeros=(values == 0).sum(axis=0),
        histogram=_histogram(vectors),
    )


def _histogram(vectors: np.ndarray) -> np.ndarray:
    num_bins = len(BIN_EDGES) - 1
    position = (vectors - np.float32(BIN_EDGES[0])) * np.float32(1 / (4 * QUANTUM)) + 1
    bins = np.clip(position, 0, num_bins + 1).astype(np.uint8)
    return np.bincount(bins.ravel(), minlength=num_bins + 2)


def of_frames(frames: np.ndarray) -> FeatureStatistics:
    """Of quantised uint8 [frames, size], at least one."""
    # Whole numbers throughout: exact, and several times as fast as float64.
    total = frames.sum(axis=0, dtype=np.int64)
    squares = np.einsum("ij,ij->j", frames, frames, dtype=np.int64)
    in_bins = np.bincount((frames >> 2).ravel(), minlength=64)
    return FeatureStatistics(
        count=len(frames),
        mean=_dequantise(total / len(frames)),
        m2=(squares - total**2 / len(frames)) * QUANTUM**2,
        min=_dequantise(frames.min(axis=0)),
        max=_dequantise(frames.max(axis=0)),
        zeros=(frames == 0).sum(axis=0),
        histogram=np.concatenate(([0], in_bins, [0])),
    )


def _dequantise(values: np.ndarray) -> np.ndarray:
    return values * QUANTUM + QUANTISED_ZERO


@dataclass
class SplitStatistics:
    """Of all files of a split.

    Attributes:
        files, bytes: Files, and their records' bytes.
        records: Records, good and bad.
        videos: Good records; all that follows is about these.
        labels: Videos a class, int64 [num_classes].
        labels_per_video: At i: videos with i labels.
        frames_per_video: At i: videos with i frames. Empty at video level.
        features: Statistics by feature name.
        findings: What is wrong.
        digest: Sum, modulo 2 ** 256, of a digest a file: the same in any order of the files.
    """

    labels: np.ndarray
    files: int = 0
    bytes: int = 0
    records: int = 0
    videos: int = 0
    labels_per_video: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    frames_per_video: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    features: dict[str, FeatureStatistics] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    digest: int = 0

    @classmethod
    def empty(cls, num_classes: int) -> "SplitStatistics":
        """Of no files."""
        return cls(np.zeros(num_classes, np.int64))

    def merge(self, other: "SplitStatistics") -> None:
        self.files += other.files
        self.bytes += other.bytes
        self.records += other.records
        self.videos += other.videos
        self.labels = self.labels + other.labels
        self.labels_per_video = _add(self.labels_per_video, other.labels_per_video)
        self.frames_per_video = _add(self.frames_per_video, other.frames_per_video)
        for name, statistics in other.features.items():
            self._merge_feature(name, statistics)
        self.findings.merge(other.findings)
        self.digest = (self.digest + other.digest) % 2**256

    def _merge_feature(self, name: str, statistics: FeatureStatistics) -> None:
        if name in self.features:
            self.features[name].merge(statistics)
        else:
            self.features[name] = replace(statistics)  # what is merged in stays as it is


@dataclass(frozen=True)
class Result:
    """All that is known of the data in the end."""

    splits: dict[str, SplitStatistics]
    findings: Findings


def of_videos(videos: list[Video], record_format: RecordFormat) -> SplitStatistics:
    """Of good videos, at least one: everything but files, bytes, findings and digest."""
    num_labels = np.array([len(video.labels) for video in videos])
    number = np.repeat(np.arange(len(videos)), num_labels)
    labels = np.concatenate([video.labels for video in videos])
    # A label that comes twice in a video is one.
    distinct = np.unique(number * record_format.num_classes + labels)
    statistics = SplitStatistics(
        labels=np.bincount(
            distinct % record_format.num_classes, minlength=record_format.num_classes
        ),
        records=len(videos),
        videos=len(videos),
        labels_per_video=np.bincount(
            np.bincount(distinct // record_format.num_classes, minlength=len(videos))
        ),
    )
    for feature in record_format.features:
        values = [video.features[feature.name] for video in videos]
        if record_format.frame_features:
            statistics.features[feature.name] = of_frames(np.concatenate(values))
        else:
            statistics.features[feature.name] = of_vectors(np.stack(values))
    if record_format.frame_features:
        first = record_format.features[0].name
        num_frames = [len(video.features[first]) for video in videos]
        statistics.frames_per_video = np.bincount(num_frames)
    return statistics


def _add(counts: np.ndarray, more: np.ndarray) -> np.ndarray:
    """The sum of counts, the shorter one going on with zeros."""
    total = np.zeros(max(len(counts), len(more)), np.int64)
    total[: len(counts)] += counts
    total[: len(more)] += more
    return total
