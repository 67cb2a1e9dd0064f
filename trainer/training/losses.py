"""Label losses. Definitions: losses.py of google/youtube-8m.

Arguments:
    labels: [batch, num_classes] float32, multi-hot labels.
    predictions: [batch, num_classes] float32, probabilities.

Returns:
    [batch] float32, each video's loss, summed over the classes.
"""

import pkgutil
from collections.abc import Callable

import tensorflow as tf

from trainer.training import registry

EPSILON = 1e-5  # the original's, inside both logarithms


def get(name: str) -> Callable:
    """Return the loss called `name` in registry.LOSSES."""
    return pkgutil.resolve_name(registry.LOSSES[name])


def multi_hot(labels: tf.Tensor, num_classes: int, values: tf.Tensor | None = None) -> tf.Tensor:
    """Multi-hot labels, [batch, num_classes] float32.

    Args:
        labels: [batch, n] int32, the class ids of each video, padded with -1.
        num_classes: number of classes.
        values: [batch, n] float32, of soft labels; by default 1 each.
    """
    values = tf.ones_like(labels, tf.float32) if values is None else values
    videos = tf.broadcast_to(tf.range(tf.shape(labels)[0])[:, None], tf.shape(labels))
    classes = tf.where(labels < 0, num_classes, labels)  # padding goes to an additional column
    result = tf.tensor_scatter_nd_update(
        tf.zeros([tf.shape(labels)[0], num_classes + 1]),
        tf.stack([videos, classes], axis=2),
        values,
    )
    return result[:, :num_classes]


def cross_entropy(labels, predictions):
    """-sum(y log(p + EPSILON) + (1 - y) log(1 - p + EPSILON))."""
    probability_of_label = tf.where(labels > 0, predictions, 1 - predictions)
    return -tf.reduce_sum(tf.math.log(probability_of_label + EPSILON), axis=1)


def soft_cross_entropy(labels, predictions):
    """`cross_entropy` for labels that may lie between 0 and 1."""
    positive = labels * tf.math.log(predictions + EPSILON)
    negative = (1 - labels) * tf.math.log(1 - predictions + EPSILON)
    return -tf.reduce_sum(positive + negative, axis=1)


def hinge(labels, predictions):
    """sum(max(0, 1 - (2y - 1) p)); the maximum is never 0, as p is in [0, 1]."""
    return tf.reduce_sum(1 - (2 * labels - 1) * predictions, axis=1)


def softmax(labels, predictions):
    """-sum(y log softmax(p)) / max(sum(y), 1e-7): 0 for a video without labels."""
    weights = labels / tf.maximum(tf.reduce_sum(labels, axis=1, keepdims=True), 1e-7)
    return -tf.reduce_sum(weights * tf.nn.log_softmax(predictions), axis=1)
