"""What a model is trained to make small. Definitions: losses.py of google/youtube-8m.

Arguments:
    predictions: [batch, num_classes] float32 in [0, 1], the model's probabilities.
    labels: [batch, n] int32, a row's distinct true classes, then -1.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

EPSILON = 1e-5  # the original's, inside both logarithms


class Loss(NamedTuple):
    """A loss, and its gradient, which a step computes alone: for some, the loss takes longer.

    values: of predictions and labels, [batch] float32: a video's loss summed over the classes.
    slopes: of predictions and labels, how a video's loss changes with each prediction: by the class
        where it is no label, [batch, num_classes] or less, to broadcast; at the labels, [batch, n].
    """

    values: Callable
    slopes: Callable

    def gradient(self, predictions, labels, factor):
        """[batch, num_classes] float32: the gradient by the predictions, times `factor`.

        To be called in what is `fusion.fused`.

        Args:
            factor: [batch, num_classes] float32.
        """
        absent, present = self.slopes(predictions, labels)
        # A place where there is no label lies outside: XLA leaves it out, plain TensorFlow fails.
        classes = tf.where(labels < 0, predictions.shape[1], labels)
        videos = tf.broadcast_to(tf.range(predictions.shape[0])[:, None], labels.shape)
        return tf.tensor_scatter_nd_update(
            absent * factor,
            tf.stack([videos, classes], axis=2),
            present * _at_labels(factor, labels),
        )


def cross_entropy(predictions, labels):
    """-sum(y log(p + e) + (1 - y) log(1 - p + e)), e being EPSILON."""
    all_absent = -tf.reduce_sum(tf.math.log(1 - predictions + EPSILON), axis=1)
    p = _at_labels(predictions, labels)
    present = tf.math.log(1 - p + EPSILON) - tf.math.log(p + EPSILON)
    return all_absent + tf.reduce_sum(_true(labels) * present, axis=1)


def _cross_entropy_slopes(predictions, labels):
    p = _at_labels(predictions, labels)
    return 1 / (1 - predictions + EPSILON), -1 / (p + EPSILON)


def hinge(predictions, labels):
    """sum(max(0, 1 - (2y - 1) p)): a margin of 1 on the probabilities themselves."""
    p = _at_labels(predictions, labels)
    all_absent = tf.reduce_sum(1 + predictions, axis=1)
    return all_absent - tf.reduce_sum(_true(labels) * 2 * p, axis=1)


def _hinge_slopes(predictions, labels):
    return 1.0, -tf.ones_like(labels, tf.float32)


def softmax(predictions, labels):
    """-sum(y log softmax(p)) / max(sum(y), 1e-7): 0 for a video without labels."""
    log_p = _at_labels(tf.nn.log_softmax(predictions), labels)
    return -tf.reduce_sum(_true(labels) * log_p, axis=1) / _num_labels(labels)


def _softmax_slopes(predictions, labels):
    num_labels = _num_labels(labels)[:, None]
    some = tf.reduce_sum(_true(labels), axis=1, keepdims=True) / num_labels  # 0 without labels
    absent = some * tf.nn.softmax(predictions)
    return absent, _at_labels(absent, labels) - 1 / num_labels


def _num_labels(labels):
    return tf.maximum(tf.reduce_sum(_true(labels), axis=1), 1e-7)


def _true(labels):
    return tf.cast(labels >= 0, tf.float32)


def _at_labels(values, labels):
    """[batch, n]: the values at the labels, those of class 0 where there is no label."""
    return tf.gather(values, tf.maximum(labels, 0), axis=1, batch_dims=1)


# Every loss that --label_loss can name; config.py lists the names.
LOSSES = {
    "CrossEntropyLoss": Loss(cross_entropy, _cross_entropy_slopes),
    "HingeLoss": Loss(hinge, _hinge_slopes),
    "SoftmaxLoss": Loss(softmax, _softmax_slopes),
}
