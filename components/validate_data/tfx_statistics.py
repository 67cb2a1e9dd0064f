"""The statistics as tensorflow-metadata's DatasetFeatureStatisticsList, for TFX tools to read.

Source: https://github.com/tensorflow/metadata/blob/master/tensorflow_metadata/proto/v0/statistics.proto
"""

from itertools import pairwise

import numpy as np

from components.validate_data.observed import Observed, observe
from components.validate_data.sketch import Sketch
from components.validate_data.statistics import FeatureStatistics, SplitStatistics
from trainer.common.messages import declare
from trainer.data.records import LABELS_KEY, RecordFormat

PROTO = declare(
    "proto3",
    {
        "DatasetFeatureStatisticsList": ["repeated DatasetFeatureStatistics datasets = 1"],
        "DatasetFeatureStatistics": [
            "optional string name = 1",
            "optional uint64 num_examples = 2",
            "repeated FeatureNameStatistics features = 3",
        ],
        "FeatureNameStatistics": [
            "optional string name = 1",
            "optional Type type = 2",
            "oneof NumericStatistics num_stats = 3",
            "oneof BytesStatistics bytes_stats = 5",
        ],
        "CommonStatistics": [
            "optional uint64 num_non_missing = 1",
            "optional uint64 num_missing = 2",
            "optional uint64 min_num_values = 3",
            "optional uint64 max_num_values = 4",
            "optional float avg_num_values = 5",
            "optional uint64 tot_num_values = 8",
        ],
        "NumericStatistics": [
            "optional CommonStatistics common_stats = 1",
            "optional double mean = 2",
            "optional double std_dev = 3",
            "optional uint64 num_zeros = 4",
            "optional double min = 5",
            "optional double median = 6",
            "optional double max = 7",
            "repeated Histogram histograms = 8",
        ],
        "BytesStatistics": [
            "optional CommonStatistics common_stats = 1",
            "optional float avg_num_bytes = 3",
            "optional float min_num_bytes = 4",
            "optional float max_num_bytes = 5",
        ],
        "Histogram": ["repeated Bucket buckets = 3", "optional HistogramType type = 4"],
        "Bucket": [
            "optional double low_value = 1",
            "optional double high_value = 2",
            "optional double sample_count = 4",
        ],
    },
    {
        "Type": ["INT = 0", "FLOAT = 1", "STRING = 2", "BYTES = 3", "STRUCT = 4"],
        "HistogramType": ["STANDARD = 0", "QUANTILES = 1"],
    },
)
_TYPES = {"INT": 0, "FLOAT": 1, "BYTES": 3}
_QUANTILES = 1
_NUM_BUCKETS = 10


def to_proto(splits: dict[str, SplitStatistics], record_format: RecordFormat):
    """All splits as a PROTO.DatasetFeatureStatisticsList.

    Of a vector, the statistics are those of all its values; each dimension is in statistics.json.
    """
    datasets = PROTO.DatasetFeatureStatisticsList()
    for split, statistics in splits.items():
        dataset = datasets.datasets.add(name=split, num_examples=statistics.videos)
        for name, one in observe(statistics, record_format).items():
            feature = dataset.features.add(name=name, type=_TYPES[one.type])
            if one.type == "BYTES":
                feature.bytes_stats.common_stats.CopyFrom(_common(one, statistics.videos))
            else:
                feature.num_stats.common_stats.CopyFrom(_common(one, statistics.videos))
            if name == LABELS_KEY and statistics.labels.any():
                _describe_labels(feature.num_stats, statistics.labels)
            elif name in statistics.features and one.type == "FLOAT":
                _describe_values(feature.num_stats, statistics.features[name])
            elif name in statistics.features:
                size = len(statistics.features[name].moments.mean)
                feature.bytes_stats.avg_num_bytes = size
                feature.bytes_stats.min_num_bytes = feature.bytes_stats.max_num_bytes = size
    return datasets


def _common(one: Observed, videos: int):
    common = PROTO.CommonStatistics(num_non_missing=one.videos, num_missing=videos - one.videos)
    if one.num_values is not None and one.num_values.any():
        numbers = np.flatnonzero(one.num_values)
        total = int(np.dot(numbers, one.num_values[numbers]))
        common.min_num_values, common.max_num_values = int(numbers[0]), int(numbers[-1])
        common.tot_num_values, common.avg_num_values = total, total / one.videos
    return common


def _describe_labels(stats, labels: np.ndarray) -> None:
    """Labels are numbers to TFX: of class 3 with 2 videos, twice the number 3."""
    classes, total = np.arange(len(labels)), labels.sum()
    stats.mean = np.dot(classes, labels) / total
    stats.std_dev = np.sqrt(np.dot((classes - stats.mean) ** 2, labels) / total)
    stats.num_zeros = int(labels[0])
    cumulative = labels.cumsum()
    stats.min, stats.max = np.flatnonzero(labels)[[0, -1]]
    stats.median = _rank(cumulative, 0.5)
    edges = np.linspace(0, len(labels), _NUM_BUCKETS + 1).round().astype(int)
    counts = [labels[low:high].sum() for low, high in pairwise(edges)]
    _add_histogram(stats, edges, counts)
    shares = np.linspace(0, 1, _NUM_BUCKETS + 1)
    quantiles = [_rank(cumulative, share) for share in shares]
    _add_histogram(stats, quantiles, [total / _NUM_BUCKETS] * _NUM_BUCKETS, _QUANTILES)


def _rank(cumulative: np.ndarray, share: float) -> int:
    return int(np.searchsorted(cumulative, share * (cumulative[-1] - 1), side="right"))


def _describe_values(stats, statistics: FeatureStatistics) -> None:
    moments, whole = statistics.moments, statistics.sketch.of_all_dimensions()
    stats.mean = moments.mean.mean()
    stats.std_dev = np.sqrt(np.mean(moments.std**2) + np.var(moments.mean))
    stats.num_zeros = int(moments.zeros.sum())
    stats.min, stats.max = moments.min.min(), moments.max.max()
    stats.median = _quantile(whole, 0.5, stats)
    edges = np.linspace(stats.min, stats.max, _NUM_BUCKETS + 1)
    _add_histogram(stats, edges, whole.histogram(edges))
    shares = np.linspace(0, 1, _NUM_BUCKETS + 1)
    quantiles = [_quantile(whole, share, stats) for share in shares]
    total = moments.count * len(moments.mean)
    _add_histogram(stats, quantiles, [total / _NUM_BUCKETS] * _NUM_BUCKETS, _QUANTILES)


def _quantile(whole: Sketch, share: float, stats) -> float:
    return float(np.clip(whole.quantile(share)[0], stats.min, stats.max))


def _add_histogram(stats, edges, counts, kind: int = 0) -> None:
    histogram = stats.histograms.add(type=kind)
    for (low, high), count in zip(pairwise(edges), counts, strict=True):
        histogram.buckets.add(low_value=low, high_value=high, sample_count=count)
