"""What the records of a split hold, name by name: the common ground of statistics and schemas."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from components.validate_data.statistics import SplitStatistics
from trainer.data.records import LABELS_KEY, RecordFormat

ID = "id"  # whichever of its keys it goes by

# The type of a feature in tensorflow-metadata, by what it is called here.
TYPES = {"bytes": "BYTES", "frames": "BYTES", "int64": "INT", "float": "FLOAT"}


@dataclass(frozen=True)
class Observed:
    """One feature of the records of a split.

    Attributes:
        type: "BYTES", "INT" or "FLOAT".
        videos: Good videos that have it, with at least one value.
        num_values: At i: videos with i values of it. None: was not counted.
        low, high: The least and the greatest value. None: is no number, or was not looked at.
    """

    type: str
    videos: int
    num_values: np.ndarray | None = None
    low: float | None = None
    high: float | None = None


def observe(statistics: SplitStatistics, record_format: RecordFormat) -> dict[str, Observed]:
    """What the good records of a split hold: id, labels, the expected features, and the rest."""
    videos = statistics.videos
    observed = {ID: Observed("BYTES", videos, np.array([0, videos]))}
    classes = np.flatnonzero(statistics.labels)
    observed[LABELS_KEY] = Observed(
        "INT",
        int(statistics.labels_per_video[1:].sum()),
        _without_none(statistics.labels_per_video),
        float(classes[0]) if classes.size else None,
        float(classes[-1]) if classes.size else None,
    )
    for name, feature in statistics.features.items():
        if record_format.frame_features:
            observed[name] = Observed("BYTES", videos, feature.lengths)
        elif videos:
            low, high = feature.moments.min.min(), feature.moments.max.max()
            observed[name] = Observed("FLOAT", videos, feature.lengths, float(low), float(high))
    for name, (kind, number) in _most_frequent_type(statistics.extra).items():
        observed[name] = Observed(TYPES[kind], number)
    return observed


def _without_none(num_values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], num_values[1:]])


def _most_frequent_type(extra: Counter) -> dict[str, tuple[str, int]]:
    """Type and number of videos of each feature that is in the records beside the expected ones."""
    types: dict[str, tuple[str, int]] = {}
    for (name, kind), videos in sorted(extra.items()):
        if kind in TYPES and videos > types.get(name, ("", 0))[1]:
            types[name] = (kind, videos)
    return types
