"""Analysis of mixtures of experts: which of its experts a class uses, and for which videos.

A class with M experts has M + 1 gate probabilities per video, which sum to 1. The last one is that
of the dummy expert, which always predicts 0. A video is assigned to the expert with the highest
gate probability, or in equal parts to those that share it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

# An expert with this share of the gate probability dominates the others.
DOMINANT = 0.9
TINY = 1e-30  # avoids log(0)


@dataclass(frozen=True)
class ExpertUsage:
    """How the classes use their experts on a set of videos; NaN for a class without videos.

    Attributes:
        num_videos: [num_classes] int64.
        gate_probabilities: [num_classes, M + 1] float64, mean over the videos.
        load: [num_classes, M + 1] float64, the fraction of the videos assigned to each expert.
        entropy: [num_classes] float64, the mean entropy of a video's gate probabilities relative
            to its maximum: 0 if one expert has probability 1, 1 if all are equally probable.
        expert_entropy: [num_classes] float64, in nats, the part of the mean entropy that is among
            the experts without the dummy: the entropy of their normalized gate probabilities,
            weighted by the sum of these probabilities.
    """

    num_videos: np.ndarray
    gate_probabilities: np.ndarray
    load: np.ndarray
    entropy: np.ndarray
    expert_entropy: np.ndarray


@dataclass(frozen=True)
class ExpertAnalysis:
    """How the classes of a mixture of experts use their experts.

    Attributes:
        all_videos: each class on all videos.
        positives: each class on the videos that have it as a label.
    """

    all_videos: ExpertUsage
    positives: ExpertUsage

    @property
    def collapsed(self) -> np.ndarray:
        """[num_classes] bool, whether the dummy expert dominates on the positives.

        Such a class is hardly ever predicted.
        """
        return self.positives.gate_probabilities[:, -1] >= DOMINANT

    @property
    def single_expert(self) -> np.ndarray:
        """[num_classes] bool, whether one expert dominates the others on the positives.

        The dummy expert is left out, and so are collapsed classes. Such a class is equivalent to
        logistic regression, scaled by the gate.
        """
        experts = self.positives.gate_probabilities[:, :-1]
        return ~self.collapsed & (experts.max(axis=1) >= DOMINANT * experts.sum(axis=1))

    @property
    def specialization(self) -> np.ndarray:
        """[num_classes] float64, how consistently the positives are assigned to different experts.

        The mutual information of video and expert, without the dummy, relative to its maximum.
        0: one expert is used, or all videos have the same gate probabilities. 1: each expert has
        probability 1 on an equal part of the videos. NaN for a class without positives.
        """
        experts = self.positives.gate_probabilities[:, :-1]
        total = np.maximum(experts.sum(axis=1, keepdims=True), TINY)
        marginal_entropy = -(experts * np.log(np.maximum(experts, TINY) / total)).sum(axis=1)
        mutual_information = np.maximum(marginal_entropy - self.positives.expert_entropy, 0)
        return mutual_information / math.log(max(experts.shape[1], 2))


class ExpertMetrics:
    """Accumulates an ExpertAnalysis, with the interface of a metric (see metrics.py).

    Args:
        num_classes: number of classes.
        num_experts: number of experts per class, including the dummy expert: M + 1.
    """

    def __init__(self, num_classes: int, num_experts: int):
        self._num_experts = num_experts
        # Sums over all videos and over the positives, in the order of `_batch_sums`.
        self._sums = np.zeros([2, num_classes, 2 * num_experts + 2])
        self._num_videos = 0
        self._num_positives = np.zeros(num_classes, np.int64)

    def add(self, gate_probabilities: tf.Tensor, labels: tf.Tensor):
        """Add the videos of a batch.

        Args:
            gate_probabilities: [batch, M + 1, num_classes] float32, the dummy expert last.
            labels: [batch, n] int32, the distinct class ids of each video, padded with -1.
        """
        labels = tf.convert_to_tensor(labels)
        self._sums += _batch_sums(gate_probabilities, labels).numpy()
        self._num_videos += len(labels)
        classes = labels.numpy()[labels.numpy() >= 0]
        self._num_positives += np.bincount(classes, minlength=len(self._num_positives))

    def merge(self, other: ExpertMetrics):
        """Add the videos of another instance with the same numbers of classes and experts."""
        self._sums += other._sums
        self._num_videos += other._num_videos
        self._num_positives += other._num_positives

    def state(self) -> dict[str, np.ndarray]:
        """The state, from which `of_state` restores the instance."""
        return {
            "sums": self._sums,
            "num_videos": np.array(self._num_videos),
            "num_positives": self._num_positives,
        }

    @classmethod
    def of_state(cls, state: dict[str, np.ndarray]) -> ExpertMetrics:
        """The instance with a `state`."""
        _, num_classes, width = state["sums"].shape
        result = cls(num_classes, (width - 2) // 2)
        result._sums = state["sums"]
        result._num_videos = int(state["num_videos"])
        result._num_positives = state["num_positives"]
        return result

    def result(self) -> ExpertAnalysis:
        """The analysis of all videos that were added."""
        num_videos = np.full_like(self._num_positives, self._num_videos)
        return ExpertAnalysis(
            self._usage(self._sums[0], num_videos), self._usage(self._sums[1], self._num_positives)
        )

    def _usage(self, sums: np.ndarray, num_videos: np.ndarray) -> ExpertUsage:
        means = sums / np.where(num_videos > 0, num_videos, np.nan)[:, None]
        return ExpertUsage(
            num_videos,
            gate_probabilities=means[:, : self._num_experts],
            load=means[:, self._num_experts : -2],
            entropy=means[:, -2],
            expert_entropy=means[:, -1],
        )


@tf.function(reduce_retracing=True)
def _batch_sums(gate_probabilities, labels):
    """Sums over the videos of a batch, and over the positives of each class.

    Returns:
        [2, num_classes, 2 * (M + 1) + 2] float32; the last axis holds the M + 1 gate probabilities
        and loads, the entropy and the expert entropy, as in `ExpertUsage`.
    """
    num_videos, num_experts, num_classes = tf.unstack(tf.shape(gate_probabilities))
    largest = tf.reduce_max(gate_probabilities, axis=1, keepdims=True)
    load = tf.cast(gate_probabilities == largest, tf.float32)
    load /= tf.reduce_sum(load, axis=1, keepdims=True)
    terms = -tf.math.xlogy(gate_probabilities, gate_probabilities)
    entropy = tf.reduce_sum(terms, axis=1, keepdims=True)
    entropy /= tf.math.log(tf.cast(num_experts, tf.float32))
    total = tf.reduce_sum(gate_probabilities[:, :-1], axis=1, keepdims=True)
    expert_entropy = tf.reduce_sum(terms[:, :-1], axis=1, keepdims=True)
    expert_entropy += tf.math.xlogy(total, total)
    # Each [batch, size, num_classes]. Not concatenated before they are summed: they are large.
    values = [gate_probabilities, load, entropy, expert_entropy]

    labelled = tf.cast(tf.where(labels >= 0), tf.int32)
    pairs = tf.stack([labelled[:, 0], tf.gather_nd(labels, labelled)], axis=1)  # video, class
    ones = tf.ones(tf.shape(pairs)[:1])
    multi_hot = tf.scatter_nd(pairs, ones, [num_videos, num_classes])[:, None]
    all_videos = tf.concat([tf.reduce_sum(value, axis=0) for value in values], axis=0)
    positives = tf.concat([tf.reduce_sum(value * multi_hot, axis=0) for value in values], axis=0)
    return tf.transpose(tf.stack([all_videos, positives]), [0, 2, 1])
