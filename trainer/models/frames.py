"""Quantized frames of videos as float32 vectors.

Arguments:
    features: [batch, frames, width] uint8, quantized as in trainer/data/records.py; or a tuple of
        its parts, [batch, frames, size] each, one per feature.
    num_frames: [batch] int32, number of frames of each video; frames after it are padding.
    training: whether the model is being trained.
"""

import tensorflow as tf

from trainer.models import kernels


def parts(features) -> tuple:
    """Parts of the features, [batch, frames, size] uint8 each."""
    return features if isinstance(features, tuple) else (features,)


def mask(features, num_frames) -> tf.Tensor:
    """[batch, frames] float32: 1 for a frame of the video, 0 for padding."""
    return tf.sequence_mask(num_frames, tf.shape(parts(features)[0])[1], tf.float32)


def unit_frames(features, num_frames, training) -> tf.Tensor:
    """[batch, frames, width] float32: dequantized frames scaled to length 1; padding is 0."""
    features = tf.concat(parts(features), axis=2)
    scales = _scales(features, num_frames, training)
    if kernels.use(training):
        return kernels.dequantize_and_scale(features, scales)
    return kernels.dequantize(features) * scales


def sum_of_unit_frames(features, num_frames, training) -> tf.Tensor:
    """[batch, width] float32: sum of `unit_frames` over the frames."""
    if not kernels.use(training):
        return tf.reduce_sum(unit_frames(features, num_frames, training), axis=1)
    scales = _scales(features, num_frames, training)
    sums = [kernels.weighted_frame_sum(part, scales) for part in parts(features)]
    return tf.concat(sums, axis=1)


def _scales(features, num_frames, training):
    """[batch, frames, 1] float32: 1 / length of each frame, 0 for padding."""
    squares = tf.add_n([_squared_norms(part, training) for part in parts(features)])
    scales = tf.math.rsqrt(tf.maximum(squares, 1e-12)) * mask(features, num_frames)
    return scales[..., None]


def _squared_norms(part, training):
    if kernels.use(training):
        return kernels.squared_norms(part)
    return tf.reduce_sum(tf.square(kernels.dequantize(part)), axis=-1)
