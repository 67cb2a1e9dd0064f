"""From the bytes of a video's frames to vectors, in training in few passes over memory.

Arguments:
    features: [batch, frames, width] uint8, quantised as records.py says.
    num_frames: [batch] int32, how many of a video's frames are real.
    training: whether speed counts; what is exported must run where there is no XLA.
"""

import math

import tensorflow as tf

from trainer.fusion import fused
from trainer.records import QUANTISED_ZERO, QUANTUM

# XLA is fast at sums over an inner axis, if what it goes through for each lies in the processor's
# nearest cache, and if the last axis is as long as a few of the processor's vectors.
SUMMED_FRAMES = 10
LANES = 64


def real(features, num_frames):
    """[batch, frames] float32: 1 for a frame of the video, 0 after its end."""
    return tf.sequence_mask(num_frames, tf.shape(features)[1], tf.float32)


def vectors(features, num_frames, training):
    """[batch, frames, width] float32: dequantised, each frame of length 1, zeros after the end."""
    scales = _scales(features, num_frames, training)[..., None]
    return (_fused_product if training else _product)(features, scales)


def total(features, num_frames, training):
    """[batch, width] float32: the sum of a video's `vectors`."""
    scales = _scales(features, num_frames, training)[..., None]
    if not training:
        return tf.reduce_sum(_product(features, scales), axis=1)
    num_summed = math.gcd(features.shape[1] or 1, SUMMED_FRAMES)
    parts = _sums_of_products(
        tf.reshape(features, [-1, num_summed, features.shape[2]]),
        tf.reshape(scales, [-1, num_summed, 1]),
    )
    num_parts = tf.shape(features)[1] // num_summed
    return tf.reduce_sum(tf.reshape(parts, [-1, num_parts, features.shape[2]]), axis=1)


def _scales(features, num_frames, training):
    """[batch, frames] float32: what makes a frame's length 1, or removes it."""
    if training:
        lanes = math.gcd(features.shape[2], LANES)
        parts = _sums_of_squares(tf.reshape(features, [-1, features.shape[2] // lanes, lanes]))
        squares = tf.reshape(tf.reduce_sum(parts, axis=-1), tf.shape(features)[:2])
    else:
        squares = tf.reduce_sum(tf.square(_values(features)), axis=-1)
    return tf.math.rsqrt(tf.maximum(squares, 1e-12)) * real(features, num_frames)


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
