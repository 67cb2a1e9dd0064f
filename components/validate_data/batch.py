"""Batches of videos, which numpy processes at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data.examples import Video


@dataclass(frozen=True)
class Batch:
    """Valid videos of one file.

    Attributes:
        numbers: Record numbers, [num_videos].
        ids: Video ids, [num_videos].
        labels: Class ids, int64 [num_labels].
        owners: Index of the video of each label, int64 [num_labels].
        features: Name -> vectors, float32 [num_videos, size], or the frames of all videos, one
            video after the other, uint8 [num_frames, size].
        lengths: Frame-level data: name -> number of frames of each video, int64 [num_videos].
        extra: Name -> type of the other features in each record, [num_videos].
    """

    numbers: Sequence[int]
    ids: Sequence[str]
    labels: np.ndarray
    owners: np.ndarray
    features: dict[str, np.ndarray]
    lengths: dict[str, np.ndarray]
    extra: Sequence[dict[str, str]]

    @classmethod
    def stack(cls, numbers: Sequence[int], videos: Sequence[Video]) -> "Batch":
        """Return the batch of one or more videos with these record numbers."""
        labels = [video.labels for video in videos]
        features = {name: [video.features[name] for video in videos] for name in videos[0].features}
        lengths = {
            name: np.array([len(frames) for frames in values])
            for name, values in features.items()
            if values[0].ndim == 2
        }
        return cls(
            numbers,
            [video.id for video in videos],
            np.concatenate(labels),
            np.repeat(np.arange(len(videos)), list(map(len, labels))),
            {
                name: np.concatenate(values) if name in lengths else np.stack(values)
                for name, values in features.items()
            },
            lengths,
            [video.extra for video in videos],
        )

    def __len__(self):
        return len(self.numbers)

    def distinct_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels and owners without repetitions of a label within a video."""
        num_classes = self.labels.max(initial=0) + 1
        owners, labels = np.divmod(np.unique(self.owners * num_classes + self.labels), num_classes)
        return labels, owners
