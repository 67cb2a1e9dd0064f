"""Bootstrap over videos: the sampling error of the metrics, and of the difference of two models.

A replicate repeats every video a Poisson(1) number of times, which approximates drawing as many
videos with replacement. Whole videos are drawn, not single predictions, because the predictions of
a video depend on each other. Both models of a comparison get the same videos in each replicate, so
the error of their difference does not include what is hard or easy for both.

The predictions are sorted once. A replicate then costs one gather of the weights and a few
operations on the hits: see benchmarks/evaluation.py for the time.

Intervals are estimate +- z * standard error. Percentiles of the replicates would be off center: a
class with one video is absent from a third of the replicates, and repeated videos raise mAP.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np

from trainer.evaluation.predictions import Predictions, Videos

NUM_REPLICATES = 500  # the relative error of a standard error is 1 / sqrt(2 * 500), 3%
MAX_WEIGHT = 255  # weights are uint8; a Poisson(1) number exceeds 20 once in 10**19


@dataclass(frozen=True)
class Estimate:
    """An estimate with its sampling error.

    Attributes:
        value: the estimate.
        standard_error: its bootstrap standard error.
        low: lower bound of the confidence interval.
        high: upper bound.
        p_value: two-sided p-value of the hypothesis that the true value is 0.
    """

    value: float
    standard_error: float
    low: float
    high: float
    p_value: float

    def as_dict(self) -> dict[str, float]:
        """The attributes, as written to metrics.json."""
        return asdict(self)


def estimate(value: float, replicates: np.ndarray, confidence: float) -> Estimate:
    """Return an estimate whose standard error is the standard deviation of its replicates.

    Args:
        value: the estimate.
        replicates: [num_replicates] float; NaN where the replicate has no value.
        confidence: confidence level of the interval, between 0 and 1.
    """
    replicates = replicates[np.isfinite(replicates)]
    error = float(np.std(replicates, ddof=1)) if len(replicates) > 1 else 0.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return Estimate(value, error, value - z * error, value + z * error, p_value(value, error))


def p_value(value: float, standard_error: float) -> float:
    """Two-sided p-value of the hypothesis that the true value is 0, by a z-test."""
    if standard_error == 0:
        return 1.0 if value == 0 else 0.0
    return math.erfc(abs(value) / standard_error / math.sqrt(2))


class RankedLists:
    """Average precision of ranked lists of predictions, for weighted videos.

    With weights w, the result is that of `metrics.average_precision` where every video is repeated
    w times, if no two videos have equal scores. Between videos with equal scores, the first one
    comes first.

    Args:
        predictions: predictions of a model.
        videos: the videos.
        prediction_lists: [num_videos, k] int, the list that each prediction belongs to; -1 for
            none.
        label_lists: [num_labels] int, the same for each label of `videos`.
        num_lists: number of lists.
    """

    def __init__(
        self,
        predictions: Predictions,
        videos: Videos,
        prediction_lists: np.ndarray,
        label_lists: np.ndarray,
        num_lists: int,
    ):
        self.num_lists = num_lists
        labelled = label_lists >= 0
        self.label_videos, self.label_lists = videos.label_videos[labelled], label_lists[labelled]

        lists, hits = prediction_lists.ravel(), predictions.hits.ravel()
        has_hits = np.zeros(num_lists + 1, bool)
        has_hits[lists[hits]] = True
        has_hits[-1] = False  # list -1
        kept = np.flatnonzero(has_hits[lists])
        lists = lists[kept]
        order = _descending(predictions.scores.ravel()[kept], lists)
        lists, hits = lists[order], hits[kept[order]]
        ranked_videos = (kept[order] // predictions.scores.shape[1]).astype(np.int32)

        # Predictions after the last hit of their list do not matter. The others are divided into
        # segments that end with a hit each.
        last_hit = np.zeros(num_lists, np.int64)
        last_hit[lists[hits]] = np.flatnonzero(hits)  # the last assignment is the last hit
        needed = np.arange(len(lists)) <= last_hit[lists] if len(lists) else hits
        lists, hits = lists[needed], hits[needed]
        self.videos = ranked_videos[needed]
        hit_positions = np.flatnonzero(hits)
        self.segment_starts = np.r_[0, hit_positions[:-1] + 1] if len(hit_positions) else []
        self.hit_videos, self.hit_lists = self.videos[hit_positions], lists[hit_positions]
        new_list = np.r_[True, self.hit_lists[1:] != self.hit_lists[:-1]]
        # The first hit of the list of each hit.
        self.list_starts = np.flatnonzero(new_list)[np.cumsum(new_list) - 1]

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Return the average precision of each list.

        Args:
            weights: [num_videos] uint8, how often each video is repeated.

        Returns:
            [num_lists] float64; NaN for a list without positives.
        """
        positives = np.bincount(self.label_lists, weights[self.label_videos], self.num_lists)
        sums = np.zeros(self.num_lists)
        if len(self.hit_videos):
            repeats = weights[self.hit_videos].astype(np.int64)
            segments = np.add.reduceat(weights[self.videos], self.segment_starts, dtype=np.int64)
            before = _sum_before(segments, self.list_starts) - repeats + segments
            hits_before = _sum_before(repeats, self.list_starts)
            terms = _sum_of_precisions(hits_before, before, repeats)
            sums = np.bincount(self.hit_lists, terms, self.num_lists)
        return np.divide(sums, positives, out=np.full(self.num_lists, np.nan), where=positives > 0)


def _descending(scores: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """Stable order by list, then by descending score: one sort of 64-bit integers."""
    bits = scores.astype(np.float32).view(np.uint32)
    ascending = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # as the floats are ordered
    return np.argsort((lists.astype(np.uint64) << 32) | ~ascending, kind="stable")


def _sum_before(values: np.ndarray, list_starts: np.ndarray) -> np.ndarray:
    """Sum of the values before each one in its list."""
    before = np.cumsum(values) - values
    return before - before[list_starts]


def _sum_of_precisions(hits: np.ndarray, ranks: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    """Sum over i = 1..repeats of (hits + i) / (ranks + i), elementwise."""
    result = np.zeros(len(hits))
    remaining = np.flatnonzero(repeats)
    i = 1
    while len(remaining):
        result[remaining] += (hits[remaining] + i) / (ranks[remaining] + i)
        remaining = remaining[repeats[remaining] > i]
        i += 1
    return result


class VideoMean:
    """Mean of one value per video, for weighted videos."""

    def __init__(self, values: np.ndarray):
        self.values = values.astype(np.float64)

    def __call__(self, weights: np.ndarray) -> float:
        total = int(weights.sum(dtype=np.int64))
        return float(weights @ self.values) / total if total else math.nan


def replicate(
    statistics: Callable[[np.ndarray], np.ndarray],
    num_videos: int,
    num_replicates: int = NUM_REPLICATES,
    seed: int = 0,
) -> np.ndarray:
    """Return bootstrap replicates of some statistics; the same for the same seed.

    Args:
        statistics: function of the weights, [num_videos] uint8. It is called from several threads.
        num_videos: number of videos.
        num_replicates: number of replicates.
        seed: seed of the weights.

    Returns:
        [num_replicates, statistics] float64.
    """

    def one(i: int) -> np.ndarray:
        weights = np.random.default_rng([seed, i]).poisson(1.0, num_videos)
        return statistics(np.minimum(weights, MAX_WEIGHT).astype(np.uint8))

    # NumPy releases the interpreter lock in what takes time here.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return np.array(list(pool.map(one, range(num_replicates))))
