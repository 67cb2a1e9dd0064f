"""What can be wrong with a video that can be read: checked batch by batch."""

from collections.abc import Iterator

import numpy as np

from trainer.examples import Video
from trainer.records import MAX_FRAMES, Feature, RecordFormat

# What the quantiser of the published features can hold, rounded outwards.
LOWEST, HIGHEST = -2.0, 2.01

Found = tuple[int, str, str]  # index of the video in the batch, kind of finding, what was found


def check(videos: list[Video], record_format: RecordFormat) -> Iterator[Found]:
    """All that is wrong with good videos: nothing that keeps them from being trained on."""
    for i, video in enumerate(videos):
        yield from ((i, *found) for found in _check_labels(video))
        if video.extra:
            yield i, "extra_feature", f"it also holds {', '.join(map(repr, sorted(video.extra)))}"
        if record_format.frame_features:
            yield from ((i, *found) for found in _check_lengths(video, record_format))
    for feature in record_format.features:
        values = [video.features[feature.name] for video in videos]
        if record_format.frame_features:
            yield from _check_frames(values, feature)
        else:
            yield from _check_vectors(np.stack(values), feature)


def _check_labels(video: Video) -> Iterator[tuple[str, str]]:
    if len(video.labels) == 0:
        yield "unlabelled", "it has no label"
    elif len(set(video.labels.tolist())) < len(video.labels):
        labels, counts = np.unique(video.labels, return_counts=True)
        yield "repeated_label", f"label {labels[counts > 1][0]} comes {counts.max()} times"


def _check_lengths(video: Video, record_format: RecordFormat) -> Iterator[tuple[str, str]]:
    lengths = {name: len(frames) for name, frames in video.features.items()}
    longest = max(lengths.values())
    if longest > MAX_FRAMES:
        yield "many_frames", f"{longest} frames; those after the first {MAX_FRAMES} are not used"
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{number} of {name!r}" for name, number in sorted(lengths.items()))
        yield "different_lengths", f"the numbers of frames differ: {found}"


def _check_vectors(vectors: np.ndarray, feature: Feature) -> Iterator[Found]:
    low, high = vectors.min(axis=1), vectors.max(axis=1)
    if feature.size > 1:
        for i in np.flatnonzero(low == high):
            yield int(i), "constant", f"every value of {feature.name!r} is {low[i]:g}"
    for i in np.flatnonzero((low < LOWEST) | (high > HIGHEST)):
        value = low[i] if low[i] < LOWEST else high[i]
        reason = f"{feature.name!r} has the value {value:g}, outside [{LOWEST:g}, {HIGHEST:g}]"
        yield int(i), "out_of_range", reason


def _check_frames(videos: list[np.ndarray], feature: Feature) -> Iterator[Found]:
    if feature.size == 1:
        return
    for i, frames in enumerate(videos):
        # Few frames get past the first look, so all of their bytes can be looked at.
        suspects = np.flatnonzero(
            (frames[:, 0] == frames[:, -1]) & (frames[:, 0] == frames[:, feature.size // 2])
        )
        rows = frames[suspects]
        constant = suspects[(rows == rows[:, :1]).all(axis=1)]
        if constant.size:
            first = int(constant[0])
            reason = (
                f"{constant.size} of the {len(frames)} frames of {feature.name!r} hold one byte "
                f"all through; frame {first + 1} holds {frames[first, 0]}"
            )
            yield i, "constant", reason
