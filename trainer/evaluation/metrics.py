"""The metrics of YouTube-8M: GAP, Hit@1, PERR and mAP, as in its eval_util.py.

To add a metric, write a class and add an entry to METRICS; evaluation, TensorBoard, the reports
and the gate's minimums then include it. The class has this interface:

    __init__(num_classes): no videos yet.
    add(batch): add the videos of a `TopPredictions`.
    merge(other): add the videos of another instance, with the same num_classes and top_k.
    result(): the metric of all videos, a float from 0 to 1; 0 if there are none.

The state is sums, counts and lists, so neither the batch size nor the order of the videos changes a
result. The original leaves two cases to chance; they are defined here:

- Videos without labels count: as 0 in Hit@1 and PERR, and their predictions as false positives in
  GAP and mAP, as in the original.
- Ties: within a video, the class with the lower id comes first. Between videos, average precision
  is the mean over all orders of the predictions with equal scores. The original shuffles them.

This module does not import TensorFlow before there are predictions.
"""

from __future__ import annotations

import functools
import typing
from dataclasses import dataclass

import numpy as np

if typing.TYPE_CHECKING:
    import tensorflow as tf

TOP_K = 20  # predictions per video that GAP and mAP use in YouTube-8M


@dataclass(frozen=True, eq=False)
class TopPredictions:
    """The top predictions of a batch of videos, and the labels: the input of every metric.

    Attributes:
        scores: [batch, k] float32, the highest scores of each video in descending order. k is at
            least `top_k` and the largest number of labels of a video, or all classes.
        classes: [batch, k] int, their class ids; among equal scores, the lower id comes first.
        labels: [batch, n] int, the distinct class ids of each video, padded with -1.
        num_classes: number of classes.
        top_k: number of predictions per video that GAP and mAP use.

    Raises:
        ValueError: k is too small.
    """

    scores: np.ndarray
    classes: np.ndarray
    labels: np.ndarray
    num_classes: int
    top_k: int = TOP_K

    def __post_init__(self):
        width = min(max(self.top_k, self.num_labels.max(initial=0)), self.num_classes)
        if self.scores.shape != self.classes.shape or self.scores.shape[1] < width:
            raise ValueError(
                f"scores and classes must be [batch, {width}] or wider; got {self.scores.shape} "
                f"and {self.classes.shape}."
            )

    @functools.cached_property
    def num_labels(self) -> np.ndarray:
        """[batch] int, the number of labels of each video."""
        return (self.labels >= 0).sum(axis=1)

    @functools.cached_property
    def hits(self) -> np.ndarray:
        """[batch, k] bool, whether a prediction is a label of its video."""
        return (self.classes[:, :, None] == self.labels[:, None, :]).any(axis=2)

    @functools.cached_property
    def num_positives(self) -> np.ndarray:
        """[num_classes] int, the number of videos with each class."""
        return np.bincount(self.labels[self.labels >= 0], minlength=self.num_classes)

    @functools.cached_property
    def ranked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores (float32), classes and hits of the `top_k` predictions, [batch * top_k].

        The metrics that keep these arrays share them: 7 bytes per prediction in all, because the
        classes are int16 where they fit, otherwise int32.
        """
        class_type = np.int16 if self.num_classes <= np.iinfo(np.int16).max else np.int32
        return (
            self.scores[:, : self.top_k].astype(np.float32).ravel(),
            self.classes[:, : self.top_k].astype(class_type).ravel(),
            self.hits[:, : self.top_k].ravel(),
        )


def top_predictions(predictions: tf.Tensor, labels: tf.Tensor, top_k: int = TOP_K):
    """Return the TopPredictions of a batch.

    Args:
        predictions: [batch, num_classes] float32.
        labels: [batch, n] int, the distinct class ids of each video, padded with -1.
        top_k: number of predictions per video that GAP and mAP use.
    """
    import tensorflow as tf

    predictions, labels = tf.convert_to_tensor(predictions), np.asarray(labels)
    num_classes = predictions.shape[1]
    k = min(max(top_k, labels.shape[1]), num_classes)
    scores, classes = tf.math.top_k(predictions, k)  # puts the lower index first, as defined above
    return TopPredictions(scores.numpy(), classes.numpy(), labels, num_classes, top_k)


class HitAt1:
    """Fraction of videos whose top prediction is one of their labels.

    Example:
        >>> metric = HitAt1(num_classes=3)
        >>> metric.add(top_predictions([[0.9, 0.8, 0.1], [0.2, 0.3, 0.1]], [[0, 2], [0, -1]]))
        >>> metric.result()
        0.5
    """

    def __init__(self, num_classes: int):
        self.num_videos = 0
        self.num_hits = 0

    def add(self, batch: TopPredictions):
        self.num_videos += len(batch.labels)
        self.num_hits += int(batch.hits[:, 0].sum())

    def merge(self, other: HitAt1):
        self.num_videos += other.num_videos
        self.num_hits += other.num_hits

    def result(self) -> float:
        return self.num_hits / max(self.num_videos, 1)


class PrecisionAtEqualRecallRate:
    """Precision at equal recall rate (PERR), averaged over the videos.

    For a video with n labels: the fraction of its n top predictions that are labels. A label with
    a score of exactly 0 counts as missed, as in the original, in this metric alone.

    Example:
        >>> metric = PrecisionAtEqualRecallRate(num_classes=3)
        >>> metric.add(top_predictions([[0.9, 0.8, 0.1]], [[0, 2]]))
        >>> metric.result()
        0.5
    """

    def __init__(self, num_classes: int):
        self.num_videos = 0
        # By number of labels n: how many of the n top predictions of videos with n labels are
        # hits. Integers, because a sum of fractions would depend on the order of the videos.
        self.num_hits = np.zeros(num_classes + 1, np.int64)

    def add(self, batch: TopPredictions):
        rank = np.arange(batch.scores.shape[1])
        hits = batch.hits & (rank < batch.num_labels[:, None]) & (batch.scores > 0)
        self.num_videos += len(batch.labels)
        np.add.at(self.num_hits, batch.num_labels, hits.sum(axis=1))

    def merge(self, other: PrecisionAtEqualRecallRate):
        self.num_videos += other.num_videos
        self.num_hits += other.num_hits

    def result(self) -> float:
        num_labels = np.maximum(np.arange(len(self.num_hits)), 1)
        return float((self.num_hits / num_labels).sum()) / max(self.num_videos, 1)


class RankedPredictions:
    """All videos' `top_k` predictions, which GAP and mAP rank, and the number of positives.

    GAP is exact only with every score, so the state grows with the videos: see
    `TopPredictions.ranked`.
    """

    def __init__(self, num_classes: int):
        self.num_positives = np.zeros(num_classes, np.int64)
        self.batches = [(np.zeros(0, np.float32), np.zeros(0, np.int16), np.zeros(0, bool))]

    def add(self, batch: TopPredictions):
        self.num_positives += batch.num_positives
        self.batches.append(batch.ranked)

    def merge(self, other: RankedPredictions):
        self.num_positives += other.num_positives
        self.batches += other.batches

    def result(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, classes and hits, [predictions]."""
        scores, classes, hits = map(np.concatenate, zip(*self.batches, strict=True))
        return scores, classes, hits


