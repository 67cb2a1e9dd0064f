"""Recalibration of predictions: the last layer of a model trained with --calibration_fraction.

GAP ranks the predictions of all videos in one list, so it needs probabilities that compare across
classes and videos. Most models underestimate rare classes, and all of a difficult video's classes.
"""

import numpy as np
import tensorflow as tf

SMALLEST = 1e-5  # probabilities below are raised to it before logarithms
NUM_TERMS = 9


class Recalibration(tf.Module):
    """Logistic regression of a label on its predicted probability p, the class and the video.

    The terms are log p, p, p^2, log n, log p * log n, log q, log p * log q, the sum of the video's
    probabilities, and 1; n is the number of training videos of the class plus 1, and q the video's
    highest probability.

    Attributes:
        coefficients: [NUM_TERMS] float32, by term.
        log_counts: [num_classes] float32, log n.
        fitted_step: step that the coefficients were fitted after; -1 if they were not, in which
            case probabilities stay as they are.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.coefficients = tf.Variable(tf.zeros([NUM_TERMS]), trainable=False)
        self.log_counts = tf.Variable(tf.zeros([num_classes]), trainable=False)
        self.fitted_step = tf.Variable(-1, dtype=tf.int64, trainable=False)

    def __call__(self, probabilities: tf.Tensor) -> tf.Tensor:
        """Recalibrated probabilities, [batch, num_classes] float32."""
        if_fitted = tf.sigmoid(tf.add_n(_weighted(self, probabilities)))
        return tf.where(self.fitted_step < 0, probabilities, if_fitted)


def terms(probabilities, log_counts) -> list:
    """The terms of `Recalibration`, each [batch, num_classes] or broadcast to it."""
    log_p = tf.math.log(tf.maximum(probabilities, SMALLEST))
    log_q = tf.reduce_max(log_p, axis=1, keepdims=True)
    total = tf.reduce_sum(probabilities, axis=1, keepdims=True)
    interactions = [log_counts[None], log_p * log_counts, log_q, log_p * log_q]
    squares = [log_p, probabilities, probabilities**2]
    return [*squares, *interactions, total, tf.ones([1, 1])]


def _weighted(layer, probabilities):
    values = terms(probabilities, layer.log_counts)
    weights = tf.unstack(layer.coefficients)
    zeros = tf.zeros_like(probabilities)
    return [weight * value + zeros for weight, value in zip(weights, values, strict=True)]


def fit(values: np.ndarray, hits: np.ndarray, l2: float = 1e-3, num_iterations: int = 20):
    """Fit a logistic regression by Newton's method.

    Args:
        values: [n, terms] float64, the last term being 1.
        hits: [n] bool.
        l2: penalty of the squared coefficients of the standardized terms.
        num_iterations: number of Newton steps.

    Returns:
        [terms] float64, the coefficients.
    """
    mean, std = values.mean(axis=0), values.std(axis=0) + 1e-9
    mean[-1], std[-1] = 0, 1
    x = (values - mean) / std
    weights = np.zeros(x.shape[1])
    for _ in range(num_iterations):
        p = 1 / (1 + np.exp(-(x @ weights)))
        gradient = x.T @ (p - hits) + l2 * weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x + l2 * np.eye(len(weights))
        weights -= np.linalg.solve(hessian, gradient)
    weights /= std
    weights[-1] -= (weights[:-1] * mean[:-1]).sum()
    return weights
