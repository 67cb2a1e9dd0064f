"""Whether the experts of a RoutedExpertsModel specialize: analysis of its routing.

A regime is the set of videos whose most probable expert is the same one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Routing:
    """Routing of a set of videos.

    Attributes:
        load: [experts] float64, the fraction of the videos in each expert's regime.
        load_entropy: entropy of `load`, in bits; log2(experts) if all regimes are equally large.
        certainty: mutual information of video and expert, in bits: the entropy of the mean router
            probabilities minus the mean of their entropies.
        information: mutual information of regime and category, in bits.
        shuffled_information: the same with shuffled videos: what is due to chance.
        loss: [regimes, experts] float64, the mean loss of an expert on the videos of a regime; NaN
            for an empty regime. Experts specialize if the diagonal is the lowest of each row.
    """

    load: np.ndarray
    load_entropy: float
    certainty: float
    information: float
    shuffled_information: float
    loss: np.ndarray

    @property
    def diagonal_wins(self) -> float:
        """Fraction of the nonempty regimes whose own expert has the lowest loss."""
        rows = ~np.isnan(self.loss).any(axis=1)
        return float((self.loss[rows].argmin(axis=1) == np.flatnonzero(rows)).mean())


def analyze(probabilities: np.ndarray, losses: np.ndarray, categories: np.ndarray) -> Routing:
    """Analyze the routing of some videos.

    Args:
        probabilities: [videos, experts], router probabilities.
        losses: [videos, experts], the label loss of each expert on each video.
        categories: [videos] int, a category of each video, e.g. its vertical; -1 if it has none.
    """
    num_experts = probabilities.shape[1]
    regimes = probabilities.argmax(axis=1)
    load = np.bincount(regimes, minlength=num_experts) / len(regimes)
    sums = np.zeros([num_experts, num_experts])
    np.add.at(sums, regimes, losses)
    counts = np.bincount(regimes, minlength=num_experts)[:, None]
    known = categories >= 0
    shuffled = np.random.default_rng(0).permutation(regimes[known])
    return Routing(
        load,
        entropy(load),
        entropy(probabilities.mean(axis=0)) - float(np.mean([entropy(p) for p in probabilities])),
        mutual_information(regimes[known], categories[known]),
        mutual_information(shuffled, categories[known]),
        np.where(counts > 0, sums / np.maximum(counts, 1), np.nan),
    )


def entropy(probabilities: np.ndarray) -> float:
    """Entropy in bits.

    Example:
        >>> entropy(np.array([0.5, 0.5, 0.0]))
        1.0
    """
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log2(positive)).sum())


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Mutual information in bits of two variables, from samples of integers of at least 0.

    Example: the first determines the second, which is one of two equally frequent values.
        >>> mutual_information(np.array([0, 1, 2, 3]), np.array([0, 0, 1, 1]))
        1.0
    """
    joint = np.zeros([a.max(initial=0) + 1, b.max(initial=0) + 1])
    np.add.at(joint, (a, b), 1 / max(len(a), 1))
    return entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0)) - entropy(joint.ravel())