class GlobalAveragePrecision:
    """Global average precision (GAP): the average precision of all videos' predictions in one list.

    The list has the `top_k` predictions of each video. All labels count as positives, including
    those that are not among the predictions of their video.

    Example: 0.9 is a hit, 0.8 is not, 0.7 is a hit: (1/1 + 2/3) / 2.
        >>> metric = GlobalAveragePrecision(num_classes=2)
        >>> metric.add(top_predictions([[0.9, 0.8], [0.7, 0.1]], [[0], [0]]))
        >>> round(metric.result(), 4)
        0.8333
    """

    def __init__(self, num_classes: int):
        self.predictions = RankedPredictions(num_classes)

    def add(self, batch: TopPredictions):
        self.predictions.add(batch)

    def merge(self, other: GlobalAveragePrecision):
        self.predictions.merge(other.predictions)

    def result(self) -> float:
        scores, classes, hits = self.predictions.result()
        one_list = np.zeros_like(classes)
        num_positives = self.predictions.num_positives.sum(keepdims=True)
        return float(average_precision(scores, hits, one_list, num_positives)[0])


class AveragePrecision:
    """Average precision of each class: of the list of its predictions, as in GAP.

    Result: [num_classes] float64; NaN for a class that no video has.

    Example:
        >>> metric = AveragePrecision(num_classes=3)
        >>> metric.add(top_predictions([[0.9, 0.8, 0.0], [0.7, 0.1, 0.0]], [[0, -1], [0, 1]]))
        >>> metric.result().tolist()
        [1.0, 0.5, nan]
    """

    def __init__(self, num_classes: int):
        self.predictions = RankedPredictions(num_classes)

    def add(self, batch: TopPredictions):
        self.predictions.add(batch)

    def merge(self, other: AveragePrecision):
        self.predictions.merge(other.predictions)

    def result(self) -> np.ndarray:
        scores, classes, hits = self.predictions.result()
        num_positives = self.predictions.num_positives
        result = average_precision(scores, hits, classes, num_positives)
        return np.where(num_positives > 0, result, np.nan)


