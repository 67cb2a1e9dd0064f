"""From the bytes of a video's frames to vectors, in training in few passes over memory.

Arguments:
    features: [batch, frames, width] uint8, quantised as records.py says; or a tuple of its parts
        [batch, frames, size].
    num_frames: [batch] int32, how many of a video's frames are real.
    training: whether speed counts; what is exported must run where there is no XLA.
"""

import math

import tensorflow as tf

from trainer.data.records import QUANTISED_ZERO, QUANTUM
from trainer.models.fusion import fused

# XLA is fast at sums over an inner axis, if what it goes through for each lies in the processor's
# nearest cache, and if the last axis is as long as a few of the processor's vectors.
SUMMED_FRAMES = 20
LANES = 32


def parts(features) -> tuple:
    """[batch, frames, size] uint8 each."""
    return features if isinstance(features, tuple) else (features,)


def real(features, num_frames):
    """[batch, frames] float32: 1 for a frame of the video, 0 after its end."""
    return tf.sequence_mask(num_frames, tf.shape(parts(features)[0])[1], tf.float32)


def vectors(features, num_frames, training):
    """[batch, frames, width] float32: dequantised, each frame of length 1, zeros after the end."""
    features = tf.concat(parts(features), axis=2)
    scales = _scales(features, num_frames, training)
    return (_fused_product if training else _product)(features, scales)


def total(features, num_frames, training):
    """[batch, width] float32: the sum of a video's `vectors`."""
    if not training:
        return tf.reduce_sum(vectors(features, num_frames, training), axis=1)
    scales = _scales(features, num_frames, training)
    return tf.concat([_sum_of_frames(part, scales) for part in parts(features)], axis=1)


def _scales(features, num_frames, training):
    """[batch, frames, 1] float32: what makes a frame's length 1, or removes it."""
    of_parts = [_squares(part, training) for part in parts(features)]
    scales = tf.math.rsqrt(tf.maximum(tf.add_n(of_parts), 1e-12)) * real(features, num_frames)
    return scales[..., None]


def _squares(part, training):
    """[batch, frames] float32: the sum of the squares of each frame's values."""
    if not training:
        return tf.reduce_sum(tf.square(_values(part)), axis=-1)
    lanes = math.gcd(part.shape[2], LANES)
    squares = _sums_of_squares(tf.reshape(part, [-1, part.shape[2] // lanes, lanes]))
    return tf.reshape(tf.reduce_sum(squares, axis=-1), tf.shape(part)[:2])


def _sum_of_frames(part, scales):
    """[batch, size] float32: the sum of a video's scaled frames."""
    num_summed = math.gcd(part.shape[1] or 1, SUMMED_FRAMES)
    sums = _sums_of_products(
        tf.reshape(part, [-1, num_summed, part.shape[2]]),
        tf.reshape(scales, [-1, num_summed, 1]),
    )
    num_sums = tf.shape(part)[1] // num_summed
    return tf.reduce_sum(tf.reshape(sums, [-1, num_sums, part.shape[2]]), axis=1)


def _values(features):
    return tf.cast(features, tf.float32) * QUANTUM + QUANTISED_ZERO


def _product(features, scales):
    return _values(features) * scales


_fused_product = fused(_product)


@fused
def _sums_of_products(features, scales):
    return tf.reduce_sum(_product(features, scales), axis=1)


@fused
def _sums_of_squares(features):
    return tf.reduce_sum(tf.square(_values(features)), axis=1)
