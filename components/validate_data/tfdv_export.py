"""The statistics as tensorflow-metadata's DatasetFeatureStatisticsList, for TFDV and TFX tools."""

from itertools import pairwise

import numpy as np
from tensorflow_metadata.proto.v0.statistics_pb2 import (
    CommonStatistics,
    DatasetFeatureStatisticsList,
    FeatureNameStatistics,
    Histogram,
    NumericStatistics,
)

from components.validate_data.observed import ObservedFeature, observe
from components.validate_data.sketch import Sketch
from components.validate_data.statistics import FeatureStatistics, SplitStatistics
from trainer.data.records import LABELS_KEY, RecordFormat

NUM_BUCKETS = 10


def to_proto(
    splits: dict[str, SplitStatistics], record_format: RecordFormat
) -> DatasetFeatureStatisticsList:
    """Convert the statistics of all splits.

    The statistics of a vector are those of all its values; statistics.json has each dimension.
    """
    datasets = DatasetFeatureStatisticsList()
    for split, statistics in splits.items():
        dataset = datasets.datasets.add(name=split, num_examples=statistics.num_videos)
        for name, observed in observe(statistics, record_format).items():
            feature = dataset.features.add(
                name=name, type=FeatureNameStatistics.Type.Value(observed.type)
            )
            _fill_in(feature, observed, statistics)
    return datasets


def _fill_in(
    feature: FeatureNameStatistics, observed: ObservedFeature, statistics: SplitStatistics
) -> None:
    common = _common_statistics(observed, statistics.num_videos)
    if observed.type == "BYTES":
        feature.bytes_stats.common_stats.CopyFrom(common)
    else:
        feature.num_stats.common_stats.CopyFrom(common)
    if feature.name == LABELS_KEY and statistics.label_counts.any():
        _fill_in_labels(feature.num_stats, statistics.label_counts)
    elif feature.name in statistics.features and observed.type == "FLOAT":
        _fill_in_values(feature.num_stats, statistics.features[feature.name])
    elif feature.name in statistics.features:
        size = len(statistics.features[feature.name].moments.mean)
        feature.bytes_stats.avg_num_bytes = size
        feature.bytes_stats.min_num_bytes = feature.bytes_stats.max_num_bytes = size


def _common_statistics(observed: ObservedFeature, num_videos: int) -> CommonStatistics:
    common = CommonStatistics(
        num_non_missing=observed.num_videos, num_missing=num_videos - observed.num_videos
    )
    if observed.num_values is not None and observed.num_values.any():
        counts = np.flatnonzero(observed.num_values)
        total = int(np.dot(counts, observed.num_values[counts]))
        common.min_num_values, common.max_num_values = int(counts[0]), int(counts[-1])
        common.tot_num_values, common.avg_num_values = total, total / observed.num_videos
    return common


def _fill_in_labels(stats: NumericStatistics, label_counts: np.ndarray) -> None:
    """Fill in the statistics of the class ids: TFDV reads labels as numbers."""
    classes, total = np.arange(len(label_counts)), label_counts.sum()
    stats.mean = np.dot(classes, label_counts) / total
    stats.std_dev = np.sqrt(np.dot((classes - stats.mean) ** 2, label_counts) / total)
    stats.num_zeros = int(label_counts[0])
    cumulative = label_counts.cumsum()
    stats.min, stats.max = np.flatnonzero(label_counts)[[0, -1]]
    stats.median = _class_at(cumulative, 0.5)
    edges = np.linspace(0, len(label_counts), NUM_BUCKETS + 1).round().astype(int)
    _add_histogram(stats, edges, [label_counts[low:high].sum() for low, high in pairwise(edges)])
    _add_quantiles(stats, [_class_at(cumulative, q) for q in _quantile_levels()], total)


def _class_at(cumulative: np.ndarray, quantile: float) -> int:
    return int(np.searchsorted(cumulative, quantile * (cumulative[-1] - 1), side="right"))


def _fill_in_values(stats: NumericStatistics, statistics: FeatureStatistics) -> None:
    moments, sketch = statistics.moments, statistics.sketch.of_all_dimensions()
    stats.mean = moments.mean.mean()
    stats.std_dev = np.sqrt(np.mean(moments.std**2) + np.var(moments.mean))
    stats.num_zeros = int(moments.zeros.sum())
    stats.min, stats.max = moments.min.min(), moments.max.max()
    stats.median = _quantile(sketch, 0.5, stats)
    edges = np.linspace(stats.min, stats.max, NUM_BUCKETS + 1)
    _add_histogram(stats, edges, sketch.histogram(edges))
    total = moments.count * len(moments.mean)
    _add_quantiles(stats, [_quantile(sketch, q, stats) for q in _quantile_levels()], total)


def _quantile(sketch: Sketch, quantile: float, stats: NumericStatistics) -> float:
    return float(np.clip(sketch.quantile(quantile)[0], stats.min, stats.max))


def _quantile_levels() -> np.ndarray:
    return np.linspace(0, 1, NUM_BUCKETS + 1)


def _add_quantiles(stats: NumericStatistics, quantiles, total: float) -> None:
    counts = [total / NUM_BUCKETS] * NUM_BUCKETS
    _add_histogram(stats, quantiles, counts, Histogram.QUANTILES)


def _add_histogram(stats: NumericStatistics, edges, counts, kind=Histogram.STANDARD) -> None:
    histogram = stats.histograms.add(type=kind)
    for (low, high), count in zip(pairwise(edges), counts, strict=True):
        histogram.buckets.add(low_value=low, high_value=high, sample_count=count)