class MeanAveragePrecision:
    """Mean average precision (mAP) over the classes that at least one video has.

    Example:
        >>> metric = MeanAveragePrecision(num_classes=3)
        >>> metric.add(top_predictions([[0.9, 0.8, 0.0], [0.7, 0.1, 0.0]], [[0, -1], [0, 1]]))
        >>> metric.result()
        0.75
    """

    def __init__(self, num_classes: int):
        self.average_precision = AveragePrecision(num_classes)

    def add(self, batch: TopPredictions):
        self.average_precision.add(batch)

    def merge(self, other: MeanAveragePrecision):
        self.average_precision.merge(other.average_precision)

    def result(self) -> float:
        values = self.average_precision.result()
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else 0.0


class VideoCounts:
    """Number of videos: in all, without labels, and per class.

    Attributes:
        num_videos: int.
        num_videos_without_labels: int.
        num_positives: [num_classes] int64, the number of videos with each class.

    Example:
        >>> counts = VideoCounts(num_classes=3)
        >>> counts.add(top_predictions([[0.9, 0.8, 0.1], [0.2, 0.3, 0.1]], [[0, 2], [-1, -1]]))
        >>> counts.result()
        {'num_videos': 2, 'num_videos_without_labels': 1, 'num_classes_with_videos': 2}
    """

    def __init__(self, num_classes: int):
        self.num_videos = 0
        self.num_videos_without_labels = 0
        self.num_positives = np.zeros(num_classes, np.int64)

    def add(self, batch: TopPredictions):
        self.num_videos += len(batch.labels)
        self.num_videos_without_labels += int((batch.num_labels == 0).sum())
        self.num_positives += batch.num_positives

    def merge(self, other: VideoCounts):
        self.num_videos += other.num_videos
        self.num_videos_without_labels += other.num_videos_without_labels
        self.num_positives += other.num_positives

    def result(self) -> dict[str, int]:
        return {
            "num_videos": self.num_videos,
            "num_videos_without_labels": self.num_videos_without_labels,
            "num_classes_with_videos": int((self.num_positives > 0).sum()),
        }


@dataclass(frozen=True)
class Metric:
    """Entry of a metric. Higher is better.

    Attributes:
        title: name in reports and messages.
        description: what reports say about it.
        metric_class: class with the interface described at the top of this module.
    """

    title: str
    description: str
    metric_class: type


METRICS = {
    "gap": Metric(
        "GAP",
        f"Global average precision: the average precision of the top {TOP_K} predictions of all "
        "videos, ranked in one list.",
        GlobalAveragePrecision,
    ),
    "hit_at_1": Metric(
        "Hit@1", "Fraction of videos whose top prediction is one of their labels.", HitAt1
    ),
    "perr": Metric(
        "PERR",
        "Precision at equal recall rate: for a video with n labels, the fraction of its n top "
        "predictions that are labels, averaged over the videos.",
        PrecisionAtEqualRecallRate,
    ),
    "map": Metric(
        "mAP",
        "Mean average precision over the classes: rare classes count as much as frequent ones.",
        MeanAveragePrecision,
    ),
}


