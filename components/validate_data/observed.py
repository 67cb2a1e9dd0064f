"""The features found in the records of a split, by name: input of statistics.pb and the schema."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from components.validate_data.statistics import SplitStatistics
from trainer.data.records import LABELS_KEY, RecordFormat

ID = "id"  # under either of its keys

# tensorflow-metadata's feature types.
TYPES = {"bytes": "BYTES", "frames": "BYTES", "int64": "INT", "float": "FLOAT"}


@dataclass(frozen=True)
class ObservedFeature:
    """One feature of the valid videos of a split.

    Attributes:
        type: "BYTES", "INT" or "FLOAT".
        num_videos: Number of videos with at least one value of it.
        num_values: `num_values[i]` videos have i values; None if not counted.
        min, max: Range of the values; None if not numeric or not computed.
    """

    type: str
    num_videos: int
    num_values: np.ndarray | None = None
    min: float | None = None
    max: float | None = None


def observe(statistics: SplitStatistics, record_format: RecordFormat) -> dict[str, ObservedFeature]:
    """Return the id, the labels, the expected features and any extra ones, by name."""
    num_videos = statistics.num_videos
    observed = {ID: ObservedFeature("BYTES", num_videos, np.array([0, num_videos]))}
    observed[LABELS_KEY] = _observe_labels(statistics)
    for name, feature in statistics.features.items():
        if record_format.frame_features:
            observed[name] = ObservedFeature("BYTES", num_videos, feature.lengths)
        elif num_videos:
            low, high = feature.moments.min.min(), feature.moments.max.max()
            observed[name] = ObservedFeature(
                "FLOAT", num_videos, feature.lengths, float(low), float(high)
            )
    for name, (kind, count) in _most_frequent_types(statistics.extra).items():
        observed[name] = ObservedFeature(TYPES[kind], count)
    return observed


def _observe_labels(statistics: SplitStatistics) -> ObservedFeature:
    classes = np.flatnonzero(statistics.label_counts)
    labelled = statistics.labels_per_video[1:]
    return ObservedFeature(
        "INT",
        int(labelled.sum()),
        np.concatenate([[0], labelled]),
        float(classes[0]) if classes.size else None,
        float(classes[-1]) if classes.size else None,
    )


def _most_frequent_types(extra: Counter) -> dict[str, tuple[str, int]]:
    """The most frequent type of each extra feature, and the number of videos with it."""
    types: dict[str, tuple[str, int]] = {}
    for (name, kind), num_videos in sorted(extra.items()):
        if kind in TYPES and num_videos > types.get(name, ("", 0))[1]:
            types[name] = (kind, num_videos)
    return types
