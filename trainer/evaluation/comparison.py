"""Compare a model with the published one: intervals, paired differences, slices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trainer.evaluation import bootstrap
from trainer.evaluation.bootstrap import Estimate, RankedLists, VideoMean
from trainer.evaluation.evaluator import Evaluation
from trainer.evaluation.metrics import average_precision
from trainer.evaluation.slices import Slicing, all_videos, by_class

# The metrics that have intervals, in the order of `_metric_statistics`.
METRIC_NAMES = ("gap", "map", "hit_at_1", "perr")


@dataclass(frozen=True)
class Comparison:
    """The estimate of a quantity for two models, and of the paired difference.

    Attributes:
        challenger: estimate of the new model.
        champion: estimate of the published model, if there is one.
        difference: challenger - champion, if there is a champion.
    """

    challenger: Estimate
    champion: Estimate | None = None
    difference: Estimate | None = None


@dataclass(frozen=True)
class SliceComparison:
    """The GAP of both models in a slice.

    Attributes:
        slicing: name of the slicing.
        slice: name of the slice.
        num_videos: videos in the slice, or with one of its classes.
        num_positives: labels in the slice.
        gap: the comparison.
    """

    slicing: str
    slice: str
    num_videos: int
    num_positives: int
    gap: Comparison


def compare(
    challenger: Evaluation,
    champion: Evaluation | None = None,
    slicings: list[Slicing] = (),
    confidence: float = 0.95,
    num_replicates: int = bootstrap.NUM_REPLICATES,
    seed: int = 0,
) -> tuple[dict[str, Comparison], list[SliceComparison]]:
    """Compare two evaluations on the same videos.

    Args:
        challenger: evaluation of the new model.
        champion: evaluation of the published model; None if there is none.
        slicings: slicings of the videos or classes.
        confidence: confidence level of the intervals.
        num_replicates: number of bootstrap replicates.
        seed: seed of the bootstrap; the same seed gives the same result.

    Returns:
        The comparison of each metric in `METRIC_NAMES`, and of each slice that has labels.
    """
    models = [model for model in (challenger, champion) if model]
    statistics = [_statistics(model, slicings) for model in models]
    replicates = bootstrap.replicate(
        lambda weights: np.stack([function(weights) for function in statistics]),
        len(challenger.videos),
        num_replicates,
        seed,
    )
    values = [_values(model, slicings) for model in models]
    comparisons = [
        _comparison([value[i] for value in values], replicates[:, :, i], confidence)
        for i in range(len(values[0]))
    ]
    metrics = dict(zip(METRIC_NAMES, comparisons, strict=False))
    return metrics, _slices(challenger, slicings, comparisons[len(METRIC_NAMES) :])


def _comparison(values: list[float], replicates: np.ndarray, confidence: float) -> Comparison:
    """The comparison of one quantity, from [num_replicates, models] replicates."""
    estimates = [
        bootstrap.estimate(value, replicates[:, i], confidence) for i, value in enumerate(values)
    ]
    if len(values) == 1:
        return Comparison(estimates[0])
    difference = bootstrap.estimate(
        values[0] - values[1], replicates[:, 0] - replicates[:, 1], confidence
    )
    return Comparison(*estimates, difference)


def _slices(
    evaluation: Evaluation, slicings: list[Slicing], comparisons: list[Comparison]
) -> list[SliceComparison]:
    found, remaining = [], iter(comparisons)
    for slicing in slicings:
        of_labels = slicing.of_labels(evaluation.videos)
        positives = np.bincount(of_labels[of_labels >= 0], minlength=len(slicing.slices))
        num_videos = slicing.num_videos(evaluation.videos)
        for i, name in enumerate(slicing.slices):
            comparison = next(remaining)
            if positives[i]:
                counts = int(num_videos[i]), int(positives[i])
                found.append(SliceComparison(slicing.name, name, *counts, comparison))
    return found


def _statistics(evaluation: Evaluation, slicings: list[Slicing]) -> Callable:
    """The function from weights to the metrics, in the order of METRIC_NAMES, and the slices."""
    overall, per_class, *others = [
        _ranked_lists(evaluation, slicing) for slicing in _all_slicings(evaluation, slicings)
    ]
    hit_at_1 = VideoMean(evaluation.predictions.hits[:, 0])
    perr = VideoMean(evaluation.predictions.precision)

    def statistics(weights: np.ndarray) -> np.ndarray:
        gap, precisions = (lists.average_precision(weights) for lists in (overall, per_class))
        seen = precisions[~np.isnan(precisions)]
        mean = seen.mean() if len(seen) else np.nan
        slices = [lists.average_precision(weights) for lists in others]
        return np.concatenate([gap, [mean, hit_at_1(weights), perr(weights)], *slices])

    return statistics


def _values(evaluation: Evaluation, slicings: list[Slicing]) -> list[float]:
    """The estimates: the exact metrics and, for each slice, the exact GAP."""
    values = [evaluation.metrics[name] for name in METRIC_NAMES]
    predictions, videos = evaluation.predictions, evaluation.videos
    for slicing in slicings:
        lists, of_labels = slicing.of_predictions(predictions).ravel(), slicing.of_labels(videos)
        positives = np.bincount(of_labels[of_labels >= 0], minlength=len(slicing.slices))
        kept = lists >= 0
        scores, hits = predictions.scores.ravel()[kept], predictions.hits.ravel()[kept]
        values += average_precision(scores, hits, lists[kept], positives).tolist()
    return values


def _all_slicings(evaluation: Evaluation, slicings: list[Slicing]) -> list[Slicing]:
    return [all_videos(evaluation.videos), by_class(len(evaluation.num_positives)), *slicings]


def _ranked_lists(evaluation: Evaluation, slicing: Slicing) -> RankedLists:
    return RankedLists(
        evaluation.predictions,
        evaluation.videos,
        slicing.of_predictions(evaluation.predictions),
        slicing.of_labels(evaluation.videos),
        len(slicing.slices),
    )
