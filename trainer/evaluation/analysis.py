"""Analyses of a model's predictions: calibration, precision and recall, and what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.evaluation.predictions import Predictions, Videos

NUM_BINS = 20  # of the reliability curve
NUM_CURVE_POINTS = 200  # of the precision-recall curve


@dataclass(frozen=True, eq=False)
class Calibration:
    """How well predicted probabilities match the observed frequencies.

    Of the top predictions of all videos, in bins of equally many predictions by score.

    Attributes:
        mean_scores: [bins] float64, the mean score of each bin.
        precisions: [bins] float64, the fraction of hits of each bin.
        counts: [bins] int, predictions per bin.
    """

    mean_scores: np.ndarray
    precisions: np.ndarray
    counts: np.ndarray

    @property
    def expected_calibration_error(self) -> float:
        """Mean absolute difference of score and precision over the bins, weighted by count."""
        gaps = np.abs(self.mean_scores - self.precisions)
        return float((gaps * self.counts).sum() / self.counts.sum())


def calibration(predictions: Predictions, num_bins: int = NUM_BINS) -> Calibration:
    """Return the calibration of a model's top predictions."""
    scores, hits = predictions.scores.ravel(), predictions.hits.ravel()
    order = np.argsort(scores, kind="stable")
    starts = np.unique(np.arange(num_bins) * len(scores) // num_bins)
    counts = np.diff(np.r_[starts, len(scores)])
    return Calibration(
        np.add.reduceat(scores[order], starts, dtype=np.float64) / counts,
        np.add.reduceat(hits[order], starts, dtype=np.int64) / counts,
        counts,
    )


def precision_recall(
    predictions: Predictions, videos: Videos, num_points: int = NUM_CURVE_POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """Return recall and precision of all videos' top predictions, ranked in one list as in GAP.

    Args:
        predictions: predictions of a model.
        videos: the videos.
        num_points: maximum number of points, at equal distances in recall.

    Returns:
        Two arrays [points] float64: recall, ascending, and precision.
    """
    hits = predictions.hits.ravel()[np.argsort(-predictions.scores.ravel(), kind="stable")]
    ranks = np.flatnonzero(hits)
    points = np.unique(np.linspace(0, len(ranks) - 1, num_points).astype(int)) if len(ranks) else []
    found = np.asarray(points, int) + 1
    return found / max(len(videos.label_classes), 1), found / (ranks[found - 1] + 1)


@dataclass(frozen=True)
class Confusion:
    """A class that is predicted for videos of another one.

    Attributes:
        label: class id of the label.
        predicted: class id of the top prediction, which is not a label of these videos.
        num_videos: number of such videos.
        fraction: of the videos with the label.
    """

    label: int
    predicted: int
    num_videos: int
    fraction: float


def confusions(predictions: Predictions, videos: Videos, num_listed: int = 50) -> list[Confusion]:
    """Return the most frequent pairs of a label and a wrong top prediction."""
    wrong = ~predictions.hits[videos.label_videos, 0]
    labels = videos.label_classes[wrong].astype(np.int64)
    predicted = predictions.classes[videos.label_videos[wrong], 0]
    pairs, counts = np.unique(np.stack([labels, predicted]), axis=1, return_counts=True)
    num_positives = np.bincount(videos.label_classes)
    return [
        Confusion(
            int(pairs[0, i]),
            int(pairs[1, i]),
            int(counts[i]),
            float(counts[i] / num_positives[pairs[0, i]]),
        )
        for i in np.argsort(-counts, kind="stable")[:num_listed]
    ]


@dataclass(frozen=True)
class CostlyVideo:
    """A video with a large loss.

    Attributes:
        id: id of the video.
        loss: its CrossEntropyLoss.
        labels: its class ids.
        predictions: class id and score of its top predictions.
    """

    id: str
    loss: float
    labels: list[int]
    predictions: list[tuple[int, float]]


def largest_losses(
    predictions: Predictions, videos: Videos, num_listed: int = 50, num_predictions: int = 3
) -> list[CostlyVideo]:
    """Return the videos with the largest losses, in descending order."""
    label_starts = np.r_[0, np.cumsum(videos.num_labels)]
    return [
        CostlyVideo(
            videos.ids[i].decode(errors="replace"),
            float(predictions.losses[i]),
            videos.label_classes[label_starts[i] : label_starts[i + 1]].tolist(),
            [
                (int(label), float(score))
                for label, score in zip(
                    predictions.classes[i, :num_predictions],
                    predictions.scores[i, :num_predictions],
                    strict=True,
                )
            ],
        )
        for i in np.argsort(-predictions.losses, kind="stable")[:num_listed]
    ]
