"""Every video's top predictions and labels, for analyses that need more than sums.

A video takes 7 bytes per prediction and model (score, class, hit) and about 30 bytes for labels,
loss and id: 170 bytes with 20 predictions, 1.7 GB per model for 10 million videos. The exact GAP
needs these predictions in any case.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from trainer.evaluation.metrics import TopPredictions


@dataclass(frozen=True, eq=False)
class Videos:
    """The labelled videos of an evaluation, in the order in which they were read.

    Attributes:
        ids: [num_videos] bytes.
        num_frames: [num_videos] int32; 0 in video-level data.
        label_videos: [num_labels] int32, the video of each label.
        label_classes: [num_labels] int32, its class.
        num_labels: [num_videos] int32, labels per video.
    """

    ids: np.ndarray
    num_frames: np.ndarray
    label_videos: np.ndarray
    label_classes: np.ndarray
    num_labels: np.ndarray

    def __len__(self) -> int:
        return len(self.num_labels)

    @classmethod
    def of_batch(cls, batch: dict) -> Videos:
        """The videos of a batch of `input_pipeline`."""
        labels = np.asarray(batch["labels"])
        videos, columns = np.nonzero(labels >= 0)
        num_frames = batch.get("num_frames", np.zeros(len(labels)))
        return cls(
            np.asarray(batch["id"]).astype(np.bytes_),
            np.asarray(num_frames).astype(np.int32),
            videos.astype(np.int32),
            labels[videos, columns].astype(np.int32),
            (labels >= 0).sum(axis=1).astype(np.int32),
        )

    @classmethod
    def concatenate(cls, parts: list[Videos]) -> Videos:
        """All videos of several parts, in order."""
        starts = np.cumsum([0, *(len(part) for part in parts)])[:-1]
        label_videos = [
            part.label_videos + start for part, start in zip(parts, starts, strict=True)
        ]
        columns = _concatenate(parts)
        columns["label_videos"] = np.concatenate(label_videos).astype(np.int32)
        return cls(**columns)


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of one model for `Videos`.

    Attributes:
        scores: [num_videos, k] float32, the top predictions in descending order.
        classes: [num_videos, k] int16 or int32, their class ids.
        hits: [num_videos, k] bool, whether a prediction is a label of its video.
        precision: [num_videos] float64, the precision at equal recall rate of each video.
        losses: [num_videos] float32, the CrossEntropyLoss of each video.
    """

    scores: np.ndarray
    classes: np.ndarray
    hits: np.ndarray
    precision: np.ndarray
    losses: np.ndarray

    def __len__(self) -> int:
        return len(self.losses)

    @classmethod
    def of_batch(cls, top: TopPredictions, losses: np.ndarray) -> Predictions:
        """The predictions for a batch of videos."""
        scores, classes, hits = top.ranked
        shape = len(top.labels), -1
        in_recall = np.arange(top.hits.shape[1]) < top.num_labels[:, None]
        num_hits = (top.hits & in_recall & (top.scores > 0)).sum(axis=1)
        return cls(
            scores.reshape(shape),
            classes.reshape(shape),
            hits.reshape(shape),
            num_hits / np.maximum(top.num_labels, 1),
            np.asarray(losses, np.float32),
        )

    @classmethod
    def concatenate(cls, parts: list[Predictions]) -> Predictions:
        """The predictions of several parts, in order."""
        return cls(**_concatenate(parts))


def _concatenate(parts: list) -> dict[str, np.ndarray]:
    names = [field.name for field in dataclasses.fields(parts[0])]
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