class MetricCollection:
    """Every metric of METRICS on the same videos.

    Example:
        >>> metrics = MetricCollection(num_classes=2)
        >>> metrics.add(top_predictions([[0.9, 0.1]], [[0]]))
        >>> metrics.result()
        {'gap': 1.0, 'hit_at_1': 1.0, 'perr': 1.0, 'map': 1.0}
    """

    def __init__(self, num_classes: int):
        self.metrics = {name: entry.metric_class(num_classes) for name, entry in METRICS.items()}

    def add(self, batch: TopPredictions):
        for metric in self.metrics.values():
            metric.add(batch)

    def merge(self, other: MetricCollection):
        for name, metric in self.metrics.items():
            metric.merge(other.metrics[name])

    def result(self) -> dict[str, float]:
        """The result of each metric, by its name in METRICS."""
        return {name: metric.result() for name, metric in self.metrics.items()}


def average_precision(
    scores: np.ndarray, hits: np.ndarray, lists: np.ndarray, num_positives: np.ndarray
) -> np.ndarray:
    """Return the average precision of each of several ranked lists.

    The average precision of a list is the sum, over its hits, of the precision at their rank,
    divided by its number of positives. Let n predictions with equal scores, r of them hits, follow
    N predictions with R hits. The mean of their terms over all orders is

        sum over i = 1..n of r/n * (R + 1 + (i - 1)(r - 1)/(n - 1)) / (N + i)

    Args:
        scores: [predictions] float.
        hits: [predictions] bool.
        lists: [predictions] int, the list that each prediction belongs to.
        num_positives: [lists] int, including positives that have no prediction.

    Returns:
        [lists] float64; 0 for a list without positives.
    """
    result = np.zeros(len(num_positives))
    if len(scores) == 0:
        return result
    order = np.lexsort((-scores, lists))
    scores, hits, lists = scores[order], hits[order].astype(np.int64), lists[order]
    new_list = np.r_[True, lists[1:] != lists[:-1]]
    new_tie = new_list | np.r_[True, scores[1:] != scores[:-1]]
    list_start = np.flatnonzero(new_list)[np.cumsum(new_list) - 1]
    rank = np.arange(len(scores)) - list_start + 1

    # One value for each group of equal scores in a list.
    starts = np.flatnonzero(new_tie)
    n = np.diff(np.r_[starts, len(scores)])
    r = np.add.reduceat(hits, starts)
    num_before = rank[starts] - 1  # N
    cumulative_hits = np.r_[0, np.cumsum(hits)]
    hits_before = cumulative_hits[starts] - cumulative_hits[list_start[starts]]  # R

    sum_inverse_rank = np.add.reduceat(1 / rank, starts)  # sum of 1 / (N + i)
    sum_weighted = n - (num_before + 1) * sum_inverse_rank  # sum of (i - 1) / (N + i)
    slope = (r - 1) / np.maximum(n - 1, 1)
    terms = r / n * ((hits_before + 1) * sum_inverse_rank + slope * sum_weighted)
    np.add.at(result, lists[starts], terms)
    return result / np.maximum(num_positives, 1)


def frequency_gap(num_positives: np.ndarray, num_videos: int, top_k: int = TOP_K) -> float:
    """Return the GAP of predicting the `top_k` most frequent classes for every video.

    The score of a class is its frequency in the same videos. A model that does not exceed this has
    learned nothing from the features.

    Args:
        num_positives: [num_classes] int, the number of videos with each class.
        num_videos: number of videos.
        top_k: number of predictions per video.

    Example: both videos have class 0, one has class 1. Ranked: 2 hits of 2, then 1 of 2.
        >>> round(frequency_gap(np.array([2, 1]), num_videos=2), 4)
        0.9583
    """
    hits, ranks, total = 0, 0, 0.0
    for r in np.sort(num_positives)[::-1][:top_k].tolist():
        # num_videos equal scores, r of them hits: see average_precision.
        inverse = 1 / np.arange(ranks + 1, ranks + num_videos + 1)
        slope = (r - 1) / max(num_videos - 1, 1)
        weighted = num_videos - (ranks + 1) * inverse.sum()
        total += r / num_videos * ((hits + 1) * inverse.sum() + slope * weighted)
        hits, ranks = hits + r, ranks + num_videos
    return float(total / max(num_positives.sum(), 1))
