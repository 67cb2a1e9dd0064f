"""What a model is trained to make small. Definitions: losses.py of google/youtube-8m.

Every loss takes
    predictions: [batch, num_classes] float32 in [0, 1], the model's probabilities;
    labels: [batch, n] int32, a row's distinct true classes, then -1;
and returns [batch] float32, a video's loss summed over the classes.
"""

import tensorflow as tf

from trainer.fusion import fused

EPSILON = 1e-5  # the original's, inside both logarithms


@tf.custom_gradient
def cross_entropy(predictions, labels):
    """-sum(y log(p + e) + (1 - y) log(1 - p + e)), e being EPSILON.

    Its gradient is written out because it needs no logarithm. A step that asks for the gradient
    alone never computes the loss, which takes longer.
    """

    def gradient(upstream):
        return _cross_entropy_gradient(predictions, labels, upstream), None

    all_absent = -tf.reduce_sum(tf.math.log(1 - predictions + EPSILON), axis=1)
    p = _at_labels(predictions, labels)
    present = tf.math.log(1 - p + EPSILON) - tf.math.log(p + EPSILON)
    return all_absent + tf.reduce_sum(_true(labels) * present, axis=1), gradient


@fused
def _cross_entropy_gradient(predictions, labels, upstream):
    """[batch, num_classes]: 1 / (1 - p + e), and at the labels -1 / (p + e); times upstream."""
    batch, num_classes = predictions.shape
    p = _at_labels(predictions, labels)
    # A place where there is no label lies outside, and is left out.
    classes = tf.where(labels < 0, num_classes, labels)
    videos = tf.broadcast_to(tf.range(batch)[:, None], labels.shape)
    absent = upstream[:, None] / (1 - predictions + EPSILON)
    present = -upstream[:, None] / (p + EPSILON)
    return tf.tensor_scatter_nd_update(absent, tf.stack([videos, classes], axis=2), present)


def hinge(predictions, labels):
    """sum(max(0, 1 - (2y - 1) p)): a margin of 1 on the probabilities themselves."""
    p = _at_labels(predictions, labels)
    all_absent = tf.reduce_sum(1 + predictions, axis=1)
    return all_absent - tf.reduce_sum(_true(labels) * 2 * p, axis=1)


def softmax(predictions, labels):
    """-sum(y log softmax(p)) / max(sum(y), 1e-7): 0 for a video without labels."""
    log_p = _at_labels(tf.nn.log_softmax(predictions), labels)
    true = _true(labels)
    num_labels = tf.maximum(tf.reduce_sum(true, axis=1), 1e-7)
    return -tf.reduce_sum(true * log_p, axis=1) / num_labels


def _true(labels):
    return tf.cast(labels >= 0, tf.float32)


def _at_labels(values, labels):
    """[batch, n]: the values at the labels, those of class 0 where there is no label."""
    return tf.gather(values, tf.maximum(labels, 0), axis=1, batch_dims=1)


# Every loss that --label_loss can name; config.py lists the names.
LOSSES = {
    "CrossEntropyLoss": cross_entropy,
    "HingeLoss": hinge,
    "SoftmaxLoss": softmax,
}
