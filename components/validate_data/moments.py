"""Count, mean, variance, min and max of each dimension of a feature.

Libraries for mergeable statistics take one value per call, or convert uint8 frames to float64; this
module sums whole batches of uint8 frames in float32.
"""

from dataclasses import dataclass

import numpy as np

from trainer.data.records import QUANTISED_ZERO, QUANTUM

# Frames summed at once. The sum of squares of this many bytes is exact in float32
# (255 * 255 ** 2 < 2 ** 24), and their number of zeros fits in uint8.
_BLOCK = 255

# Shorter frames are joined to rows of at least this many bytes, because each row costs a call.
_MIN_ROW_BYTES = 1024


@dataclass
class Moments:
    """Moments of the vectors, or de-quantized frames, of a feature.

    Attributes:
        count: Number of vectors or frames.
        mean, min, max: float64 [size].
        m2: Sum of squared differences from the mean, float64 [size].
        zeros: Number of values, or bytes of frames, that are 0, int64 [size].
    """

    count: int
    mean: np.ndarray
    m2: np.ndarray
    min: np.ndarray
    max: np.ndarray
    zeros: np.ndarray

    @classmethod
    def empty(cls, size: int) -> "Moments":
        """Return the moments of no vectors."""
        zeros = np.zeros(size)
        return cls(0, zeros, zeros, zeros + np.inf, zeros - np.inf, zeros=np.zeros(size, np.int64))

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation, float64 [size]."""
        return np.sqrt(self.m2 / max(self.count, 1))

    def merge(self, other: "Moments") -> None:
        """Add other moments: Chan, Golub and LeVeque 1979, "Updating formulae"."""
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
    """Return the moments of one or more vectors, float32 [num_vectors, size]."""
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
    """Return the moments of one or more quantized frames, uint8 [num_frames, size]."""
    count, size = frames.shape
    per_row = max(_MIN_ROW_BYTES // size, 1)
    whole = count - count % per_row
    wide, rest = frames[:whole].reshape(-1, per_row * size), frames[whole:]
    total, squares, zeros = _sums(wide).reshape(3, per_row, size).sum(axis=1) + _sums(rest)
    return Moments(
        count=count,
        mean=_dequantize(total / count),
        m2=(squares - total**2 / count) * QUANTUM**2,
        min=_dequantize(frames.min(axis=0)),
        max=_dequantize(frames.max(axis=0)),
        zeros=zeros.astype(np.int64),
    )


def _sums(frames: np.ndarray) -> np.ndarray:
    """Sum, sum of squares and number of zeros of uint8 [num_frames, size]; float64 [3, size]."""
    sums = np.zeros((3, frames.shape[1]))
    for start in range(0, len(frames), _BLOCK):
        block = frames[start : start + _BLOCK]
        floats = block.astype(np.float32)
        sums[0] += np.einsum("ij->j", floats)
        sums[1] += np.einsum("ij,ij->j", floats, floats)
        sums[2] += (block == 0).view(np.uint8).sum(axis=0, dtype=np.uint8)
    return sums


def _dequantize(values: np.ndarray) -> np.ndarray:
    return values * QUANTUM + QUANTISED_ZERO
