"""Distances between the data of two splits, or of a split and an earlier run.

The input is the splits of statistics.json. Small samples differ by chance, so the distance expected
by chance is subtracted before comparing with a threshold. TFDV's comparators do not correct for
chance, and report drift between any two small splits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trainer.common.errors import UserError

NUM_WORST = 10
STANDARD_ERRORS = 4.5  # exceeded by one of a thousand dimensions in about 1% of runs by chance


@dataclass(frozen=True)
class Thresholds:
    """Distances above which drift is reported.

    Attributes:
        label_linf: Max difference in the relative frequency of a class (L-infinity distance).
        label_js: Jensen-Shannon distance between the label distributions, base 2, 0 to 1.
        mean_shift: Max difference between the means of a dimension, in standard deviations.

    Raises:
        UserError: A threshold is negative.
    """

    label_linf: float = 0.02
    label_js: float = 0.1
    mean_shift: float = 0.25

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value >= 0:  # also rejects NaN
                raise UserError(f"max_{name} must be 0 or more; got {value:g}.")


def compare(one: dict, other: dict) -> dict:
    """Compute the distances between two splits.

    Returns:
        labels: {linf, linf_drift, js, js_drift, worst: [{class, share, other_share}]}, or None
            if a split has no labels. "_drift" values exclude the distance expected by chance.
        features: {name: {shift, shift_drift, worst: [{dimension, shift}]}}.
    """
    if not one["videos"] or not other["videos"]:
        return {"labels": None, "features": {}}
    # The labels and frames of a video are correlated, so the sample size is the number of videos.
    sampling_variance = 1 / one["videos"] + 1 / other["videos"]
    pairs = {name: (of, other["features"].get(name)) for name, of in one["features"].items()}
    return {
        "labels": compare_labels(
            np.array(one["labels"]), np.array(other["labels"]), sampling_variance
        ),
        "features": {
            name: compare_features(here, there, sampling_variance)
            for name, (here, there) in pairs.items()
            if there and len(there["mean"]) == len(here["mean"])
        },
    }


def compare_labels(one: np.ndarray, other: np.ndarray, sampling_variance: float) -> dict | None:
    """Compute the distances between label counts, [num_classes] each; None without labels.

    `sampling_variance` is 1 / num_videos of one split + 1 / num_videos of the other.
    """
    num_classes = max(len(one), len(other))
    one = np.pad(one, (0, num_classes - len(one)))
    other = np.pad(other, (0, num_classes - len(other)))
    if not one.any() or not other.any():
        return None
    p, q = one / one.sum(), other / other.sum()
    pooled = (one + other) / (one + other).sum()
    difference = np.abs(p - q)
    surplus = difference - STANDARD_ERRORS * np.sqrt(pooled * (1 - pooled) * sampling_variance)
    divergence = jensen_shannon(p, q)
    # For samples of one distribution, 8 ln 2 / sampling_variance times this is about chi-squared.
    freedom = np.count_nonzero(pooled) - 1
    by_chance = (
        (freedom + STANDARD_ERRORS * np.sqrt(2 * freedom)) * sampling_variance / 8 / np.log(2)
    )
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
    """Jensen-Shannon divergence of two distributions in bits, 0 to 1 (Lin 1991)."""
    middle = (p + q) / 2
    return float(max(_kullback_leibler(p, middle) + _kullback_leibler(q, middle), 0) / 2)


def _kullback_leibler(p: np.ndarray, q: np.ndarray) -> float:
    present = p > 0
    return float(np.sum(p[present] * np.log2(p[present] / q[present])))


def compare_features(one: dict, other: dict, sampling_variance: float) -> dict:
    """Compute the distances between the means of a feature; arguments as `compare_labels`."""
    difference = np.abs(np.array(one["mean"]) - np.array(other["mean"]))
    std = np.sqrt((np.array(one["std"]) ** 2 + np.array(other["std"]) ** 2) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(difference > 0, difference / std, 0.0)  # inf for two different constants
    shift = np.minimum(shift, 1e9)  # JSON has no infinity
    surplus = shift - STANDARD_ERRORS * np.sqrt(sampling_variance)
    worst = np.argsort(-shift, kind="stable")[:NUM_WORST]
    return {
        "shift": float(shift.max()),
        "shift_drift": float(max(surplus.max(), 0)),
        "worst": [{"dimension": int(i), "shift": float(shift[i])} for i in worst],
    }


def find(comparison: dict, thresholds: Thresholds, class_names: list[str]) -> Iterator[tuple]:
    """Yield (kind of finding, reason) for each distance above its threshold."""
    labels = comparison["labels"]
    if labels and labels["linf_drift"] > thresholds.label_linf:
        worst = labels["worst"][0]
        yield (
            "label_drift",
            f"the relative frequency of {class_names[worst['class']]!r} is {worst['share']:.2%}, "
            f"compared with {worst['other_share']:.2%}",
        )
    if labels and labels["js_drift"] > thresholds.label_js:
        names = ", ".join(repr(class_names[row["class"]]) for row in labels["worst"][:5])
        yield (
            "label_drift",
            f"the Jensen-Shannon distance of the labels is {labels['js']:.3f}, "
            f"{_by_chance(labels):.3f} of it expected by chance; most different: {names}",
        )
    for name, feature in comparison["features"].items():
        if feature["shift_drift"] > thresholds.mean_shift:
            worst = ", ".join(
                f"{row['shift']:.3g} (dimension {row['dimension']})" for row in feature["worst"][:5]
            )
            yield (
                "feature_drift",
                f"the mean of {name!r} has shifted by {worst} standard deviations",
            )


def _by_chance(labels: dict) -> float:
    return np.sqrt(max(labels["js"] ** 2 - labels["js_drift"] ** 2, 0))
