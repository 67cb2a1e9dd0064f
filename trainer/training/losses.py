"""What a model is trained to make small. Definitions: losses.py of google/youtube-8m.

Arguments:
    predictions: [batch, num_classes] float32 in [0, 1], the model's probabilities.
    present: [batch, num_classes] bool, whether a class is a label of the video, of `dense`.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

EPSILON = 1e-5  # the original's, inside both logarithms


class Loss(NamedTuple):
    """A loss, and its gradient, which a step computes alone: for some, the loss takes longer.

    values: of predictions and present, [batch] float32: a video's loss summed over the classes.
    slopes: of predictions and present, how a video's loss changes with each prediction:
        [batch, num_classes] float32.
    """

    values: Callable
    slopes: Callable


def dense(labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    """[batch, num_classes] bool: whether a class is a label of the video.

    Args:
        labels: [batch, n] int32, a row's classes, then -1.
    """
    videos = tf.broadcast_to(tf.range(tf.shape(labels)[0])[:, None], tf.shape(labels))
    # A column more, for where there is no label.
    classes = tf.where(labels < 0, num_classes, labels)
    present = tf.tensor_scatter_nd_update(
        tf.zeros([tf.shape(labels)[0], num_classes + 1], tf.bool),
        tf.stack([videos, classes], axis=2),
        tf.ones_like(labels, tf.bool),
    )
    return present[:, :num_classes]


def cross_entropy(predictions, present):
    """-sum(y log(p + e) + (1 - y) log(1 - p + e)), e being EPSILON."""
    of_truth = tf.where(present, predictions, 1 - predictions)
    return -tf.reduce_sum(tf.math.log(of_truth + EPSILON), axis=1)


def _cross_entropy_slopes(predictions, present):
    return 1 / tf.where(present, -(predictions + EPSILON), 1 - predictions + EPSILON)


def hinge(predictions, present):
    """sum(max(0, 1 - (2y - 1) p)): a margin of 1 on the probabilities themselves."""
    return tf.reduce_sum(1 + _hinge_slopes(predictions, present) * predictions, axis=1)


def _hinge_slopes(predictions, present):
    return tf.where(present, -1.0, 1.0)


def softmax(predictions, present):
    """-sum(y log softmax(p)) / max(sum(y), 1e-7): 0 for a video without labels."""
    return -tf.reduce_sum(_shares(present) * tf.nn.log_softmax(predictions), axis=1)


def _softmax_slopes(predictions, present):
    shares = _shares(present)
    some = tf.reduce_sum(shares, axis=1, keepdims=True)  # 0 without labels, else 1
    return some * tf.nn.softmax(predictions) - shares


def _shares(present):
    true = tf.cast(present, tf.float32)
    return true / tf.maximum(tf.reduce_sum(true, axis=1, keepdims=True), 1e-7)


# Every loss that --label_loss can name; config.py lists the names.
LOSSES = {
    "CrossEntropyLoss": Loss(cross_entropy, _cross_entropy_slopes),
    "HingeLoss": Loss(hinge, _hinge_slopes),
    "SoftmaxLoss": Loss(softmax, _softmax_slopes),
}
