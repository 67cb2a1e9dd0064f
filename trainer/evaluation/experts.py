"""Looks into mixtures of experts: which of its experts a class trusts, and on which videos.

The gate of a class with M experts spreads its trust over M + 1: the last, the dummy, always says
no (moe.Moe). A video goes to the expert with the largest weight, or in equal parts
to those that have it.
"""

import math
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from trainer.models import registry
from trainer.models.moe import Moe

# Of the trust: an expert that has this much is as good as alone.
ALMOST_ALL = 0.9
TINY = 1e-30  # has a logarithm


@dataclass(frozen=True)
class Usage:
    """How classes use their experts on some videos; NaN where a class has none of them.

    Attributes:
        num_videos: [num_classes] int64.
        weights: [num_classes, M + 1] float64, the experts' mean weights; a class' sum to 1.
        shares: [num_classes, M + 1] float64, of the videos, those that go to each expert.
        entropy: [num_classes] float64, the mean entropy of a video's weights, as a share of the
            largest there is: 0 where one expert has all the trust, 1 where all have the same.
        doubt: [num_classes] float64, in nats, the part of the mean entropy that is between the
            experts, whatever the trust in the dummy.
    """

    num_videos: np.ndarray
    weights: np.ndarray
    shares: np.ndarray
    entropy: np.ndarray
    doubt: np.ndarray


@dataclass(frozen=True)
class Experts:
    """How classes use their experts.

    Attributes:
        on_all: on all videos.
        on_positives: each class on the videos that have it.
    """

    on_all: Usage
    on_positives: Usage

    @property
    def collapsed(self) -> np.ndarray:
        """[num_classes] bool: on the class' own videos the dummy has almost all the trust.

        Such a class is hardly ever predicted.
        """
        return self.on_positives.weights[:, -1] >= ALMOST_ALL

    @property
    def single(self) -> np.ndarray:
        """[num_classes] bool: one expert has almost all the trust that the dummy leaves.

        On the class' own videos, and of classes that have not collapsed. Such a class is no more
        than a logistic unit, whose answer the gate may weaken.
        """
        weights = self.on_positives.weights[:, :-1]
        return ~self.collapsed & (weights.max(axis=1) >= ALMOST_ALL * weights.sum(axis=1))

    @property
    def specialisation(self) -> np.ndarray:
        """[num_classes] float64: how surely the class' own videos go to different experts.

        The information that a video has on which expert is chosen, the dummy aside, as a share of
        the most there can be. 0: one expert does it all, or all videos get the same mixture. 1:
        each expert gets as many videos, and the gate has no doubt. NaN where no video has the
        class.
        """
        weights = self.on_positives.weights[:, :-1]
        trust = weights.sum(axis=1, keepdims=True)
        spread = -(weights * np.log(np.maximum(weights, TINY) / np.maximum(trust, TINY))).sum(
            axis=1
        )
        return np.maximum(spread - self.on_positives.doubt, 0) / math.log(max(weights.shape[1], 2))


class ExpertSums:
    """Sums over videos: empty, `add` batches, `merge` other sums, read the results.

    Args:
        num_classes: classes.
        num_experts: experts a class, with the dummy: M + 1.
    """

    def __init__(self, num_classes: int, num_experts: int):
        # On all videos and on each class' own: of the experts' weights, of how many videos went to
        # each, of the entropy, and of the doubt.
        self._sums = np.zeros([2, num_classes, 2 * num_experts + 2])
        self._num_experts = num_experts
        self._num_videos = 0
        self._num_positives = np.zeros(num_classes, np.int64)

    def add(self, trust: tf.Tensor, labels: tf.Tensor):
        """Adds a batch.

        Args:
            trust: [batch, M + 1, num_classes] float32, as `predict` returns it.
            labels: [batch, n] int32, a video's distinct true classes, then -1.
        """
        labels = tf.convert_to_tensor(labels)
        self._sums += _sums(trust, labels).numpy()
        self._num_videos += len(labels)
        true = labels.numpy()[labels.numpy() >= 0]
        self._num_positives += np.bincount(true, minlength=len(self._num_positives))

    def merge(self, other: "ExpertSums"):
        """Adds the videos of `other`, of as many classes and experts."""
        self._sums += other._sums
        self._num_videos += other._num_videos
        self._num_positives += other._num_positives

    def results(self) -> Experts:
        """The means over the videos that were added."""
        all_videos = np.full_like(self._num_positives, self._num_videos)
        return Experts(
            self._usage(self._sums[0], all_videos), self._usage(self._sums[1], self._num_positives)
        )

    def _usage(self, sums, num_videos) -> Usage:
        means = sums / np.where(num_videos > 0, num_videos, np.nan)[:, None]
        weights, shares = means[:, : self._num_experts], means[:, self._num_experts : -2]
        return Usage(num_videos, weights, shares, entropy=means[:, -2], doubt=means[:, -1])


@tf.function(reduce_retracing=True)
def _sums(trust, labels):
    """What ExpertSums keeps, of one batch: [2, num_classes, 2 * num_experts + 2] float32."""
    num_videos, num_experts, num_classes = tf.unstack(tf.shape(trust))
    goes_to = tf.cast(trust == tf.reduce_max(trust, axis=1, keepdims=True), tf.float32)
    goes_to /= tf.reduce_sum(goes_to, axis=1, keepdims=True)
    terms = -tf.math.xlogy(trust, trust)
    entropy = tf.reduce_sum(terms, axis=1, keepdims=True)
    entropy /= tf.math.log(tf.cast(num_experts, tf.float32))
    in_experts = tf.reduce_sum(trust[:, :-1], axis=1, keepdims=True)
    doubt = tf.reduce_sum(terms[:, :-1], axis=1, keepdims=True)
    doubt += tf.math.xlogy(in_experts, in_experts)
    values = [trust, goes_to, entropy, doubt]  # each [batch, ?, num_classes]

    pairs = tf.cast(tf.where(labels >= 0), tf.int32)
    pairs = tf.stack([pairs[:, 0], tf.gather_nd(labels, pairs)], axis=1)  # video, class
    ones = tf.ones(tf.shape(pairs)[:1])
    present = tf.scatter_nd(pairs, ones, [num_videos, num_classes])[:, None]
    on_all = tf.concat([tf.reduce_sum(value, axis=0) for value in values], axis=0)
    on_positives = tf.concat([tf.reduce_sum(value * present, axis=0) for value in values], axis=0)
    return tf.transpose(tf.stack([on_all, on_positives]), [0, 2, 1])


def has_experts(model: keras.Model) -> bool:
    """Whether a model of `models` ends in a mixture of experts."""
    return isinstance(getattr(model, "classifier", None), Moe)


def predict(model: keras.Model, inputs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """As models.predict, and what the experts' weights were, from reading.model_inputs of a batch.

    Args:
        model: one that `has_experts`.

    Returns:
        Probabilities [batch, num_classes] and weights [batch, M + 1, num_classes], float32.
    """
    outputs = registry.call(model, inputs, training=False)
    gate_probabilities, _ = model.classifier.mixture(outputs)
    return registry.probabilities(model, outputs), gate_probabilities
