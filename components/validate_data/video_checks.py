"""Warnings about valid videos, computed batch by batch."""

import re
from collections.abc import Iterator

import numpy as np

from components.validate_data.batch import Batch
from trainer.data.records import MAX_FRAMES, Feature, RecordFormat

# Range of the published features' quantizer, rounded outwards.
LOWEST, HIGHEST = -2.0, 2.01

# A comma, a quote, a control character, or a byte that is not UTF-8, which parsing writes as \xNN.
UNUSUAL_IN_ID = re.compile(r'[,"\x00-\x1f\x7f]|\\x[0-9a-f]{2}')

Found = tuple[int, str, str]  # index of the video in the batch, kind of finding, reason


def check(batch: Batch, record_format: RecordFormat) -> Iterator[Found]:
    """Yield all warnings about the videos of a batch."""
    yield from _check_ids(batch)
    yield from _check_labels(batch)
    for i, extra in enumerate(batch.extra):
        if extra:
            yield i, "extra_feature", f"the record also has {', '.join(map(repr, sorted(extra)))}"
    if record_format.frame_features:
        yield from _check_lengths(batch.lengths)
    for feature in record_format.features:
        values = batch.features[feature.name]
        if record_format.frame_features:
            yield from _check_frames(values, batch.lengths[feature.name], feature)
        else:
            yield from _check_vectors(values, feature)


def _check_ids(batch: Batch) -> Iterator[Found]:
    if not UNUSUAL_IN_ID.search(" ".join(batch.ids)):
        return
    for i, video_id in enumerate(batch.ids):
        if found := UNUSUAL_IN_ID.search(video_id):
            yield i, "unusual_id", f"the id {video_id!r} contains {found[0]!r}"


def _check_labels(batch: Batch) -> Iterator[Found]:
    num_labels = np.bincount(batch.owners, minlength=len(batch))
    for i in np.flatnonzero(num_labels == 0):
        yield int(i), "unlabelled", "the video has no labels"
    num_distinct = np.bincount(batch.distinct_labels()[1], minlength=len(batch))
    for i in np.flatnonzero(num_distinct < num_labels):
        labels, counts = np.unique(batch.labels[batch.owners == i], return_counts=True)
        reason = f"label {labels[counts > 1][0]} is repeated {counts.max()} times"
        yield int(i), "repeated_label", reason


def _check_lengths(lengths: dict[str, np.ndarray]) -> Iterator[Found]:
    all_lengths = np.array(list(lengths.values()))  # [num_features, num_videos]
    longest = all_lengths.max(axis=0)
    for i in np.flatnonzero(longest > MAX_FRAMES):
        reason = f"{longest[i]} frames; only the first {MAX_FRAMES} are used"
        yield int(i), "many_frames", reason


def _check_vectors(vectors: np.ndarray, feature: Feature) -> Iterator[Found]:
    low, high = vectors.min(axis=1), vectors.max(axis=1)
    if feature.size > 1:
        for i in np.flatnonzero(low == high):
            yield int(i), "constant", f"all values of {feature.name!r} are {low[i]:g}"
    for i in np.flatnonzero((low < LOWEST) | (high > HIGHEST)):
        value = low[i] if low[i] < LOWEST else high[i]
        reason = f"{feature.name!r} has the value {value:g}, outside [{LOWEST:g}, {HIGHEST:g}]"
        yield int(i), "out_of_range", reason


def _check_frames(frames: np.ndarray, lengths: np.ndarray, feature: Feature) -> Iterator[Found]:
    if feature.size == 1:
        return
    # Comparing three bytes rules out almost all frames.
    candidates = np.flatnonzero(
        (frames[:, 0] == frames[:, -1]) & (frames[:, 0] == frames[:, feature.size // 2])
    )
    rows = frames[candidates]
    constant = candidates[(rows == rows[:, :1]).all(axis=1)]
    ends = lengths.cumsum()
    videos, firsts, counts = np.unique(
        np.searchsorted(ends, constant, side="right"), return_index=True, return_counts=True
    )
    for i, first, count in zip(videos, constant[firsts], counts, strict=True):
        number = first - (ends[i] - lengths[i]) + 1
        reason = (
            f"{count} of {lengths[i]} frames of {feature.name!r} are constant; "
            f"all bytes of frame {number} are {frames[first, 0]}"
        )
        yield int(i), "constant", reason
