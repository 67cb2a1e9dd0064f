"""What can be wrong with a video that can be read: checked batch by batch."""

from collections.abc import Iterator

import numpy as np

from components.validate_data.parsing import Batch
from trainer.data.records import MAX_FRAMES, Feature, RecordFormat

# What the quantiser of the published features can hold, rounded outwards.
LOWEST, HIGHEST = -2.0, 2.01

Found = tuple[int, str, str]  # index of the video in the batch, kind of finding, what was found


def check(batch: Batch, record_format: RecordFormat) -> Iterator[Found]:
    """All that is wrong with good videos: nothing that keeps them from being trained on."""
    yield from _check_labels(batch)
    for i, extra in enumerate(batch.extra):
        if extra:
            yield i, "extra_feature", f"it also holds {', '.join(map(repr, sorted(extra)))}"
    if record_format.frame_features:
        yield from _check_lengths(batch.frames)
    for feature in record_format.features:
        values = batch.features[feature.name]
        if record_format.frame_features:
            yield from _check_frames(values, batch.frames[feature.name], feature)
        else:
            yield from _check_vectors(values, feature)


def _check_labels(batch: Batch) -> Iterator[Found]:
    num_labels = np.bincount(batch.owners, minlength=len(batch))
    for i in np.flatnonzero(num_labels == 0):
        yield int(i), "unlabelled", "it has no label"
    num_distinct = np.bincount(batch.distinct_labels()[1], minlength=len(batch))
    for i in np.flatnonzero(num_distinct < num_labels):
        labels, counts = np.unique(batch.labels[batch.owners == i], return_counts=True)
        reason = f"label {labels[counts > 1][0]} comes {counts.max()} times"
        yield int(i), "repeated_label", reason


def _check_lengths(frames: dict[str, np.ndarray]) -> Iterator[Found]:
    lengths = np.array(list(frames.values()))  # [features, videos]
    longest = lengths.max(axis=0)
    for i in np.flatnonzero(longest > MAX_FRAMES):
        reason = f"{longest[i]} frames; those after the first {MAX_FRAMES} are not used"
        yield int(i), "many_frames", reason
    for i in np.flatnonzero(longest > lengths.min(axis=0)):
        found = ", ".join(f"{frames[name][i]} of {name!r}" for name in sorted(frames))
        yield int(i), "different_lengths", f"the numbers of frames differ: {found}"


def _check_vectors(vectors: np.ndarray, feature: Feature) -> Iterator[Found]:
    low, high = vectors.min(axis=1), vectors.max(axis=1)
    if feature.size > 1:
        for i in np.flatnonzero(low == high):
            yield int(i), "constant", f"every value of {feature.name!r} is {low[i]:g}"
    for i in np.flatnonzero((low < LOWEST) | (high > HIGHEST)):
        value = low[i] if low[i] < LOWEST else high[i]
        reason = f"{feature.name!r} has the value {value:g}, outside [{LOWEST:g}, {HIGHEST:g}]"
        yield int(i), "out_of_range", reason


def _check_frames(frames: np.ndarray, lengths: np.ndarray, feature: Feature) -> Iterator[Found]:
    if feature.size == 1:
        return
    # Few frames get past the first look, so all of their bytes can be looked at.
    suspects = np.flatnonzero(
        (frames[:, 0] == frames[:, -1]) & (frames[:, 0] == frames[:, feature.size // 2])
    )
    rows = frames[suspects]
    constant = suspects[(rows == rows[:, :1]).all(axis=1)]
    ends = lengths.cumsum()
    videos, firsts, counts = np.unique(
        np.searchsorted(ends, constant, side="right"), return_index=True, return_counts=True
    )
    for i, first, count in zip(videos, constant[firsts], counts, strict=True):
        number = first - (ends[i] - lengths[i]) + 1
        reason = (
            f"{count} of the {lengths[i]} frames of {feature.name!r} hold one byte all through; "
            f"frame {number} holds {frames[first, 0]}"
        )
        yield int(i), "constant", reason
