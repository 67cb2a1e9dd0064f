"""Quantile sketches of each dimension of a feature.

A sketch is a histogram with fixed buckets, so merging adds counts and gives the same result in any
order.

- Floats use the buckets of DDSketch (Masson, Rim and Lee 2019, "DDSketch: a fast and
  fully-mergeable quantile sketch with relative-error guarantees", PVLDB 12): bucket i holds the
  values in (g^(i-1), g^i], so quantiles have a relative error of at most RELATIVE_ERROR. Values
  closer to 0 than SMALLEST count as 0, and those beyond LARGEST as LARGEST.
- Quantized frames have one bucket per byte value, so quantiles are exact.

The `ddsketch` and `datasketches` packages add one value of one dimension per call, which is too
slow for 1,152 dimensions.
"""

from dataclasses import dataclass

import numpy as np

from trainer.data.records import MIN_VALUE, QUANTISED_ZERO, QUANTUM

RELATIVE_ERROR = 0.02
SMALLEST, LARGEST = 1e-3, 10.0

_GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GROWTH = np.log(_GROWTH)
_FIRST = int(np.floor(np.log(SMALLEST) / _LOG_GROWTH))  # index of the smallest positive bucket
_NUM_POSITIVE = int(np.ceil(np.log(LARGEST) / _LOG_GROWTH)) - _FIRST

# Upper edges of the positive buckets. The negative buckets mirror them, with a zero bucket between.
_UPPER = _GROWTH ** (_FIRST + 1.0 + np.arange(_NUM_POSITIVE))
FLOAT_EDGES = np.concatenate([-_UPPER[::-1], [-(_GROWTH**_FIRST), _GROWTH**_FIRST], _UPPER])
BYTE_EDGES = MIN_VALUE - QUANTUM / 2 + QUANTUM * np.arange(257)

# Representative value of each bucket: the same relative error at both edges; the middle for bytes.
_POSITIVE_VALUES = 2 * _UPPER / (_GROWTH + 1)
FLOAT_VALUES = np.concatenate([-_POSITIVE_VALUES[::-1], [0.0], _POSITIVE_VALUES])
BYTE_VALUES = np.arange(256) * QUANTUM + QUANTISED_ZERO

# Dimensions counted at once, so that their counts stay in the CPU's cache.
_DIMENSIONS = 64


@dataclass
class Sketch:
    """Counts of the values of each dimension.

    Attributes:
        counts: int64 [size, buckets].
        edges: Bucket edges in ascending order, float64 [buckets + 1].
        values: Representative value of each bucket, float64 [buckets].
    """

    counts: np.ndarray
    edges: np.ndarray
    values: np.ndarray

    @classmethod
    def of_floats(cls, size: int) -> "Sketch":
        """Return an empty sketch of float vectors."""
        return cls(np.zeros((size, len(FLOAT_VALUES)), np.int64), FLOAT_EDGES, FLOAT_VALUES)

    @classmethod
    def of_bytes(cls, size: int) -> "Sketch":
        """Return an empty sketch of quantized frames."""
        return cls(np.zeros((size, 256), np.int64), BYTE_EDGES, BYTE_VALUES)

    def add_vectors(self, vectors: np.ndarray) -> None:
        """Add vectors, float32 [num_vectors, size]."""
        self._count(float_buckets(vectors))

    def add_frames(self, frames: np.ndarray) -> None:
        """Add frames, uint8 [num_frames, size]."""
        self._count(frames)

    def merge(self, other: "Sketch") -> None:
        self.counts = self.counts + other.counts

    def of_all_dimensions(self) -> "Sketch":
        """Return the sketch, of size 1, of the values of all dimensions together."""
        return Sketch(self.counts.sum(axis=0, keepdims=True), self.edges, self.values)

    def quantile(self, q: float) -> np.ndarray:
        """Return the q-quantile of each dimension, float64 [size]; NaN without values."""
        cumulative = self.counts.cumsum(axis=1)
        total = cumulative[:, -1]
        rank = q * (total - 1)
        bucket = (cumulative <= rank[:, None]).sum(axis=1)
        return np.where(total > 0, self.values[np.minimum(bucket, len(self.values) - 1)], np.nan)

    def histogram(self, edges: np.ndarray) -> np.ndarray:
        """Count the values of all dimensions between `edges`, float64 [bins].

        The values of a bucket are assumed to be distributed evenly over it.
        """
        below = np.concatenate([[0], self.counts.sum(axis=0).cumsum()])
        return np.diff(np.interp(edges, self.edges, below))

    def _count(self, buckets: np.ndarray) -> None:
        size, num_buckets = self.counts.shape
        offsets = np.arange(_DIMENSIONS) * num_buckets
        for start in range(0, size, _DIMENSIONS):
            counts = self.counts[start : start + _DIMENSIONS]
            places = buckets[:, start : start + _DIMENSIONS] + offsets[: len(counts)]
            np.add.at(counts.reshape(-1), places.ravel(), 1)


def float_buckets(values: np.ndarray) -> np.ndarray:
    """Return the bucket of each value of a float32 array, int16."""
    index = np.abs(values)
    np.maximum(index, np.float32(SMALLEST / 2), out=index)  # in place, to stay in the cache
    np.log(index, out=index)
    index *= np.float32(1 / _LOG_GROWTH)
    np.ceil(index, out=index)
    index -= _FIRST
    np.clip(index, 0, _NUM_POSITIVE, out=index)  # 0 is the zero bucket
    np.copysign(index, values, out=index)
    index += _NUM_POSITIVE
    return index.astype(np.int16)
