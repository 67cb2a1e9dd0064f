"""How far the data of one split is from that of another, or of an earlier run.

Works on the splits of statistics.json. Few videos differ by chance alone: what chance explains is
taken off before a distance is held against its threshold.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trainer.common.errors import UserError

NUM_WORST = 10
STANDARD_ERRORS = 4.5  # so far apart are two of a thousand dimensions by chance in one of 100 runs


@dataclass(frozen=True)
class Thresholds:
    """The distance from which on there is drift.

    Attributes:
        label_linf: Largest difference of a class's share of all labels.
        label_js: Jensen-Shannon distance of the labels, base 2: 0 (the same) to 1.
        mean_shift: Difference of a dimension's means, in standard deviations.

    Raises:
        UserError: one of them is negative.
    """

    label_linf: float = 0.02
    label_js: float = 0.1
    mean_shift: float = 0.25

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value >= 0:  # NaN neither
                raise UserError(f"max_{name} must be 0 or more; got {value:g}.")


def compare(one: dict, other: dict) -> dict:
    """Distances between two splits; what chance explains is taken off those that end in "_drift".

    Returns:
        labels: {linf, linf_drift, js, js_drift, worst: [{class, share, other_share}]}, or None
            where a split has no labels.
        features: {name: {shift, shift_drift, worst: [{dimension, shift}]}}.
    """
    if not one["videos"] or not other["videos"]:
        return {"labels": None, "features": {}}
    # Labels of a video hang together, as do its frames: it is videos that are drawn by chance.
    spread = 1 / one["videos"] + 1 / other["videos"]
    pairs = {name: (of, other["features"].get(name)) for name, of in one["features"].items()}
    return {
        "labels": compare_labels(np.array(one["labels"]), np.array(other["labels"]), spread),
        "features": {
            name: compare_features(here, there, spread)
            for name, (here, there) in pairs.items()
            if there and len(there["mean"]) == len(here["mean"])
        },
    }


def compare_labels(one: np.ndarray, other: np.ndarray, spread: float) -> dict | None:
    """Distances between label counts, [classes] each; None: there are none.

    `spread` is 1 / videos of the one + 1 / videos of the other.
    """
    num_classes = max(len(one), len(other))
    one = np.pad(one, (0, num_classes - len(one)))
    other = np.pad(other, (0, num_classes - len(other)))
    if not one.any() or not other.any():
        return None
    p, q = one / one.sum(), other / other.sum()
    pooled = (one + other) / (one + other).sum()
    difference = np.abs(p - q)
    surplus = difference - STANDARD_ERRORS * np.sqrt(pooled * (1 - pooled) * spread)
    divergence = jensen_shannon(p, q)
    # Of samples of one distribution it is, times 8 ln 2 / spread, close to chi-squared.
    freedom = np.count_nonzero(pooled) - 1
    by_chance = (freedom + STANDARD_ERRORS * np.sqrt(2 * freedom)) * spread / 8 / np.log(2)
    worst = np.argsort(-difference, kind="stable")[:NUM_WORST]
    return {
        "linf": float(difference.max()),
        "linf_drift": float(max(surplus.max(), 0)),
        "js": float(np.sqrt(divergence)),
        "js_drift": float(np.sqrt(max(divergence - by_chance, 0))),
        "worst": [
            {"class": int(i), "share": float(p[i]), "other_share": float(q[i])} for i in worst
        ],
    }


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon divergence of two distributions, in bits: 0 to 1. Lin 1991."""
    middle = (p + q) / 2
    return float(max(_kullback_leibler(p, middle) + _kullback_leibler(q, middle), 0) / 2)


def _kullback_leibler(p: np.ndarray, q: np.ndarray) -> float:
    present = p > 0
    return float(np.sum(p[present] * np.log2(p[present] / q[present])))


def compare_features(one: dict, other: dict, spread: float) -> dict:
    """Distances between the means of a feature; `spread` as for labels."""
    difference = np.abs(np.array(one["mean"]) - np.array(other["mean"]))
    std = np.sqrt((np.array(one["std"]) ** 2 + np.array(other["std"]) ** 2) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(difference > 0, difference / std, 0.0)  # inf: two different constants
    shift = np.minimum(shift, 1e9)  # JSON has no infinity
    surplus = shift - STANDARD_ERRORS * np.sqrt(spread)
    worst = np.argsort(-shift, kind="stable")[:NUM_WORST]
    return {
        "shift": float(shift.max()),
        "shift_drift": float(max(surplus.max(), 0)),
        "worst": [{"dimension": int(i), "shift": float(shift[i])} for i in worst],
    }


def find(comparison: dict, thresholds: Thresholds, class_names: list[str]) -> Iterator[tuple]:
    """(kind of finding, what was found) for each distance beyond its threshold."""
    labels = comparison["labels"]
    if labels and labels["linf_drift"] > thresholds.label_linf:
        worst = labels["worst"][0]
        yield (
            "label_drift",
            f"the share of {class_names[worst['class']]!r} is {worst['share']:.2%}, "
            f"against {worst['other_share']:.2%}",
        )
    if labels and labels["js_drift"] > thresholds.label_js:
        names = ", ".join(repr(class_names[row["class"]]) for row in labels["worst"][:5])
        yield (
            "label_drift",
            f"Jensen-Shannon distance of the labels {labels['js']:.3f}, by chance alone "
            f"{_by_chance(labels):.3f}; most different: {names}",
        )
    for name, feature in comparison["features"].items():
        if feature["shift_drift"] > thresholds.mean_shift:
            worst = ", ".join(
                f"{row['dimension']} by {row['shift']:.3g}" for row in feature["worst"][:5]
            )
            yield (
                "feature_drift",
                f"the mean of {name!r} has shifted in dimension {worst} standard deviations",
            )


def _by_chance(labels: dict) -> float:
    return np.sqrt(max(labels["js"] ** 2 - labels["js_drift"] ** 2, 0))
