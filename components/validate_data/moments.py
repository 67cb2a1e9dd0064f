"""Count, mean, deviation and extremes of every dimension of a feature."""

from dataclasses import dataclass

import numpy as np

from trainer.data.records import QUANTISED_ZERO, QUANTUM

# Frames added up at once. The sum of the squares of so many bytes is exact in float32
# (255 * 255 ** 2 < 2 ** 24), and the number of zeros among them in uint8.
_BLOCK = 255

# Bytes a row, at least: shorter frames are added up several a row, since each row costs a call.
_WIDTH = 1024


@dataclass
class Moments:
    """Of vectors or frames of a feature, a number a dimension. Frames count de-quantised.

    Attributes:
        count: Vectors or frames.
        mean, min, max: float64 [size].
        m2: Sum of squared differences from the mean, float64 [size].
        zeros: How often a value, or a frame's byte, was 0; int64 [size].
    """

    count: int
    mean: np.ndarray
    m2: np.ndarray
    min: np.ndarray
    max: np.ndarray
    zeros: np.ndarray

    @classmethod
    def empty(cls, size: int) -> "Moments":
        """Of nothing."""
        zeros = np.zeros(size)
        return cls(0, zeros, zeros, zeros + np.inf, zeros - np.inf, zeros=np.zeros(size, np.int64))

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of the population, float64 [size]."""
        return np.sqrt(self.m2 / max(self.count, 1))

    def merge(self, other: "Moments") -> None:
        """Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm"."""
        count = self.count + other.count
        if not count:
            return
        difference = other.mean - self.mean
        self.mean = self.mean + difference * (other.count / count)
        self.m2 = self.m2 + other.m2 + difference**2 * (self.count * other.count / count)
        self.min = np.minimum(self.min, other.min)
        self.max = np.maximum(self.max, other.max)
        self.zeros = self.zeros + other.zeros
        self.count = count


def of_vectors(vectors: np.ndarray) -> Moments:
    """Of float32 [vectors, size], at least one."""
    values = vectors.astype(np.float64)
    mean = values.mean(axis=0)
    values -= mean
    return Moments(
        count=len(vectors),
        mean=mean,
        m2=np.einsum("ij,ij->j", values, values),
        min=vectors.min(axis=0).astype(np.float64),
        max=vectors.max(axis=0).astype(np.float64),
        zeros=(vectors == 0).sum(axis=0),
    )


def of_frames(frames: np.ndarray) -> Moments:
    """Of quantised uint8 [frames, size], at least one."""
    count, size = frames.shape
    abreast = max(_WIDTH // size, 1)
    whole = count - count % abreast
    wide, rest = frames[:whole].reshape(-1, abreast * size), frames[whole:]
    total, squares, zeros = _sums(wide).reshape(3, abreast, size).sum(axis=1) + _sums(rest)
    return Moments(
        count=count,
        mean=_dequantise(total / count),
        m2=(squares - total**2 / count) * QUANTUM**2,
        min=_dequantise(frames.min(axis=0)),
        max=_dequantise(frames.max(axis=0)),
        zeros=zeros.astype(np.int64),
    )


def _sums(frames: np.ndarray) -> np.ndarray:
    """Sums of uint8 [frames, size], of their squares, and number of zeros; float64 [3, size]."""
    sums = np.zeros((3, frames.shape[1]))
    for start in range(0, len(frames), _BLOCK):
        block = frames[start : start + _BLOCK]
        floats = block.astype(np.float32)
        sums[0] += np.einsum("ij->j", floats)
        sums[1] += np.einsum("ij,ij->j", floats, floats)
        sums[2] += (block == 0).view(np.uint8).sum(axis=0, dtype=np.uint8)
    return sums


def _dequantise(values: np.ndarray) -> np.ndarray:
    return values * QUANTUM + QUANTISED_ZERO
