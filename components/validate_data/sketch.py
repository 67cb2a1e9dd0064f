"""Quantiles of every dimension of a feature, in a state that only adds up.

A sketch counts the values of each dimension in buckets. Merging adds the counts: in any order, of
any number of parts, with the same result to the last count.

- Floats are counted as DDSketch does (Masson, Rim and Lee 2019, "DDSketch: a fast and
  fully-mergeable quantile sketch with relative-error guarantees", PVLDB 12): bucket i holds the
  values of (g^(i-1), g^i], so a quantile is right to within RELATIVE_ERROR of itself. Values closer
  to 0 than SMALLEST count as 0, those beyond LARGEST as LARGEST.
- Quantised frames are counted byte by byte, so a quantile is exact.
"""

from dataclasses import dataclass

import numpy as np

from trainer.data.records import MIN_VALUE, QUANTISED_ZERO, QUANTUM

RELATIVE_ERROR = 0.02
SMALLEST, LARGEST = 1e-3, 10.0

_GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GROWTH = np.log(_GROWTH)
_FIRST = int(np.floor(np.log(SMALLEST) / _LOG_GROWTH))  # the smallest positive bucket's index
_NUM_POSITIVE = int(np.ceil(np.log(LARGEST) / _LOG_GROWTH)) - _FIRST

# Upper edges of the positive buckets; the negative ones mirror them, with one for 0 between.
_UPPER = _GROWTH ** (_FIRST + 1.0 + np.arange(_NUM_POSITIVE))
FLOAT_EDGES = np.concatenate([-_UPPER[::-1], [-(_GROWTH**_FIRST), _GROWTH**_FIRST], _UPPER])
BYTE_EDGES = MIN_VALUE - QUANTUM / 2 + QUANTUM * np.arange(257)

# What a bucket's values count as: off by the same share of either end; 0 and bytes: the middle.
_POSITIVE_VALUES = 2 * _UPPER / (_GROWTH + 1)
FLOAT_VALUES = np.concatenate([-_POSITIVE_VALUES[::-1], [0.0], _POSITIVE_VALUES])
BYTE_VALUES = np.arange(256) * QUANTUM + QUANTISED_ZERO

# Dimensions counted at once: so few that their counts stay in the CPU's cache.
_DIMENSIONS = 64


@dataclass
class Sketch:
    """Counts of the values of each dimension.

    Attributes:
        counts: int64 [size, buckets].
        edges: The buckets' edges, float64 [buckets + 1], growing.
        values: What a bucket's values count as, float64 [buckets].
    """

    counts: np.ndarray
    edges: np.ndarray
    values: np.ndarray

    @classmethod
    def of_floats(cls, size: int) -> "Sketch":
        """An empty sketch of float vectors of that size."""
        return cls(np.zeros((size, len(FLOAT_VALUES)), np.int64), FLOAT_EDGES, FLOAT_VALUES)

    @classmethod
    def of_bytes(cls, size: int) -> "Sketch":
        """An empty sketch of quantised frames of that size."""
        return cls(np.zeros((size, 256), np.int64), BYTE_EDGES, BYTE_VALUES)

    def add_vectors(self, vectors: np.ndarray) -> None:
        """Counts float32 [vectors, size]."""
        self._count(float_buckets(vectors))

    def add_frames(self, frames: np.ndarray) -> None:
        """Counts uint8 [frames, size]."""
        self._count(frames)

    def merge(self, other: "Sketch") -> None:
        self.counts = self.counts + other.counts

    def of_all_dimensions(self) -> "Sketch":
        """The sketch, of size 1, of the values of all dimensions together."""
        return Sketch(self.counts.sum(axis=0, keepdims=True), self.edges, self.values)

    def quantile(self, share: float) -> np.ndarray:
        """The value that `share` of the values do not exceed, float64 [size]; NaN: no values."""
        cumulative = self.counts.cumsum(axis=1)
        total = cumulative[:, -1]
        rank = share * (total - 1)
        bucket = (cumulative <= rank[:, None]).sum(axis=1)
        return np.where(total > 0, self.values[np.minimum(bucket, len(self.values) - 1)], np.nan)

    def histogram(self, edges: np.ndarray) -> np.ndarray:
        """How many values of all dimensions lie between `edges`, float64 [bins].

        The values of a bucket are taken to be spread evenly over it.
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
    """The bucket of each value of a float32 array, int16."""
    index = np.abs(values)
    np.maximum(index, np.float32(SMALLEST / 2), out=index)  # in place: large arrays leave the cache
    np.log(index, out=index)
    index *= np.float32(1 / _LOG_GROWTH)
    np.ceil(index, out=index)
    index -= _FIRST
    np.clip(index, 0, _NUM_POSITIVE, out=index)  # 0: counts as 0
    np.copysign(index, values, out=index)
    index += _NUM_POSITIVE
    return index.astype(np.int16)
